"""Fits the ranker (models/profile/ranker/network.py) behind the finished trunk.

An example is a window of the training split whose user has a next window there. The target is what
the user had in that next window, as a set. The first epochs minimise a softmax over the candidates
that serving ranks, with the same weight for each member of the set; validation decides how many.
The last epoch adds a loss of NDCG@10, on windows of the later half of training, whose memories are
about as long as those of serving; it is kept if NDCG@10 rises on validation. A refit, which has no
validation, does what validation has chosen before.

Shape suffixes: B windows of a batch; others as in models/profile/ranker/network.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from liveprofile.progress import Progress
from models.profile.data.batched_inference import run_trunk
from models.profile.data.prepared import PreparedData
from models.profile.data.ranking_examples import RankingExamples
from models.profile.network import BehaviourTransformer
from models.profile.ranker.network import Ranker, item_features, memory_pairs
from models.profile.ranking import rank
from models.profile.recipes import Recipe
from models.profile.training.losses import train_epochs
from models.profile.training.ranking_losses import ndcg_at_10, ndcg_loss, set_loss

# Parameters of single items and categories: most have few examples.
TABLES = ("bag", "category_rows", "item_category_rows", "item_bias", "category_bias")
MIN_STD = 0.05
SCALE_WINDOWS = 512


def fit(
    model: BehaviourTransformer,
    data: PreparedData,
    recipe: Recipe,
    on_progress: Progress = lambda *_: None,
    chosen: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Sets `model.ranker` to a fitted one and returns its validation losses by epoch.

    Returns an empty dict, and the ranker has the Transformer's order, if no user has two windows in
    the training split, or none has a window in validation after another one. `chosen`: what this
    function has returned for an earlier fit, whose number of epochs and NDCG epoch are repeated
    without validation.
    """
    trainer = _RankerTrainer(model, data, recipe)
    is_possible = len(trainer.train_W) and len(trainer.validation_W) if chosen is None else chosen
    torch.manual_seed(recipe.seed)
    if not is_possible:
        model.ranker = trainer.new_ranker()
        with torch.no_grad():
            for name, weight in model.ranker.eval().requires_grad_(False).named_parameters():
                if name in TABLES:
                    weight.zero_()
            model.ranker.trunk_weights.fill_(1.0)
        return {}
    return trainer.run(chosen, on_progress)


class _Losses(NamedTuple):
    """Means over the windows of a batch, each of categories and items."""

    set_2: Tensor
    ndcg_2: Tensor  # the loss of NDCG@10
    ndcg_at_10_2: Tensor


class _RankerTrainer:
    def __init__(self, model: BehaviourTransformer, data: PreparedData, recipe: Recipe):
        self.model, self.data, self.recipe = model, data, recipe
        self.random = np.random.default_rng(recipe.seed)
        self.examples = RankingExamples(data.corpus.streams, data.items, data.categories)
        self.train_W = self.examples.with_target(data.split.train)
        validation_W = self.examples.with_target(data.split.validation)
        if not len(validation_W):  # each user has at most one window there
            validation_W = self.examples.before(data.split.validation)
        self.validation_W = self._sample(validation_W, recipe.validation_windows)
        self.ranked_items = min(recipe.ranked_items, len(data.items))

    def _sample(self, windows: np.ndarray, size: int) -> np.ndarray:
        return np.sort(self.random.permutation(windows)[:size])

    def run(self, chosen: dict[str, Any] | None, on_progress: Progress) -> dict[str, Any]:
        """Fits with validation, or repeats what it has `chosen`."""
        self.state_WD = self._states(on_progress)
        ranker = self.model.ranker = self.new_ranker()
        report: dict[str, Any] = {"windows": len(self.train_W)}
        losses, best_weights = [], {}
        for epoch in self._epochs("ranker", self.train_W, on_progress):
            if chosen is None:
                losses.append(self._validate()[0])
                if min(losses) == losses[-1]:
                    best_weights = _copy(ranker)
            elif epoch == chosen["epoch"]:
                break
        if chosen is None:
            ranker.load_state_dict(best_weights)
            report["validation_losses"] = [round(loss, 4) for loss in losses]
        report["epoch"] = chosen["epoch"] if chosen else 1 + int(np.argmin(losses))
        if chosen is None or chosen["ndcg"]["kept"]:
            report["ndcg"] = self._fit_ndcg(chosen is None, on_progress)
        return report

    def _fit_ndcg(self, is_validated: bool, on_progress: Progress) -> dict[str, Any]:
        """Trains the ranker further, for NDCG@10, and returns its means on validation.

        With validation, the ranker stays as it is unless the mean of items and categories rises.
        """
        # Of the later half of training.
        end_ms_W = np.asarray(self.data.corpus.streams.end_ms_W)[self.train_W]
        later_W = self.train_W[end_ms_W >= np.median(end_ms_W)]
        later_W = self._sample(later_W, self.recipe.ranker_ndcg_windows)
        report: dict[str, Any] = {"windows": len(later_W)}
        weights = _copy(self.model.ranker)
        before = self._validate()[1] if is_validated else 0.0
        list(self._epochs("ranker, NDCG", later_W, on_progress))
        if is_validated:
            after = self._validate()[1]
            report |= {"before": round(before, 4), "after": round(after, 4), "kept": after > before}
            if not report["kept"]:
                self.model.ranker.load_state_dict(weights)
        return report

    def _epochs(self, stage: str, windows: np.ndarray, on_progress: Progress) -> Iterator[int]:
        """Trains the model's ranker; after each epoch it is in eval mode."""
        ranker, recipe, is_ndcg = self.model.ranker, self.recipe, stage != "ranker"
        tables = [weight for name, weight in ranker.named_parameters() if name in TABLES]
        others = [weight for name, weight in ranker.named_parameters() if name not in TABLES]
        optimizer = torch.optim.AdamW(
            [
                {"params": others, "weight_decay": recipe.weight_decay},
                {"params": tables, "weight_decay": recipe.ranker_table_decay},
            ]
        )
        batches = math.ceil(len(windows) / recipe.ranker_batch_rows)

        def draw_batches() -> list[np.ndarray]:
            ranker.train().requires_grad_(True)
            return np.array_split(self.random.permutation(windows), batches)

        def loss(windows_B: np.ndarray) -> Tensor:
            losses = self._losses(np.sort(windows_B))
            ndcg = recipe.ranker_ndcg_weight * losses.ndcg_2 if is_ndcg else 0.0
            return (losses.set_2 + ndcg).sum()

        for epoch in train_epochs(
            optimizer,
            recipe.ranker_ndcg_learning_rate if is_ndcg else recipe.ranker_learning_rate,
            recipe,
            1 if is_ndcg else recipe.ranker_epochs,
            draw_batches,
            loss,
            lambda done, total: on_progress(stage, done, total),
        ):
            ranker.eval().requires_grad_(False)
            yield epoch

    def _states(self, on_progress: Progress) -> np.ndarray:
        """(W, D) the trunk's state after each window that is an example."""
        corpus, done = self.data.corpus, 0
        windows = np.concatenate([self.train_W, self.validation_W])
        state_WD = np.zeros((len(corpus.streams.user_W), self.model.shape.dim), np.float32)
        for output in run_trunk(self.model, corpus, windows, self.recipe):
            state_WD[output.windows] = output.last_states().numpy()
            done += len(output.windows)
            on_progress("states for the ranker", done, len(windows))
        return state_WD

    def new_ranker(self) -> Ranker:
        shape, examples = self.model.shape, self.examples
        ranker = Ranker(shape.dim, shape.categories, shape.items, self.ranked_items)
        usual_I = examples.usual_categories(self.data.split.train)
        ranker.item_category.copy_(torch.from_numpy(usual_I))
        item, category = memory_pairs(examples.memory(self._sample(self.train_W, SCALE_WINDOWS)))
        pair_of = {
            key: pair for pair, key in enumerate(zip(category.row_M, category.code_M, strict=True))
        }
        keys = zip(item.row_M, item.category_M, strict=True)
        pair_M = np.array([pair_of.get(key, -1) for key in keys], np.int64)
        own_MF = item_features(item, category, np.arange(len(pair_M)), pair_M)
        if shape.categories:  # without categories, nothing else has their features either
            own_MF = own_MF[pair_M >= 0]
        for scorer, features_MF in (
            (ranker.categories, category.features_MF),
            (ranker.items, own_MF),
        ):
            if len(features_MF):
                scorer.mean.copy_(torch.from_numpy(features_MF.mean(0)))
                scorer.std.copy_(torch.from_numpy(features_MF.std(0).clip(min=MIN_STD)))
        return ranker

    def _losses(self, windows_B: np.ndarray) -> _Losses:
        rows, target = len(windows_B), self.examples.target(windows_B)
        h_BD = torch.from_numpy(self.state_WD[windows_B])
        ranked = rank(self.model, self.examples.memory(windows_B), h_BD, self.ranked_items)
        categories, candidates = ranked.categories, ranked.candidates
        named = categories.named_BC.shape[1]
        row_N = np.concatenate([np.repeat(np.arange(rows), named), categories.row_M])
        code_N = np.concatenate([np.tile(1 + np.arange(named), rows), categories.code_M])
        logit_N = torch.cat([categories.named_BC.flatten(), categories.further_M])
        is_item_N = target.has_item(candidates.row_N, candidates.code_N)
        lists = (
            (logit_N, row_N, target.has_category(row_N, code_N)),
            (ranked.item_N, candidates.row_N, is_item_N),
        )
        ranked_sizes = [
            (*each, size_B) for each, size_B in zip(lists, target.sizes(rows), strict=True)
        ]
        with torch.no_grad():
            ndcg = [ndcg_at_10(*each).mean() for each in ranked_sizes]
        return _Losses(
            torch.stack([set_loss(*each, rows) for each in lists]),
            torch.stack([ndcg_loss(*each) for each in ranked_sizes]),
            torch.stack(ndcg),
        )

    def _validate(self) -> tuple[float, float]:
        """Sum of the mean set losses, and mean NDCG@10, on the validation windows."""
        batches = math.ceil(len(self.validation_W) / self.recipe.ranker_batch_rows)
        loss, ndcg = 0.0, 0.0
        with torch.no_grad():
            for windows_B in np.array_split(self.validation_W, batches):
                losses = self._losses(windows_B)
                loss += len(windows_B) * losses.set_2.sum().item()
                ndcg += len(windows_B) * losses.ndcg_at_10_2.mean().item()
        return loss / len(self.validation_W), ndcg / len(self.validation_W)


def _copy(ranker: Ranker) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in ranker.state_dict().items()}
