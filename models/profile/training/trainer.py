"""The training loop: sampling, steps, validation, early stopping and saved state.

The optimizer is AdamW (arXiv:1711.05101). The loss is in models/profile/training/losses.py.

A model can also learn the outputs of a teacher. A small model then comes close to a large one
(distillation: Hinton et al. 2015, arXiv:1503.02531), and a model that continues training on newer
rows keeps its earlier knowledge (Li and Hoiem 2016, arXiv:1606.09282).

Shape suffixes as in models/profile/training/losses.py; B windows of a batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveprofile.errors import InputError
from liveprofile.progress import Progress
from models.profile.data.examples import (
    BATCH_ROWS,
    Sequences,
    augment,
    build_batch,
    slice_sequences,
)
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe
from models.profile.training.distributed import ProcessGroup
from models.profile.training.losses import (
    DISTILLED,
    LOSS_TERMS,
    ItemTargets,
    PredictionTargets,
    learning_rate_schedule,
    ndcg_at_10,
    ranks,
    target_logits,
    weighted_loss,
)
from models.profile.training.training_state import StateFile

if TYPE_CHECKING:
    from models.profile.data.prepared import PreparedData

# The attributes of a Trainer that its saved state keeps.
PROGRESS = ("curves", "best_epoch", "best_weights")
METRICS = ("category_ndcg_at_10", "item_ndcg_at_10")


class Trainer:
    """One training: model, optimizer, random generator and progress."""

    def __init__(
        self,
        recipe: Recipe,
        model: BehaviourTransformer,
        data: PreparedData,
        processes: ProcessGroup,
    ):
        self.recipe, self.processes = recipe, processes
        self.teacher = data.teacher and data.teacher.model.to(processes.device)
        self.corpus, self.split = data.corpus, data.split
        self.random = np.random.default_rng(recipe.seed)
        self.item_share_I = data.item_counts / data.item_counts.sum()
        self.log_q_I = self._tensor(np.log(self.item_share_I)).float()
        windows_per_epoch = min(recipe.windows_per_epoch, len(self.split.train))
        self.steps_per_epoch = math.ceil(windows_per_epoch / recipe.batch_rows)
        self.epochs = recipe.epochs
        self.steps = self.steps_per_epoch * recipe.epochs  # of the learning rate's schedule
        smallest_batch = windows_per_epoch // self.steps_per_epoch
        if smallest_batch < processes.size:
            raise InputError(
                f"recipe {recipe.name}: batches of {smallest_batch} windows are too small for"
                f" {processes.size} processes"
            )
        self.model = model.to(processes.device)
        self.loss_terms = processes.wrap(_LossModule(model, self._losses))
        matrices = [p for p in model.parameters() if p.ndim == 2 and p is not model.table]
        others = [p for p in model.parameters() if p.ndim != 2 or p is model.table]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": recipe.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
        )
        self.curves, self.best_epoch, self.best_weights = [], 0, {}

    def run(
        self,
        state: StateFile | None,
        on_progress: Progress,
        on_note: Callable[[str], None],
        on_epoch: Callable[[int, float], None],
        epochs: int | None = None,
    ) -> None:
        """Trains until the validation loss has not improved for `patience` epochs.

        The model then has the weights of the best epoch, or of the last one without validation
        windows. `epochs` stops earlier, at the same learning rates. Raises InputError if the loss
        is not finite.
        """
        recipe = self.recipe
        if epochs is not None:
            self.epochs = min(epochs, recipe.epochs)
        validation = self._sample(self.split.validation, recipe.validation_windows)
        if state:
            self._resume(state, on_note)
        while (
            len(self.curves) < self.epochs and len(self.curves) - self.best_epoch < recipe.patience
        ):
            start_s, epoch = time.monotonic(), len(self.curves) + 1
            training_values = self._train_epoch(on_progress)
            validation_values = self._validate(validation)
            loss = validation_values["validation_loss"]
            on_epoch(epoch, loss)
            if not math.isfinite(loss):
                raise InputError(
                    f"recipe {recipe.name}: the loss is {loss} after epoch {epoch}; a lower"
                    " learning_rate may help"
                )
            first = not self.curves or not len(validation)
            if first or loss < self.curves[self.best_epoch - 1]["validation_loss"]:
                self.best_epoch = epoch
                self.best_weights = {k: v.clone() for k, v in self.model.state_dict().items()}
            times = {"epoch": epoch, "seconds": time.monotonic() - start_s}
            self.curves.append({**times, **training_values, **validation_values})
            if state and self.processes.is_main:
                state.write(self._state())
        self.model.load_state_dict(self.best_weights)
        self.model.cpu().eval().requires_grad_(False)

    def seconds(self) -> float:
        return round(sum(row["seconds"] for row in self.curves), 1)

    def _train_epoch(self, on_progress: Progress) -> dict[str, float]:
        """Means of the loss and of its terms."""
        windows = self._sample(self.split.train, self.recipe.windows_per_epoch)
        done, totals = len(self.curves) * self.steps_per_epoch, {}
        for step, part in enumerate(np.array_split(windows, self.steps_per_epoch), done):
            for name, value in self._step(part, step).items():
                totals[name] = totals.get(name, 0.0) + value / self.steps_per_epoch
            on_progress("train", step + 1, self.steps_per_epoch * self.epochs)
        return {name: total.item() for name, total in totals.items()}

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "numpy_random": self.random.bit_generator.state,
            "torch_random": torch.get_rng_state(),
            "progress": {name: getattr(self, name) for name in PROGRESS},
        }

    def _resume(self, state: StateFile, on_note: Callable[[str], None]) -> None:
        saved = self.processes.broadcast(state.read)
        if saved is None:
            return
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.random.bit_generator.state = saved["numpy_random"]
        torch.set_rng_state(saved["torch_random"])
        vars(self).update(saved["progress"])
        if self.processes.is_main:
            on_note(f"resuming after epoch {len(self.curves)} of {self.epochs}, from {state.file}")

    def _sample(self, windows: np.ndarray, size: int) -> np.ndarray:
        return self.random.permutation(windows)[:size]

    def _step(self, windows: np.ndarray, step: int) -> dict[str, Tensor]:
        """One optimizer step; returns the loss and its terms, equal on every rank."""
        recipe = self.recipe
        rate = learning_rate_schedule(step, self.steps, recipe.warm_up_share)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate
        short_B = self.random.random(len(windows)) < recipe.short_history_share
        history_B = np.where(
            short_B,
            self.random.integers(0, recipe.history_windows, len(windows)),
            recipe.history_windows,
        )
        sequences = slice_sequences(self.corpus, windows, history_B, recipe.max_len, self.random)
        sequences = augment(sequences, recipe.enriched_share, recipe.max_len, self.random)
        negatives = self.random.choice(
            len(self.item_share_I), recipe.item_negatives, p=self.item_share_I
        )
        sequences = self.processes.shard(sequences)
        terms = self._batch_means(self.loss_terms(sequences, self.random, self._tensor(negatives)))
        loss = weighted_loss(recipe, terms)
        self.optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel averages gradients, but the batch loss is the ranks' sum.
        (self.processes.size * loss).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        values = {"loss": loss, **terms}
        sums = self.processes.sum(
            torch.stack([value.detach().double() for value in values.values()])
        )
        return dict(zip(values, sums, strict=True))

    def _batch_means(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """This rank's contributions to the batch means; 0 for a term without targets."""
        counts = [float(len(loss_N)) for loss_N in losses.values()]
        counts = torch.tensor(counts, device=self.processes.device)
        counts = self.processes.sum(counts).clamp(min=1)
        return {
            name: loss_N.sum() / count
            for (name, loss_N), count in zip(losses.items(), counts, strict=True)
        }

    def _validate(self, windows: np.ndarray) -> dict[str, float]:
        """Means over all targets, equal on every rank; each rank computes its share."""
        own_windows = windows[self.processes.rank :: self.processes.size]
        names = (*LOSS_TERMS, *METRICS)
        sums = torch.zeros(2, len(names), dtype=torch.float64, device=self.processes.device)
        with torch.no_grad():
            for first in range(0, len(own_windows), BATCH_ROWS):
                batch = own_windows[first : first + BATCH_ROWS]
                history_B = np.full(len(batch), self.recipe.history_windows)
                sequences = slice_sequences(self.corpus, batch, history_B, self.recipe.max_len)
                losses = self.loss_terms(sequences, None, None)
                for column, name in enumerate(names):
                    sums[0, column] += losses[name].sum()
                    sums[1, column] += len(losses[name])
        totals, counts = self.processes.sum(sums).tolist()
        means = {
            name: total / max(1, count)
            for name, total, count in zip(names, totals, counts, strict=True)
        }
        return {
            **{f"validation_{name}": mean for name, mean in means.items()},
            "validation_loss": weighted_loss(self.recipe, means),
        }

    def _losses(
        self,
        sequences: Sequences,
        random: np.random.Generator | None,
        negatives: Tensor | None,
    ) -> dict[str, Tensor]:
        """The value of each loss term and of each of METRICS for every target, (N,) or (M,)."""
        model, recipe = self.model, self.recipe
        batch = build_batch(
            self.corpus,
            sequences,
            model.shape.layout,
            recipe.decay_days,
            recipe.forgotten_share,
            random,
        )
        rows, shape = sequences.rows, model.shape
        # Targets are the window's own events only: the repeat counts already contain the history.
        target_N = np.flatnonzero(sequences.scored_N)
        row_N = self._tensor(sequences.row_N[target_N])
        item_N = self._tensor(batch.item_N[target_N].astype(np.int64))
        named_M = ((item_N > 0) & (item_N <= shape.items)).nonzero().squeeze(1)
        category_count_BC = self._tensor(batch.category_repeat_counts.toarray())
        item_count_BI = self._tensor(batch.item_repeat_counts.toarray()[:, 1 : 1 + shape.items])
        targets = PredictionTargets(
            self._tensor(batch.embedding_rows_P7),
            [(0, rows, batch.length)],
            self._tensor(batch.flat_position_N[target_N] - 1),
            category_count_BC[row_N],
            named_M,
            ItemTargets(
                item_N[named_M] - 1, item_count_BI, row_N[named_M], negatives, self.log_q_I
            ),
        )
        logits = target_logits(model, targets)
        category_N = self._tensor(batch.category_N[target_N].astype(np.int64))
        type_N = self._tensor(batch.type_N[target_N].astype(np.int64))
        truth = dict(
            zip(LOSS_TERMS, (category_N, type_N, targets.items.target_index()), strict=True)
        )
        losses = {
            name: F.cross_entropy(own, truth[name], reduction="none")
            for name, own in zip(LOSS_TERMS, logits, strict=True)
        }
        if self.teacher and negatives is not None:
            with torch.no_grad():
                teacher_logits = target_logits(self.teacher, targets)
            for name, own, teachers in zip(LOSS_TERMS, logits, teacher_logits, strict=True):
                losses[DISTILLED + name] = F.cross_entropy(
                    own, teachers.softmax(1), reduction="none"
                )
        for name, own in (("category", logits[0]), ("item", logits[2])):
            losses[f"{name}_ndcg_at_10"] = ndcg_at_10(ranks(own.detach(), truth[name]))
        return losses

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.processes.device)


class _LossModule(nn.Module):
    """The losses as a module, because DistributedDataParallel hooks into a module's passes."""

    def __init__(self, model: BehaviourTransformer, losses: Callable[..., dict[str, Tensor]]):
        super().__init__()
        self.model, self.losses = model, losses

    def forward(self, *batch: Any) -> dict[str, Tensor]:
        device = self.model.table.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return self.losses(*batch)
