"""Trains a model batch by batch: draws, losses, steps, and the epoch that is best on validation.

The loss sums, each weighted by the recipe: next category and next type (cross-entropy), next item
(sampled softmax with the logQ correction: Bengio and Senecal 2008, IEEE TNN 19(4); Yi et al. 2019,
RecSys, doi:10.1145/3298689.3346996). AdamW (arXiv:1711.05101) with a linear warm-up and a cosine
decay (arXiv:1608.03983).

A teacher's answers can be learned too: a small model then comes near a big one (Hinton et al. 2015,
arXiv:1503.02531), and a model that goes on with newer rows keeps what it knew (Li and Hoiem 2016,
arXiv:1606.09282).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveprofile.errors import InputError
from liveprofile.progress import Progress
from models.profile.data.batched_inference import ROWS
from models.profile.data.examples import Segments, cut, enrich, examples
from models.profile.network import BehaviourTransformer, Groups
from models.profile.recipes import Recipe
from models.profile.training import training_state
from models.profile.training.distributed import Ranks

if TYPE_CHECKING:
    from models.profile.data.prepared import Prepared

CHOOSES = ("category", "type", "item")
METRICS = ("category_ndcg_at_10",)
NEVER = -1e9  # a logit; finite, since a teacher's probability of 0 times infinity is no number


class Trainer:
    """One training: its model, optimizer and random numbers, and how far it is."""

    def __init__(
        self,
        recipe: Recipe,
        model: BehaviourTransformer,
        data: Prepared,
        ranks: Ranks,
        teacher: BehaviourTransformer | None = None,
    ):
        self.recipe, self.ranks = recipe, ranks
        self.teacher = teacher and teacher.to(ranks.device)
        self.corpus, self.parts = data.corpus, data.parts
        self.random = np.random.default_rng(recipe.seed)
        self.item_share_I = data.item_counts / data.item_counts.sum()
        self.log_q_I = self._tensor(np.log(self.item_share_I)).float()
        per_epoch = min(recipe.windows_per_epoch, len(self.parts.train))
        self.steps_per_epoch = math.ceil(per_epoch / recipe.batch_rows)
        self.steps = self.steps_per_epoch * recipe.epochs
        if per_epoch // self.steps_per_epoch < ranks.size:
            raise InputError(
                f"recipe {recipe.name}: batches of {per_epoch // self.steps_per_epoch} windows are"
                f" too small for {ranks.size} processes"
            )
        self.model = model.to(ranks.device)
        model.value_head.requires_grad_(False)  # no loss here reaches it: see values.fit
        self.terms = ranks.wrap(_Terms(model, self._losses))
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
        self.step, self.curves = 0, []
        self.best_epoch, self.best_weights = 0, {}
        self.windows, self.totals, self.epoch_s = np.empty(0, int), {}, 0.0  # of this epoch
        self.clock_s = self.kept_s = time.monotonic()

    def run(
        self,
        state: training_state.StateFile | None,
        on_progress: Progress,
        on_note: Callable[[str], None],
        on_epoch: Callable[[int, float], None],
    ) -> None:
        """Trains until no better for `patience` epochs; leaves the best weights in place, or the
        last where there is no validation."""
        recipe = self.recipe
        validation = self._sample(self.parts.validation, recipe.validation_windows)
        if state:
            self._go_on(state, on_note)
        while len(self.curves) < recipe.epochs and not self._waited_enough():
            self._train_epoch(state, on_progress)
            held_out = self._validate(validation)
            loss, epoch = held_out["validation_loss"], len(self.curves) + 1
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
            trained = {name: total.item() for name, total in self.totals.items()}
            seconds = self._elapsed_s()
            self.curves.append({"epoch": epoch, "seconds": seconds, **trained, **held_out})
            self.windows, self.totals, self.epoch_s = np.empty(0, int), {}, 0.0
            self._keep(state)
        self.model.load_state_dict(self.best_weights)
        self.model.cpu().eval().requires_grad_(False)

    def _waited_enough(self) -> bool:
        return len(self.curves) - self.best_epoch >= self.recipe.patience

    def _train_epoch(self, state: training_state.StateFile | None, on_progress: Progress) -> None:
        """All of it, or what is left where a killed training goes on."""
        if not len(self.windows):
            self.windows = self._sample(self.parts.train, self.recipe.windows_per_epoch)
        batches = np.array_split(self.windows, self.steps_per_epoch)
        for windows in batches[self.step - len(self.curves) * self.steps_per_epoch :]:
            for name, value in self._step(windows).items():
                self.totals[name] = self.totals.get(name, 0.0) + value / self.steps_per_epoch
            self.step += 1
            on_progress("train", self.step, self.steps)
            if time.monotonic() - self.kept_s > training_state.EVERY_S:
                self._keep(state)

    def _elapsed_s(self) -> float:
        """Of this epoch, in this process and those before it."""
        now_s = time.monotonic()
        self.epoch_s += now_s - self.clock_s
        self.clock_s = now_s
        return self.epoch_s

    def _keep(self, state: training_state.StateFile | None) -> None:
        self.kept_s = time.monotonic()
        if state and self.ranks.first:
            state.write(
                {
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "numpy_random": self.random.bit_generator.state,
                    "torch_random": torch.get_rng_state(),
                    "step": self.step,
                    "curves": self.curves,
                    "best_epoch": self.best_epoch,
                    "best_weights": self.best_weights,
                    "windows": torch.from_numpy(self.windows),
                    "totals": self.totals,
                    "epoch_s": self._elapsed_s(),
                }
            )

    def _go_on(self, state: training_state.StateFile, on_note: Callable[[str], None]) -> None:
        kept = self.ranks.from_first(state.read)
        if kept is None:
            return
        self.model.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.random.bit_generator.state = kept["numpy_random"]
        torch.set_rng_state(kept["torch_random"])
        self.step, self.curves = kept["step"], kept["curves"]
        self.best_epoch, self.best_weights = kept["best_epoch"], kept["best_weights"]
        self.windows, self.epoch_s = kept["windows"].numpy(), kept["epoch_s"]
        self.totals = {name: total.to(self.ranks.device) for name, total in kept["totals"].items()}
        if self.ranks.first:
            on_note(
                f"going on after step {self.step} of {self.steps}, epoch {len(self.curves)} of"
                f" {self.recipe.epochs}, from {state.file}"
            )

    def _sample(self, windows: np.ndarray, size: int) -> np.ndarray:
        return self.random.permutation(windows)[:size]

    def _step(self, windows: np.ndarray) -> dict[str, Tensor]:
        recipe = self.recipe
        rate = recipe.learning_rate * schedule(self.step, self.steps, recipe.warm_up_share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        short_B = self.random.random(len(windows)) < recipe.short_history_share
        history_B = np.where(
            short_B,
            self.random.integers(0, recipe.history_windows, len(windows)),
            recipe.history_windows,
        )
        segments = cut(self.corpus, windows, history_B, recipe.max_len)
        segments = enrich(segments, recipe.enriched_share, recipe.max_len, self.random)
        negatives = self.random.choice(
            len(self.item_share_I), recipe.item_negatives, p=self.item_share_I
        )
        segments = self.ranks.share(segments)
        shares = self._shares(self.terms(segments, self.random, self._tensor(negatives)))
        loss = weighted(recipe, shares)
        self.optimizer.zero_grad(set_to_none=True)
        # The loss is the sum of the ranks' shares, but their gradients are averaged.
        (self.ranks.size * loss).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        shares = {"loss": loss, **shares}
        sums = self.ranks.add(torch.stack([share.detach().double() for share in shares.values()]))
        return dict(zip(shares, sums, strict=True))

    def _shares(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """This rank's shares of the means over the whole batch; 0 for one without targets."""
        counts = [float(len(loss_N)) for loss_N in losses.values()]
        counts = self.ranks.add(torch.tensor(counts, device=self.ranks.device)).clamp(min=1)
        return {
            name: loss_N.sum() / count
            for (name, loss_N), count in zip(losses.items(), counts, strict=True)
        }

    def _validate(self, windows: np.ndarray) -> dict[str, float]:
        """Means over all targets, the same on every rank; each rank passes its share."""
        mine = windows[self.ranks.rank :: self.ranks.size]
        names = (*CHOOSES, *METRICS)
        sums = torch.zeros(2, len(names), dtype=torch.float64, device=self.ranks.device)
        with torch.no_grad():
            for first in range(0, len(mine), ROWS):
                part = mine[first : first + ROWS]
                history_B = np.full(len(part), self.recipe.history_windows)
                segments = cut(self.corpus, part, history_B, self.recipe.max_len)
                losses = self.terms(segments, None, None)
                for place, name in enumerate(names):
                    sums[0, place] += losses[name].sum()
                    sums[1, place] += len(losses[name])
        totals, counts = self.ranks.add(sums).tolist()
        means = {
            name: total / max(1, count)
            for name, total, count in zip(names, totals, counts, strict=True)
        }
        return {
            **{f"validation_{name}": mean for name, mean in means.items()},
            "validation_loss": weighted(self.recipe, means),
        }

    def _losses(
        self,
        segments: Segments,
        random: np.random.Generator | None,
        negatives: Tensor | None,
    ) -> dict[str, Tensor]:
        """(N,) for each term of the loss and each of METRICS: that of each target."""
        model, corpus = self.model, self.corpus
        recipe = self.recipe
        batch = examples(
            corpus, segments, model.shape.layout, recipe.decay_days, recipe.forgotten_share, random
        )
        rows, shape = segments.rows, model.shape
        # Only the window's own events: what the history held would tell its own.
        target_N = np.flatnonzero(segments.scored_N)
        row_N = self._tensor(segments.row_N[target_N])
        item_N = self._tensor(batch.item_N[target_N].astype(np.int64))
        named_N = ((item_N > 0) & (item_N <= shape.items)).nonzero().squeeze(1)
        had_BC = self._tensor(batch.had_category_B.dense(rows, shape.category_rows))
        had_BI = self._tensor(batch.had_item_B.dense(rows, 1 + shape.items)[:, 1:])
        targets = Targets(
            self._tensor(batch.features_P7),
            [(0, rows, batch.length)],
            self._tensor(batch.place_N[target_N] - 1),
            had_BC[row_N],
            named_N,
            Items(item_N[named_N] - 1, had_BI, row_N[named_N], negatives, self.log_q_I),
        )
        answers = answer(model, targets)
        category_N = self._tensor(batch.category_N[target_N].astype(np.int64))
        type_N = self._tensor(batch.type_N[target_N].astype(np.int64))
        losses = {
            "category": F.cross_entropy(answers.category_NC, category_N, reduction="none"),
            "type": F.cross_entropy(answers.type_NK, type_N, reduction="none"),
            "item": F.cross_entropy(
                answers.item_MJ, targets.items.place_of_true(), reduction="none"
            ),
        }
        if self.teacher and negatives is not None:
            with torch.no_grad():
                taught = answer(self.teacher, targets)
            for name, ours, theirs in zip(CHOOSES, answers, taught, strict=True):
                losses[f"taught_{name}"] = F.cross_entropy(
                    ours, theirs.softmax(1), reduction="none"
                )
        ndcg_N = ndcg_at_10(answers.category_NC.detach(), category_N)
        return {**losses, "category_ndcg_at_10": ndcg_N}

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.ranks.device)


class _Terms(nn.Module):
    """The losses as a module, since DistributedDataParallel hooks into a module's passes."""

    def __init__(self, model: BehaviourTransformer, losses: Callable[..., dict[str, Tensor]]):
        super().__init__()
        self.model, self.losses = model, losses

    def forward(self, *batch: Any) -> dict[str, Tensor]:
        device = self.model.table.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return self.losses(*batch)


def schedule(step: int, steps: int, warm_up_share: float) -> float:
    """Share of the learning rate: up in a line, down along a cosine to a twentieth."""
    warm_up = max(1, round(warm_up_share * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def weighted(recipe: Recipe, terms: dict[str, Any]) -> Any:
    """The sum that is minimised; with a teacher, its answers count for `taught_share` of it."""

    def total(prefix: str) -> Any:
        return sum(getattr(recipe, f"weight_{name}") * terms[prefix + name] for name in CHOOSES)

    if f"taught_{CHOOSES[0]}" not in terms:
        return total("")
    return (1 - recipe.taught_share) * total("") + recipe.taught_share * total("taught_")


def ndcg_at_10(logits_NC: Tensor, target_N: Tensor) -> Tensor:
    """(N,) gain of the one relevant class (Jarvelin and Kekalainen 2002)."""
    truth_N1 = logits_NC.gather(1, target_N[:, None])
    # Ties count half: bfloat16 has many.
    ties_N = (logits_NC == truth_N1).sum(1) - 1
    rank_N = (logits_NC > truth_N1).sum(1) + 0.5 * ties_N
    return torch.where(rank_N < 10, 1 / torch.log2(rank_N + 2), 0.0)


class Items(NamedTuple):
    """M next items (0-based), what their B users had, and what they are told apart from."""

    item_M: Tensor
    had_BI: Tensor
    row_M: Tensor
    negatives_K: Tensor | None  # drawn ones; None: all items
    log_q_I: Tensor  # log of how often each is drawn

    def place_of_true(self) -> Tensor:
        """(M,) where `item_logits` has the true one."""
        return self.item_M if self.negatives_K is None else torch.zeros_like(self.item_M)


class Targets(NamedTuple):
    """N events to predict, M of them with a named item, and all that a model reads for them."""

    features_P7: Tensor
    groups: Groups
    place_N: Tensor  # the position before each event
    had_NC: Tensor
    named_M: Tensor  # which of the N
    items: Items


class Answers(NamedTuple):
    """Logits, in the order of CHOOSES."""

    category_NC: Tensor
    type_NK: Tensor
    item_MJ: Tensor  # J: all items, or the true one and the drawn ones


def answer(model: BehaviourTransformer, targets: Targets) -> Answers:
    """What a model says of each target."""
    h_ND = model.trunk(targets.features_P7, targets.groups)[targets.place_N]
    return Answers(
        model.category_logits(h_ND, targets.had_NC),
        model.type_logits(h_ND),
        item_logits(model, h_ND[targets.named_M], targets.items),
    )


def item_logits(model: BehaviourTransformer, h_MD: Tensor, items: Items) -> Tensor:
    """(M, I), or (M, 1 + K) with the true one first: sampled softmax."""
    item_M, had_BI, row_M, negatives_K, log_q_I = items
    repeat_M1 = model.repeats(h_MD)[1]
    if negatives_K is None:
        return torch.addcmul(model.item_logits(h_MD), repeat_M1, had_BI[row_M])
    # Each logit is lowered by the log of how often its item is drawn, which makes the sample's
    # partition function an estimate of the full one.
    correction_I = log_q_I + math.log(len(negatives_K))
    drawn_MK = model.item_logits(h_MD, negatives_K) - correction_I[negatives_K]
    drawn_MK = torch.addcmul(drawn_MK, repeat_M1, had_BI[:, negatives_K][row_M])
    drawn_MK = drawn_MK.masked_fill(negatives_K[None, :] == item_M[:, None], NEVER)
    true_M = model.item_logit(h_MD, item_M) - correction_I[item_M]
    true_M = true_M + repeat_M1.squeeze(1) * had_BI[row_M, item_M]
    return torch.cat([true_M[:, None], drawn_MK], 1)
