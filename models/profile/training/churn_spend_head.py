"""Fits the value head: churn and spend within the horizon, from the user features.

The head is fitted after the trunk and may read the trunk's states. Validation decides whether it
does and for how many epochs it trains, by the loss on windows whose horizon ends in the validation
split; none of their labels is known when training ends. A refit does what validation has chosen
before. The loss is logistic for churn and log-normal for spend above 0 (Wang et al. 2019,
arXiv:1912.07753).

Shape suffixes: W windows of the corpus, M samples, N samples with spend.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveprofile.progress import Progress
from models.profile.data.churn_spend_samples import (
    Samples,
    labelled_windows,
    random_times_after_windows,
    samples,
    validation_windows,
)
from models.profile.data.examples import Corpus
from models.profile.network import BehaviourTransformer, ValueHead
from models.profile.recipes import Recipe
from models.profile.training.losses import learning_rate_schedule

if TYPE_CHECKING:
    from models.profile.data.prepared import Split


def fit(
    model: BehaviourTransformer,
    corpus: Corpus,
    split: Split,
    recipe: Recipe,
    on_progress: Progress = lambda *_: None,
    chosen: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Fits `model.value_head` in place and returns the chosen variant and the validation losses.

    Returns an empty dict and leaves the head as it is if no label is known yet. `chosen`: what this
    function has returned for an earlier fit, whose variant and epochs are repeated without
    validation.
    """
    windows = labelled_windows(corpus, split.train_until_ms)
    validation_W = validation_windows(corpus, split)
    is_possible = len(windows) and len(validation_W) if chosen is None else bool(chosen)
    if not is_possible:
        return {}
    train = _training_samples(model, corpus, split, recipe, windows)
    if chosen is not None:
        trainer = _HeadTrainer(recipe, train, chosen["reads_state"])
        for epoch in itertools.islice(trainer.epochs(), chosen["epoch"]):
            on_progress("value head", epoch, chosen["epoch"])
        model.value_head.load_state_dict(trainer.head.state_dict())
        return {"reads_state": chosen["reads_state"], "epoch": chosen["epoch"]}
    end_ms_W = corpus.streams.end_ms_W[validation_W]
    validation = samples(model, corpus, recipe, validation_W, end_ms_W)
    trainers = []
    for reads_state in (False, True):
        stage = "value head with state" if reads_state else "value head"
        trainer = _HeadTrainer(recipe, train, reads_state)
        trainer.run(validation, lambda done, total, stage=stage: on_progress(stage, done, total))
        trainers.append(trainer)
    best = min(trainers, key=lambda trainer: trainer.best_loss)
    model.value_head.load_state_dict(best.best_weights)
    return {
        "reads_state": best is trainers[1],
        "epoch": best.best_epoch,
        "validation_loss": round(trainers[0].best_loss, 4),
        "validation_loss_with_state": round(trainers[1].best_loss, 4),
    }


def _training_samples(
    model: BehaviourTransformer, corpus: Corpus, split: Split, recipe: Recipe, windows: np.ndarray
) -> Samples:
    """The users of labelled `windows` at their ends, and some at a random time after them."""
    random = np.random.default_rng(recipe.seed)
    end_ms_W = corpus.streams.end_ms_W
    # A profile is read at any time, above all at the start of the next window. At window ends
    # alone, no user's last purchase would be long ago.
    between = windows[random.random(len(windows)) < recipe.between_share]
    labels_known_ms = split.train_until_ms - corpus.horizon_ms
    between_ms = random_times_after_windows(corpus, between, labels_known_ms, random)
    sampled = np.concatenate([windows, between])
    at_ms = np.concatenate([end_ms_W[windows], between_ms])
    order = np.argsort(sampled, kind="stable")
    return samples(model, corpus, recipe, sampled[order], at_ms[order])


class _HeadTrainer:
    """Trains one value head and keeps the weights of its best epoch on validation."""

    def __init__(self, recipe: Recipe, train: Samples, reads_state: bool):
        self.recipe, self.train = recipe, train
        torch.manual_seed(recipe.seed)
        self.head = ValueHead(train.state_MD.shape[1])
        self.head.mean.copy_(train.user_features_MX.mean(0))
        self.head.std.copy_(train.user_features_MX.std(0).clamp(min=0.01))
        if reads_state:
            nn.init.normal_(self.head.state.weight, std=0.02)
        self.head.state.weight.requires_grad_(reads_state)
        self._init_biases_from_means()
        self.best_loss, self.best_epoch, self.best_weights = math.inf, 0, {}

    def _init_biases_from_means(self) -> None:
        churn_rate = self.train.churned_M.mean().clamp(0.001, 0.999)
        spend = self.train.spend_M[self.train.spend_M > 0]
        with torch.no_grad():
            self.head.out.bias[0] = churn_rate.logit()
            if len(spend):
                self.head.out.bias[1] = spend.log().mean()

    def run(self, validation: Samples, on_progress: Callable[[int, int], None]) -> None:
        """Trains all epochs and keeps the weights of the best one."""
        for epoch in self.epochs():
            with torch.no_grad():
                validation_loss = self._loss(validation).item()
            if validation_loss < self.best_loss:
                self.best_loss, self.best_epoch = validation_loss, epoch
                self.best_weights = {k: v.clone() for k, v in self.head.state_dict().items()}
            on_progress(epoch, self.recipe.value_epochs)

    def epochs(self) -> Iterator[int]:
        """Trains the head; yields the number of each epoch after it."""
        recipe, count = self.recipe, len(self.train.churned_M)
        optimizer = torch.optim.AdamW(
            self.head.parameters(), lr=recipe.value_learning_rate, weight_decay=recipe.weight_decay
        )
        steps_per_epoch = math.ceil(count / recipe.value_batch_rows)
        steps, step = steps_per_epoch * recipe.value_epochs, 0
        for epoch in range(1, recipe.value_epochs + 1):
            for batch in torch.randperm(count).tensor_split(steps_per_epoch):
                optimizer.param_groups[0]["lr"] = (
                    recipe.value_learning_rate
                    * learning_rate_schedule(step, steps, recipe.warm_up_share)
                )
                loss = self._loss(Samples(*(column[batch] for column in self.train)))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(self.head.parameters(), recipe.clip_norm)
                optimizer.step()
                step += 1
            yield epoch

    def _loss(self, batch: Samples) -> Tensor:
        churn_M, log_mean_M, log_std_M = self.head(batch.state_MD, batch.user_features_MX)
        churn_loss = F.binary_cross_entropy_with_logits(churn_M, batch.churned_M)
        spent = batch.spend_M > 0
        spend_loss_N = log_normal_loss(log_mean_M[spent], log_std_M[spent], batch.spend_M[spent])
        spend_loss = spend_loss_N.sum() / spent.sum().clamp(min=1)
        return self.recipe.weight_churn * churn_loss + self.recipe.weight_spend * spend_loss


def log_normal_loss(log_mean_N: Tensor, log_std_N: Tensor, value_N: Tensor) -> Tensor:
    """(N,) negative log-likelihood of the values' logarithms, without constants."""
    return log_std_N.log() + 0.5 * ((value_N.log() - log_mean_N) / log_std_N).square()
