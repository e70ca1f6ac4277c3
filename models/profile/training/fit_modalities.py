"""Fits the modality layers (models/profile/network.py) after the trunk, and keeps those
that help.

A window's modality vectors are added to the state before the first event of the user's next window.
They help if they improve the prediction of that event. Modalities are tried one after the other,
each together with those kept before it. Half of the validation users select the best epoch, the
other half (the holdout) decides. A modality is kept if its holdout loss is lower than without it,
and lower than with the same vectors shuffled among the windows, which rules out gains that tell
nothing about a window, such as a correction of the trunk's biases. The whole 95 % interval over
users (models/profile/evaluation/intervals.py) of both differences must lie below 0. A refit fits
those that were kept, each for its best number of epochs.

Shape suffixes: B samples of a batch, M of them with a named item, N samples of all batches, K
windows that have a vector, C categories, I items, D model width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from liveprofile.events.modalities import Modality
from liveprofile.progress import Progress
from models.profile.data.examples import Corpus, run_trunk
from models.profile.data.prepared import Split
from models.profile.data.training_rows import Streams, WindowVectors
from models.profile.evaluation.intervals import UserBootstrap
from models.profile.model_card import ModalityTrial
from models.profile.network import BehaviourTransformer, Fusion, ModalityInputs, ModalityRows
from models.profile.recipes import Recipe
from models.profile.training.losses import ItemTargets, item_logits, train_epochs

MIN_EPOCHS, MIN_STEPS = 8, 1_000
LEARNING_RATE = 3e-2
MAX_TRAIN_WINDOWS = 50_000  # and a fifth of them from validation
MIN_WINDOWS = 100  # in each part; fewer cannot show a difference
DECIMALS = 4


class FusionBatch(NamedTuple):
    """Windows and the first event of the user's next window."""

    window_B: np.ndarray
    state_BD: np.ndarray  # before that event, float32
    category_repeat_counts: csr_array
    item_repeat_counts: csr_array
    category_B: np.ndarray  # vocabulary rows of that event
    item_B: np.ndarray
    modality_inputs: ModalityInputs  # of the windows


def fit(
    model: BehaviourTransformer,
    corpus: Corpus,
    split: Split,
    recipe: Recipe,
    on_progress: Progress = lambda *_: None,
    chosen: list[ModalityTrial] | None = None,
) -> list[ModalityTrial]:
    """Sets `model.fusion` to the modalities that help and returns the result of every trial.

    `chosen`: the trials of an earlier fit, which are repeated and returned.
    """
    random = np.random.default_rng(recipe.seed)
    model.fusion = Fusion(model.shape.dim)
    fitter = _Fitter(model, corpus, recipe, on_progress)
    vectors, trials = corpus.streams.window_vectors, []
    if chosen is not None:
        for trial in chosen:
            if trial.kept:
                modality = Modality(trial.name, trial.numbers)
                windows = _split_windows(corpus.streams, modality, split, random)[:1]
                model.fusion = fitter.refit(modality, windows, trial.metrics["epoch"])
        return chosen
    for modality in sorted(vectors, key=lambda name: (-len(vectors[name].row_K), name)):
        windows = _split_windows(corpus.streams, modality, split, random)
        if min(map(len, windows)) >= MIN_WINDOWS:
            trial, fusion = fitter.attempt(modality, windows, vectors[modality].shuffled(random))
            trials.append(trial)
            if trial.kept:
                model.fusion = fusion
    return trials


def _split_windows(
    streams: Streams, modality: Modality, split: Split, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows that train, choose the epoch, and decide, by the split of their user's next one."""
    window_K = streams.window_vectors[modality].window_K
    window_K = window_K[window_K + 1 < len(streams.user_W)]
    has_next_K = streams.user_W[window_K] == streams.user_W[window_K + 1]
    windows = random.permutation(window_K[has_next_K])
    train = windows[np.isin(windows + 1, split.train)][:MAX_TRAIN_WINDOWS]
    held_out = windows[np.isin(windows + 1, split.validation)][: MAX_TRAIN_WINDOWS // 5]
    even_user = streams.user_W[held_out] % 2 == 0
    return train, held_out[even_user], held_out[~even_user]


class _Fitter:
    def __init__(
        self, model: BehaviourTransformer, corpus: Corpus, recipe: Recipe, on_progress: Progress
    ):
        self.model, self.corpus, self.recipe = model, corpus, recipe
        self.on_progress = on_progress

    def attempt(
        self, modality: Modality, windows: tuple[np.ndarray, ...], shuffled: WindowVectors
    ) -> tuple[ModalityTrial, Fusion]:
        """The trial of a modality, and the model's fusion with it added."""
        parts = [self._batches(part, modality) for part in windows]
        train, validation, holdout = parts
        fusion, epoch = self._fit(modality, train, validation)
        loss_N = self._held_out(fusion, holdout)
        window_N = np.concatenate([batch.window_B for batch in holdout])
        bootstrap = UserBootstrap(self.corpus.streams.user_W[window_N])
        metrics = {
            "train_windows": len(windows[0]),
            "epoch": epoch,
            "windows": len(loss_N),
            "loss": round(loss_N.mean().item(), DECIMALS),
        }

        def is_better(name: str, control_N: Tensor) -> bool:
            """Adds the control's mean and the interval of the difference to the metrics."""
            interval = bootstrap.mean(loss_N.numpy(), control_N.numpy())
            metrics[f"loss_{name}"] = round(control_N.mean().item(), DECIMALS)
            metrics[f"loss_difference_{name}"] = [round(value, DECIMALS) for value in interval]
            return interval.high < 0

        kept = is_better("without", self._held_out(self.model.fusion, holdout))
        if kept:
            train, validation, holdout = (
                [_with_vectors(batch, modality, shuffled) for batch in part] for part in parts
            )
            control, _ = self._fit(modality, train, validation)
            kept = is_better("shuffled", self._held_out(control, holdout))
        return ModalityTrial(**modality._asdict(), kept=kept, metrics=metrics), fusion

    def refit(self, modality: Modality, windows: tuple[np.ndarray], epoch: int) -> Fusion:
        """The model's fusion with the modality, fitted for a number of epochs."""
        fusion = self._with_zeros(modality)
        train = self._batches(windows[0], modality)
        list(itertools.islice(self._epochs(fusion, train, modality), epoch))
        return fusion.requires_grad_(False)

    def _fit(
        self, modality: Modality, train: list[FusionBatch], validation: list[FusionBatch]
    ) -> tuple[Fusion, int]:
        """The model's fusion with one more modality, whose weights are those of the best epoch.

        The weights are zeros, and the epoch 0, if no epoch improves the validation loss.
        """
        fusion = self._with_zeros(modality)
        weight = fusion.weights[-1]
        best = self._held_out(fusion, validation).mean(), 0, weight.detach().clone()
        for epoch in self._epochs(fusion, train, modality):
            validation_loss = self._held_out(fusion, validation).mean()
            if validation_loss < best[0]:
                best = validation_loss, epoch, weight.detach().clone()
        with torch.no_grad():
            weight.copy_(best[2])
        return fusion.requires_grad_(False), best[1]

    def _with_zeros(self, modality: Modality) -> Fusion:
        """The model's fusion with one more modality, whose weights are zeros and can be trained."""
        fusion = Fusion(self.model.shape.dim, [*self.model.fusion.modalities, modality])
        fusion.load_state_dict(self.model.fusion.state_dict(), strict=False)
        fusion.requires_grad_(False).weights[-1].requires_grad_(True)
        return fusion

    def _epochs(
        self, fusion: Fusion, train: list[FusionBatch], modality: Modality
    ) -> Iterator[int]:
        """Trains the newest weights of `fusion`."""
        weight, random = fusion.weights[-1], np.random.default_rng(self.recipe.seed)
        epochs = max(MIN_EPOCHS, math.ceil(MIN_STEPS / len(train)))
        for epoch in train_epochs(
            torch.optim.AdamW([weight], weight_decay=self.recipe.weight_decay),
            LEARNING_RATE,
            self.recipe,
            epochs,
            lambda: [train[index] for index in random.permutation(len(train))],
            lambda batch: self._losses(fusion, batch).mean(),
        ):
            self.on_progress(f"fuse {modality.name}", epoch, epochs)
            yield epoch

    def _held_out(self, fusion: Fusion, batches: list[FusionBatch]) -> Tensor:
        """(N,) losses."""
        with torch.no_grad():
            return torch.cat([self._losses(fusion, batch) for batch in batches])

    def _losses(self, fusion: Fusion, batch: FusionBatch) -> Tensor:
        """(B,) losses: the trainer's terms that read the state after a window."""
        model, recipe = self.model, self.recipe
        rows, shape = len(batch.state_BD), model.shape
        state_BD, category_B, item_B = map(
            torch.from_numpy, (batch.state_BD, batch.category_B, batch.item_B)
        )
        h_BD = state_BD + fusion(batch.modality_inputs, rows)
        category_count_BC = torch.from_numpy(batch.category_repeat_counts.toarray())
        category_BC = model.category_logits(h_BD, category_count_BC)
        category_loss_B = F.cross_entropy(category_BC, category_B, reduction="none")
        named_M = ((item_B > 0) & (item_B <= shape.items)).nonzero().squeeze(1)
        item_M = item_B[named_M] - 1
        item_count_BI = batch.item_repeat_counts.toarray()[:, 1 : 1 + shape.items]
        items = ItemTargets(item_M, torch.from_numpy(item_count_BI), named_M, None, torch.empty(0))
        item_MI = item_logits(model, h_BD[named_M], items)
        item_loss_M = F.cross_entropy(item_MI, item_M, reduction="none")
        loss_B = recipe.weight_category * category_loss_B
        return loss_B.index_add(0, named_M, recipe.weight_item * item_loss_M)

    def _batches(self, windows: np.ndarray, modality: Modality) -> list[FusionBatch]:
        """The windows with the vectors of the model's modalities and one more."""
        streams, batches = self.corpus.streams, []
        for output in run_trunk(self.model, self.corpus, windows + 1, self.recipe):
            batch, scored_N = output.batch, np.flatnonzero(output.sequences.scored_N)
            first_B = scored_N[np.diff(output.sequences.row_N[scored_N], prepend=-1) > 0]
            window_B = output.windows - 1
            batches.append(
                FusionBatch(
                    window_B,
                    output.h_PD[torch.from_numpy(batch.flat_position_N[first_B] - 1)].numpy(),
                    batch.category_repeat_counts,
                    batch.item_repeat_counts,
                    batch.category_N[first_B].astype(np.int64),
                    batch.item_N[first_B].astype(np.int64),
                    {
                        each: ModalityRows(*streams.window_vectors[each].select(window_B))
                        for each in (*self.model.fusion.modalities, modality)
                    },
                )
            )
        return batches


def _with_vectors(batch: FusionBatch, modality: Modality, vectors: WindowVectors) -> FusionBatch:
    rows = ModalityRows(*vectors.select(batch.window_B))
    return batch._replace(modality_inputs={**batch.modality_inputs, modality: rows})
