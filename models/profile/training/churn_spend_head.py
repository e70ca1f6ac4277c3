"""Fits the value head: churn and spend in the days after a window, from the numbers of the past.

It is fitted behind the trunk, whose states it may read. Whether it does, and for how many epochs it
is trained, is decided by its loss on windows whose horizon ends in the validation part; no label
of theirs is known when the training part ends. Loss: logistic for churn, log-normal for the spend
if there is any (Wang et al. 2019, arXiv:1912.07753).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveprofile.progress import Progress
from models.profile.data.churn_spend_samples import (
    Samples,
    _between,
    _known,
    samples,
    validation_windows,
)
from models.profile.data.examples import Corpus
from models.profile.network import BehaviourTransformer, ValueHead
from models.profile.recipes import Recipe
from models.profile.training.trainer import schedule

if TYPE_CHECKING:
    from models.profile.data.prepared import Split


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
