"""Fits the value head: churn and spend in the days after a window, from the numbers of the past.

It is fitted behind the trunk, whose states it may read. Whether it does, and for how many epochs it
is trained, is decided by its loss on windows whose horizon ends in the validation part; no label
of theirs is known when the training part ends. Loss: logistic for churn, log-normal for the spend
if there is any (Wang et al. 2019, arXiv:1912.07753).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import Progress, past
from models.passes import passes
from models.recipes import Recipe
from models.segments import Corpus, purchases_after
from models.trainer import schedule
from models.transformer import BehaviourTransformer, ValueHead
from udfs import baselines
from udfs.baselines import DAY_MS, SUMS

if TYPE_CHECKING:
    from models.train import Split

AMOUNT, EVENTS = SUMS.index("amount"), SUMS.index("events")


class Samples(NamedTuple):
    """Users at times: M of them."""

    numbers_MX: Tensor
    state_MD: Tensor
    left_M: Tensor  # float: 1 for no purchase in the horizon
    spend_M: Tensor


def fit(
    model: BehaviourTransformer,
    corpus: Corpus,
    parts: Split,
    recipe: Recipe,
    on_progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Fits `model.value_head` in place, and says what was chosen and how well it did.

    Empty if no label is known yet: then the head stays as it is.
    """
    random = np.random.default_rng(recipe.seed)
    windows, held_out = _known(corpus, parts.train_until_ms), validation_windows(corpus, parts)
    if not len(windows) or not len(held_out):
        return {}
    end_ms_W = corpus.streams.end_ms_W
    # A profile is read at any time, and first of all where the next window begins. At the ends of
    # windows alone nobody's last purchase would be long ago.
    some = windows[random.random(len(windows)) < recipe.between_share]
    known_ms = parts.train_until_ms - corpus.horizon_ms
    between_ms = _between(corpus, some, known_ms, random)
    taken, at_ms = np.concatenate([windows, some]), np.concatenate([end_ms_W[windows], between_ms])
    order = np.argsort(taken, kind="stable")
    train = samples(model, corpus, recipe, taken[order], at_ms[order])
    validation = samples(model, corpus, recipe, held_out, end_ms_W[held_out])
    tried = []
    for reads_state in (False, True):
        stage = "values from state" if reads_state else "values"
        fitted = _Fit(recipe, train, reads_state)
        tried.append(fitted.run(validation, lambda done, of, s=stage: on_progress(s, done, of)))
    best = min(tried, key=lambda one: one.loss)
    model.value_head.load_state_dict(best.weights)
    return {
        "reads_state": best is tried[1],
        "epoch": best.epoch,
        "validation_loss": round(tried[0].loss, 4),
        "validation_loss_with_state": round(tried[1].loss, 4),
    }


def validation_windows(corpus: Corpus, parts: Split) -> np.ndarray:
    """Windows whose horizon ends in the validation part: no label of theirs is known before it."""
    known = _known(corpus, parts.validation_until_ms)
    return known[~corpus.known_labels(known, parts.train_until_ms)]


def _known(corpus: Corpus, until_ms: int) -> np.ndarray:
    windows = np.arange(len(corpus.streams.end_ms_W))
    return windows[corpus.known_labels(windows, until_ms)]


def samples(
    model: BehaviourTransformer,
    corpus: Corpus,
    recipe: Recipe,
    windows: np.ndarray,
    at_ms: np.ndarray,
) -> Samples:
    """The users of `windows` (ascending) as they are known at `at_ms`, not before their ends."""
    purchases, spend = purchases_after(corpus.streams, windows, at_ms, corpus.horizon_ms)
    distinct, place = np.unique(windows, return_inverse=True)
    state = torch.cat([one.ends() for one in passes(model, corpus, distinct, recipe)]).clone()
    return Samples(
        torch.from_numpy(numbers_at(corpus, recipe, windows, at_ms)),
        state[torch.from_numpy(place)],
        torch.from_numpy((purchases == 0).astype(np.float32)),
        torch.from_numpy(spend.astype(np.float32)),
    )


def numbers_at(
    corpus: Corpus, recipe: Recipe, windows: np.ndarray, at_ms: np.ndarray
) -> np.ndarray:
    """(M, X) float32: models.past.numbers, of the windows' users at these times."""
    streams = corpus.streams
    base = baselines.read(streams.sums_WS[windows], at_ms, recipe.decay_days)
    first = windows - np.minimum(corpus.position_W[windows], recipe.history_windows)
    added_WS = streams.added_WS
    total = {
        column: np.concatenate([[0.0], np.cumsum(added_WS[:, column])])
        for column in (EVENTS, AMOUNT)
    }
    events, amount = (total[c][windows + 1] - total[c][first] for c in (EVENTS, AMOUNT))
    days = (at_ms - streams.time_ms_N[streams.first_W[first]]) / DAY_MS
    recency = past.recency_days(at_ms, streams.last_purchase_ms_W[windows])
    return past.numbers(base, recency, past.Recent(days, events, amount))


def _between(
    corpus: Corpus, windows: np.ndarray, known_ms: int, random: np.random.Generator
) -> np.ndarray:
    """A time between each window's end and the user's next event, or `known_ms` if that is less."""
    streams = corpus.streams
    following = np.minimum(windows + 1, len(streams.user_W) - 1)
    same_user = (following > windows) & (streams.user_W[following] == streams.user_W[windows])
    next_ms = np.where(same_user, streams.time_ms_N[streams.first_W[following]], known_ms)
    end_ms = streams.end_ms_W[windows]
    room_ms = np.maximum(np.minimum(next_ms, known_ms) - end_ms, 0)
    return end_ms + (random.random(len(windows)) * room_ms).astype(np.int64)


class _Fit:
    """One value head and how it is trained; remembers the epoch that is best on validation."""

    def __init__(self, recipe: Recipe, train: Samples, reads_state: bool):
        self.recipe, self.train = recipe, train
        torch.manual_seed(recipe.seed)
        self.head = ValueHead(train.state_MD.shape[1])
        self.head.mean.copy_(train.numbers_MX.mean(0))
        self.head.std.copy_(train.numbers_MX.std(0).clamp(min=0.01))
        if reads_state:
            nn.init.normal_(self.head.state.weight, std=0.02)
        self.head.state.weight.requires_grad_(reads_state)
        self._start_from_means()
        self.loss, self.epoch, self.weights = math.inf, 0, {}

    def _start_from_means(self) -> None:
        left = self.train.left_M.mean().clamp(0.001, 0.999)
        paid = self.train.spend_M[self.train.spend_M > 0]
        with torch.no_grad():
            self.head.out.bias[0] = left.logit()
            if len(paid):
                self.head.out.bias[1] = paid.log().mean()

    def run(self, validation: Samples, on_progress: Callable[[int, int], None]) -> _Fit:
        recipe, count = self.recipe, len(self.train.left_M)
        optimizer = torch.optim.AdamW(
            self.head.parameters(), lr=recipe.value_learning_rate, weight_decay=recipe.weight_decay
        )
        per_epoch = math.ceil(count / recipe.value_batch_rows)
        steps, step = per_epoch * recipe.value_epochs, 0
        for epoch in range(1, recipe.value_epochs + 1):
            for part in torch.randperm(count).tensor_split(per_epoch):
                rate = recipe.value_learning_rate * schedule(step, steps, recipe.warm_up_share)
                optimizer.param_groups[0]["lr"] = rate
                loss = self._loss(Samples(*(column[part] for column in self.train)))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(self.head.parameters(), recipe.clip_norm)
                optimizer.step()
                step += 1
            with torch.no_grad():
                held_out = self._loss(validation).item()
            if held_out < self.loss:
                self.loss, self.epoch = held_out, epoch
                self.weights = {k: v.clone() for k, v in self.head.state_dict().items()}
            on_progress(epoch, recipe.value_epochs)
        return self

    def _loss(self, part: Samples) -> Tensor:
        churn, log_mean, log_std = self.head(part.state_MD, part.numbers_MX)
        churn_loss = F.binary_cross_entropy_with_logits(churn, part.left_M)
        paid = part.spend_M > 0
        spend_loss = log_normal_loss(log_mean[paid], log_std[paid], part.spend_M[paid])
        spend_loss = spend_loss.sum() / paid.sum().clamp(min=1)
        return self.recipe.weight_churn * churn_loss + self.recipe.weight_spend * spend_loss


def log_normal_loss(log_mean_N: Tensor, log_std_N: Tensor, value_N: Tensor) -> Tensor:
    """Negative log-likelihood of the values' logarithms, (N,), without constants."""
    return log_std_N.log() + 0.5 * ((value_N.log() - log_mean_N) / log_std_N).square()
