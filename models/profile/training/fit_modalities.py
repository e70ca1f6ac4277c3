"""Fits the modality layers (models/profile/modality_layers.py) after the trunk, and keeps those
that help.

A window's modality vectors are added to the state before the first event of the user's next window.
They help if they improve the prediction of that event. Modalities are tried one after the other,
each together with those kept before it. Half of the validation users select the best epoch, the
other half (the holdout) decides. A modality is kept if its holdout loss is lower than without it,
and lower than with the same vectors shuffled among the windows. The shuffled control rules out
gains that carry no information about a window, such as a correction of the trunk's biases. The
whole 95 % interval over users (models/profile/evaluation/intervals.py) of both differences must lie
below 0. A refit fits those that were kept, each for its best number of epochs.

Shape suffixes: B samples of a batch, M of them with a named item, N samples of all batches, K
windows that have a vector, C categories, I items, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liveprofile.events.modalities import Modality
from liveprofile.progress import Progress
from models.profile.data.batched_inference import TrunkOutput, run_trunk
from models.profile.data.examples import Corpus
from models.profile.data.training_rows import Streams
from models.profile.evaluation.intervals import UserBootstrap
from models.profile.modality_layers import Fusion, ModalityInputs, ModalityRows
from models.profile.model_card import ModalityTrial
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe
from models.profile.training.losses import (
    ItemTargets,
    item_logits,
    learning_rate_schedule,
    ndcg_at_10,
)
from models.profile.user_features import RepeatCounts

if TYPE_CHECKING:
    from models.profile.data.prepared import Split

MIN_EPOCHS, MIN_STEPS = 8, 1_000
LEARNING_RATE = 3e-2
MAX_TRAIN_WINDOWS = 50_000  # and a fifth of them from validation
MIN_WINDOWS = 100  # in each part of a FusionSplit; fewer cannot show a difference
DECIMALS = 4


class FusionBatch(NamedTuple):
    """Windows and the first event of the user's next window."""

    window_B: np.ndarray
    user_B: np.ndarray
    state_BD: np.ndarray  # before that event, float32
    category_repeat_counts: RepeatCounts
    item_repeat_counts: RepeatCounts
    category_B: np.ndarray  # vocabulary rows of that event
    item_B: np.ndarray
    modality_inputs: ModalityInputs  # of the windows


class FusionSplit(NamedTuple):
    train: list[FusionBatch]
    validation: list[FusionBatch]  # selects the epoch
    holdout: list[FusionBatch]  # decides whether the modality is kept


class HeldOutLosses(NamedTuple):
    """Loss and category NDCG@10 of each sample."""

    loss_N: Tensor
    ndcg_N: Tensor


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
    if chosen is not None:
        for trial in chosen:
            if trial.kept:
                model.fusion = _refit(model, corpus, trial, split, recipe, random, on_progress)
        return chosen
    vectors, trials = corpus.streams.window_vectors, []
    for modality in sorted(vectors, key=lambda name: (-len(vectors[name].row_K), name)):
        windows = _split_windows(corpus.streams, modality, split, random)
        if min(map(len, windows)) < MIN_WINDOWS:
            continue
        trial, fusion = _try_modality(model, corpus, modality, windows, recipe, random, on_progress)
        trials.append(trial)
        if trial.kept:
            model.fusion = fusion
    return trials


def _windows_with_next(streams: Streams, modality: Modality) -> np.ndarray:
    """Windows with a vector of the modality whose user has a later window."""
    window_K = streams.window_vectors[modality].window_K
    window_K = window_K[window_K + 1 < len(streams.user_W)]
    return window_K[streams.user_W[window_K] == streams.user_W[window_K + 1]]


def _split_windows(
    streams: Streams, modality: Modality, split: Split, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The windows of FusionSplit, by the split of their next window."""
    windows = random.permutation(_windows_with_next(streams, modality))
    train = windows[np.isin(windows + 1, split.train)][:MAX_TRAIN_WINDOWS]
    held_out = windows[np.isin(windows + 1, split.validation)][: MAX_TRAIN_WINDOWS // 5]
    even_user = streams.user_W[held_out] % 2 == 0
    return train, held_out[even_user], held_out[~even_user]


def _batches(
    model: BehaviourTransformer,
    corpus: Corpus,
    windows: np.ndarray,
    recipe: Recipe,
    modalities: tuple[Modality, ...],
) -> list[FusionBatch]:
    return [
        _batch(output, corpus.streams, modalities)
        for output in run_trunk(model, corpus, windows + 1, recipe)
    ]


def _batch(output: TrunkOutput, streams: Streams, modalities: tuple[Modality, ...]) -> FusionBatch:
    """`output`: of the trunk on the windows that follow those of the batch."""
    scored_N = np.flatnonzero(output.sequences.scored_N)
    first_B = scored_N[np.diff(output.sequences.row_N[scored_N], prepend=-1) > 0]
    batch, window_B = output.batch, output.windows - 1
    return FusionBatch(
        window_B,
        streams.user_W[window_B],
        output.h_PD[torch.from_numpy(batch.flat_position_N[first_B] - 1)].numpy(),
        batch.category_repeat_counts,
        batch.item_repeat_counts,
        batch.category_N[first_B].astype(np.int64),
        batch.item_N[first_B].astype(np.int64),
        {
            modality: ModalityRows(*streams.window_vectors[modality].select(window_B))
            for modality in modalities
        },
    )


def _try_modality(
    model: BehaviourTransformer,
    corpus: Corpus,
    modality: Modality,
    windows: tuple[np.ndarray, ...],
    recipe: Recipe,
    random: np.random.Generator,
    on_progress: Progress,
) -> tuple[ModalityTrial, Fusion]:
    """Returns the trial and the model's fusion with the modality added."""
    modalities = (*model.fusion.modalities, modality)
    data = FusionSplit(*(_batches(model, corpus, part, recipe, modalities) for part in windows))
    shuffled = corpus.streams.window_vectors[modality].shuffled(random)

    def with_shuffled_vectors(batch: FusionBatch) -> FusionBatch:
        rows = ModalityRows(*shuffled.select(batch.window_B))
        return batch._replace(modality_inputs={**batch.modality_inputs, modality: rows})

    def fit_and_evaluate(data: FusionSplit, stage: str) -> tuple[Fusion, int, HeldOutLosses]:
        fusion, epoch = _fit(
            model, modality, data, recipe, lambda done, total: on_progress(stage, done, total)
        )
        return fusion, epoch, _held_out_losses(model, fusion, data.holdout, recipe)

    fusion, epoch, losses = fit_and_evaluate(data, f"fuse {modality.name}")
    losses_without = _held_out_losses(model, model.fusion, data.holdout, recipe)
    bootstrap = _user_bootstrap(data.holdout)
    metrics = {
        "train_windows": len(windows[0]),
        "epoch": epoch,
        **_compare(losses, losses_without, bootstrap),
    }
    kept = metrics["loss_difference_without"][2] < 0
    if kept:
        control = FusionSplit(*([with_shuffled_vectors(batch) for batch in part] for part in data))
        *_, control_losses = fit_and_evaluate(control, f"fuse {modality.name}, shuffled")
        metrics |= _compare(losses, control_losses, bootstrap, "dealt_anew")
        kept = metrics["loss_difference_dealt_anew"][2] < 0
    return ModalityTrial(**modality._asdict(), kept=kept, metrics=metrics), fusion


def _refit(
    model: BehaviourTransformer,
    corpus: Corpus,
    trial: ModalityTrial,
    split: Split,
    recipe: Recipe,
    random: np.random.Generator,
    on_progress: Progress,
) -> Fusion:
    """The model's fusion with the modality of a trial, fitted for the trial's number of epochs."""
    modality = Modality(trial.name, trial.numbers)
    windows = _split_windows(corpus.streams, modality, split, random)[0]
    modalities = (*model.fusion.modalities, modality)
    data = FusionSplit(_batches(model, corpus, windows, recipe, modalities), [], [])
    fusion = _with_zeros(model, modality)
    epochs = _epochs(
        model,
        fusion,
        data.train,
        recipe,
        lambda done, total: on_progress(f"fuse {modality.name}", done, total),
    )
    for epoch in epochs:
        if epoch == trial.metrics["epoch"]:
            break
    return fusion.requires_grad_(False)


def _with_zeros(model: BehaviourTransformer, modality: Modality) -> Fusion:
    """The model's fusion with one more modality, whose weights are zeros and can be trained."""
    fusion = Fusion(model.shape.dim, [*model.fusion.modalities, modality])
    fusion.load_state_dict(model.fusion.state_dict(), strict=False)
    fusion.requires_grad_(False).weights[-1].requires_grad_(True)
    return fusion


def _fit(
    model: BehaviourTransformer,
    modality: Modality,
    data: FusionSplit,
    recipe: Recipe,
    on_progress: Callable[[int, int], None],
) -> tuple[Fusion, int]:
    """The model's fusion with one more modality, whose weights are those of the best epoch.

    The weights are zeros, and the epoch 0, if no epoch improves the validation loss.
    """
    fusion = _with_zeros(model, modality)
    weight = fusion.weights[-1]
    best_loss, best_epoch, best_weight = math.inf, 0, weight.detach().clone()
    for epoch in _epochs(model, fusion, data.train, recipe, on_progress):
        validation = _held_out_losses(model, fusion, data.validation, recipe)
        validation_loss = validation.loss_N.mean().item()
        if validation_loss < best_loss:
            best_loss, best_epoch, best_weight = validation_loss, epoch, weight.detach().clone()
    with torch.no_grad():
        weight.copy_(best_weight)
    return fusion.requires_grad_(False), best_epoch


def _epochs(
    model: BehaviourTransformer,
    fusion: Fusion,
    train: list[FusionBatch],
    recipe: Recipe,
    on_progress: Callable[[int, int], None],
) -> Iterator[int]:
    """Trains the newest weights of `fusion`; yields how many epochs are done: 0, 1 and so on."""
    weight = fusion.weights[-1]
    optimizer = torch.optim.AdamW([weight], lr=LEARNING_RATE, weight_decay=recipe.weight_decay)
    steps_per_epoch = len(train)
    epochs = max(MIN_EPOCHS, math.ceil(MIN_STEPS / steps_per_epoch))
    steps = epochs * steps_per_epoch
    random, step = np.random.default_rng(recipe.seed), 0
    for epoch in range(epochs):
        yield epoch
        on_progress(epoch, epochs)
        for index in random.permutation(steps_per_epoch):
            factor = learning_rate_schedule(step, steps, recipe.warm_up_share)
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * factor
            loss_B, _ = _losses(model, fusion, train[index], recipe)
            optimizer.zero_grad(set_to_none=True)
            loss_B.mean().backward()
            torch.nn.utils.clip_grad_norm_([weight], recipe.clip_norm)
            optimizer.step()
            step += 1
    yield epochs
    on_progress(epochs, epochs)


def _user_bootstrap(batches: list[FusionBatch]) -> UserBootstrap:
    return UserBootstrap(np.concatenate([batch.user_B for batch in batches]))


def _compare(
    first: HeldOutLosses, second: HeldOutLosses, bootstrap: UserBootstrap, name: str = "without"
) -> dict[str, Any]:
    """Both means and the interval of first minus second; `name` is the second's in the keys."""
    metrics: dict[str, Any] = {"windows": len(first.loss_N)}
    for metric, first_N, second_N in (
        ("loss", first.loss_N, second.loss_N),
        ("category_ndcg_at_10", first.ndcg_N, second.ndcg_N),
    ):
        metrics[metric] = round(first_N.mean().item(), DECIMALS)
        metrics[f"{metric}_{name}"] = round(second_N.mean().item(), DECIMALS)
        interval = bootstrap.mean(first_N.numpy(), second_N.numpy())
        metrics[f"{metric}_difference_{name}"] = [round(value, DECIMALS) for value in interval]
    return metrics


def _held_out_losses(
    model: BehaviourTransformer, fusion: Fusion, batches: list[FusionBatch], recipe: Recipe
) -> HeldOutLosses:
    with torch.no_grad():
        losses = [_losses(model, fusion, batch, recipe) for batch in batches]
    return HeldOutLosses(*map(torch.cat, zip(*losses, strict=True)))


def _losses(
    model: BehaviourTransformer, fusion: Fusion, batch: FusionBatch, recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """(B,) loss and (B,) category NDCG@10.

    The loss has the trainer's terms that read the state after a window: category and item.
    """
    rows, shape = len(batch.state_BD), model.shape
    h_BD = torch.from_numpy(batch.state_BD) + fusion(batch.modality_inputs, rows)
    category_count_BC = torch.from_numpy(
        batch.category_repeat_counts.dense(rows, shape.category_rows)
    )
    category_BC = model.category_logits(h_BD, category_count_BC)
    category_B = torch.from_numpy(batch.category_B)
    loss_B = recipe.weight_category * F.cross_entropy(category_BC, category_B, reduction="none")

    named_M = torch.from_numpy(np.flatnonzero((batch.item_B > 0) & (batch.item_B <= shape.items)))
    item_M = torch.from_numpy(batch.item_B)[named_M] - 1
    item_count_BI = torch.from_numpy(batch.item_repeat_counts.dense(rows, 1 + shape.items)[:, 1:])
    items = ItemTargets(item_M, item_count_BI, named_M, None, torch.empty(0))
    item_MI = item_logits(model, h_BD[named_M], items)
    item_loss_M = F.cross_entropy(item_MI, item_M, reduction="none")
    loss_B = loss_B.index_add(0, named_M, recipe.weight_item * item_loss_M)
    return loss_B, ndcg_at_10(category_BC.detach(), category_B)
