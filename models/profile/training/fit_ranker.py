"""Fits the ranker (models/profile/ranker/network.py) behind the finished trunk.

An example is a window of the training split whose user has a next window there. The target is what
the user had in that next window, as a set. The loss is a softmax over the candidates that serving
ranks, with the same weight for each member of the set. Validation decides for how many epochs the
ranker trains.

Shape suffixes: B windows of a batch; others as in models/profile/ranker/network.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from liveprofile.progress import Progress
from models.profile.data.batched_inference import run_trunk
from models.profile.data.prepared import PreparedData
from models.profile.data.ranking_examples import RankingExamples
from models.profile.network import BehaviourTransformer
from models.profile.ranker.network import Ranker, memory_pairs
from models.profile.ranking import rank
from models.profile.recipes import Recipe
from models.profile.training.losses import learning_rate_schedule

# Parameters of single items and categories: most have few examples.
TABLES = ("bag", "category_rows", "item_category_rows", "item_bias", "category_bias")
MIN_STD = 0.05
SCALE_WINDOWS = 512


def fit(
    model: BehaviourTransformer,
    data: PreparedData,
    recipe: Recipe,
    on_progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Fits `model.ranker` and returns its validation losses by epoch.

    Returns an empty dict, and the model has no ranker, if no user has two windows in the training
    and in the validation split.
    """
    model.ranker = None
    trainer = _RankerTrainer(model, data, recipe)
    if not len(trainer.train_W) or not len(trainer.validation_W):
        return {}
    torch.manual_seed(recipe.seed)
    return trainer.run(on_progress)


class _RankerTrainer:
    def __init__(self, model: BehaviourTransformer, data: PreparedData, recipe: Recipe):
        self.model, self.data, self.recipe = model, data, recipe
        self.random = np.random.default_rng(recipe.seed)
        self.examples = RankingExamples(data.corpus.streams, data.items, data.categories)
        self.train_W = self.examples.with_target(data.split.train)
        validation_W = self.examples.with_target(data.split.validation)
        self.validation_W = self._sample(validation_W, recipe.validation_windows)
        self.ranked_items = min(recipe.ranked_items, len(data.items))

    def _sample(self, windows: np.ndarray, size: int) -> np.ndarray:
        return np.sort(self.random.permutation(windows)[:size])

    def run(self, on_progress: Progress) -> dict[str, Any]:
        recipe = self.recipe
        state_WD = self._states(on_progress)
        ranker = self.model.ranker = self._new_ranker()
        parameters = list(ranker.named_parameters())
        tables = [value for name, value in parameters if name in TABLES]
        others = [value for name, value in parameters if name not in TABLES]
        optimizer = torch.optim.AdamW(
            [
                {"params": others, "weight_decay": recipe.weight_decay},
                {"params": tables, "weight_decay": recipe.ranker_table_decay},
            ]
        )
        batches = math.ceil(len(self.train_W) / recipe.ranker_batch_rows)
        steps, step = batches * recipe.ranker_epochs, 0
        losses, best_weights = [], {}
        for _ in range(recipe.ranker_epochs):
            ranker.train()
            for windows_B in np.array_split(self.random.permutation(self.train_W), batches):
                rate = learning_rate_schedule(step, steps, recipe.warm_up_share)
                for group in optimizer.param_groups:
                    group["lr"] = recipe.ranker_learning_rate * rate
                loss = self._losses(np.sort(windows_B), state_WD).sum()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(ranker.parameters(), recipe.clip_norm)
                optimizer.step()
                step += 1
                on_progress("ranker", step, steps)
            ranker.eval()
            losses.append(self._validate(state_WD))
            if min(losses) == losses[-1]:
                best_weights = {name: value.clone() for name, value in ranker.state_dict().items()}
        ranker.load_state_dict(best_weights)
        ranker.requires_grad_(False)
        return {
            "epoch": 1 + int(np.argmin(losses)),
            "windows": len(self.train_W),
            "validation_losses": [round(loss, 4) for loss in losses],
        }

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

    def _new_ranker(self) -> Ranker:
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
        own_MF = np.concatenate([item.features_MF, category.features_MF[pair_M]], 1)[pair_M >= 0]
        for scorer, features_MF in (
            (ranker.categories, category.features_MF),
            (ranker.items, own_MF),
        ):
            scorer.mean.copy_(torch.from_numpy(features_MF.mean(0)))
            scorer.std.copy_(torch.from_numpy(features_MF.std(0).clip(min=MIN_STD)))
        return ranker

    def _losses(self, windows_B: np.ndarray, state_WD: np.ndarray) -> Tensor:
        """(2,) mean losses of categories and items."""
        rows, target = len(windows_B), self.examples.target(windows_B)
        h_BD = torch.from_numpy(state_WD[windows_B])
        ranked = rank(self.model, self.examples.memory(windows_B), h_BD, self.ranked_items)
        categories, candidates = ranked.categories, ranked.candidates
        named = categories.named_BC.shape[1]
        row_N = np.concatenate([np.repeat(np.arange(rows), named), categories.row_M])
        code_N = np.concatenate([np.tile(1 + np.arange(named), rows), categories.code_M])
        logit_N = torch.cat([categories.named_BC.flatten(), categories.further_M])
        return torch.stack(
            [
                set_loss(logit_N, row_N, target.has_category(row_N, code_N), rows),
                set_loss(
                    ranked.item_N,
                    candidates.row_N,
                    target.has_item(candidates.row_N, candidates.code_N),
                    rows,
                ),
            ]
        )

    def _validate(self, state_WD: np.ndarray) -> float:
        """Sum of the mean losses on the validation windows."""
        batches = math.ceil(len(self.validation_W) / self.recipe.ranker_batch_rows)
        with torch.no_grad():
            total = sum(
                len(windows_B) * self._losses(windows_B, state_WD).sum().item()
                for windows_B in np.array_split(self.validation_W, batches)
            )
        return total / len(self.validation_W)


def set_loss(logit_N: Tensor, row_N: np.ndarray, positive_N: np.ndarray, rows: int) -> Tensor:
    """Mean over the rows of the cross-entropy with the uniform distribution over their positives.

    Rows without a positive count 0. N: candidates of all rows.
    """
    row = torch.from_numpy(row_N)
    largest_B = torch.full((rows,), -torch.inf).scatter_reduce(0, row, logit_N.detach(), "amax")
    sum_B = torch.zeros(rows).index_add(0, row, (logit_N - largest_B[row]).exp())
    log_p_N = logit_N - (sum_B.log() + largest_B)[row]
    positive = torch.from_numpy(positive_N.astype(np.float32))
    positives_B = torch.zeros(rows).index_add(0, row, positive)
    return -(log_p_N * positive / positives_B.clamp(min=1)[row]).sum() / rows
