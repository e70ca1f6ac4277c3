"""Fits the ranker (models/profile/ranker/network.py).

An example is a window of the training split whose user has a next window there. The target is what
the user had in that next window, as a set. The first epochs minimise a softmax over what serving
ranks, with the same weight for each member of the set; validation decides how many.
The last epoch adds a loss of NDCG@10, on windows of the later half of training, whose memories are
about as long as those of serving; it is kept if NDCG@10 rises on validation. A refit, which has no
validation, does what validation has chosen before.

Shape suffixes: B windows of a batch; in the losses X the best candidates of a row, K places
that count; others as in models/profile/ranker/network.py.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liveprofile.progress import Progress
from liveprofile.wire.histories import MEMORY_WINDOWS
from models.profile.data.prepared import PreparedData
from models.profile.data.training_rows import Streams
from models.profile.encoding import concatenated_ranges
from models.profile.network import BehaviourTransformer
from models.profile.ranker.memory import RETURN, MemoryTokens, Pairs, memory_tokens, pairs
from models.profile.ranker.network import Ranker, category_of_item
from models.profile.ranking import columns
from models.profile.recipes import Recipe
from models.profile.training.losses import train_epochs

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

    Returns an empty dict, and the ranker has the order of decayed counts, if no user has two
    windows in the training split, or none has a window in validation after another one. `chosen`:
    what this function has returned for an earlier fit, whose number of epochs and NDCG epoch are
    repeated without validation.
    """
    trainer = _RankerTrainer(model, data, recipe)
    is_possible = len(trainer.train_W) and len(trainer.validation_W) if chosen is None else chosen
    torch.manual_seed(recipe.seed)
    if not is_possible:
        model.ranker = Ranker(len(data.categories), 0).eval().requires_grad_(False)
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
        self.biased_items = data.items[: recipe.biased_items]
        self.examples = RankingExamples(data.corpus.streams, self.biased_items, data.categories)
        self.train_W = self.examples.with_target(data.split.train)
        validation_W = self.examples.with_target(data.split.validation)
        if not len(validation_W):  # each user has at most one window there
            validation_W = self.examples.before(data.split.validation)
        self.validation_W = self._sample(validation_W, recipe.validation_windows)

    def _sample(self, windows: np.ndarray, size: int) -> np.ndarray:
        return np.sort(self.random.permutation(windows)[:size])

    def run(self, chosen: dict[str, Any] | None, on_progress: Progress) -> dict[str, Any]:
        """Fits with validation, or repeats what it has `chosen`."""
        ranker = self.model.ranker = self.new_ranker()
        report: dict[str, Any] = {"windows": len(self.train_W)}
        losses, best_weights = [], {}
        for epoch in self._epochs("ranker", self.train_W, on_progress):
            if chosen is None:
                losses.append(self._validate()[0])
                if min(losses) == losses[-1]:
                    best_weights = copy.deepcopy(ranker.state_dict())
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
        weights = copy.deepcopy(self.model.ranker.state_dict())
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
        tables = ranker.tables()
        others = [
            weight for weight in ranker.parameters() if all(weight is not each for each in tables)
        ]
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

    def new_ranker(self) -> Ranker:
        """With the scales of the features of a sample."""
        ranker = Ranker(len(self.data.categories), len(self.biased_items))
        tokens = self.examples.memory(self._sample(self.train_W, SCALE_WINDOWS))
        item, category = pairs(tokens, tokens.item_T), pairs(tokens, tokens.category_T)
        index_M = category_of_item(item, category)
        own_MF, its_MF = item.features_MF[index_M >= 0], category.features_MF[index_M[index_M >= 0]]
        if len(own_MF):
            both_MF = np.concatenate([own_MF, its_MF], 1)
        else:  # without categories, all of their features are 0
            both_MF = np.pad(item.features_MF, ((0, 0), (0, item.features_MF.shape[1])))
        for scorer, features_MF in (
            (ranker.categories, category.features_MF),
            (ranker.items, both_MF),
        ):
            if len(features_MF):
                scorer.mean.copy_(torch.from_numpy(features_MF.mean(0)))
                scorer.std.copy_(torch.from_numpy(features_MF.std(0).clip(min=MIN_STD)))
        return ranker

    def _losses(self, windows_B: np.ndarray) -> _Losses:
        rows, (had_items, had_categories) = len(windows_B), self.examples.target(windows_B)
        ranker = self.model.ranker
        hidden = self.recipe.nameless_share if ranker.training else 0.0
        ranked = ranker(self.examples.memory(windows_B), hidden)
        # What is not in memory is one more category.
        has_M = had_categories.has(ranked.category)
        size_B = had_categories.sizes(rows)
        others_B = size_B - np.bincount(ranked.category.row_M, has_M, rows)
        category_row = np.concatenate([ranked.category.row_M, np.arange(rows)])
        category_loss = set_loss(
            torch.cat([ranked.category_M, ranked.other_B]),
            category_row,
            np.concatenate([has_M, others_B]),
            rows,
        )
        is_item_M = had_items.has(ranked.item)
        lists = (
            (ranked.category, ranked.category_M, has_M, size_B),
            (ranked.item, ranked.item_M, is_item_M, had_items.sizes(rows)),
        )
        with torch.no_grad():
            ndcg = [ndcg_at_10(*each).mean() for each in lists]
        return _Losses(
            torch.stack(
                [category_loss, set_loss(ranked.item_M, ranked.item.row_M, is_item_M, rows)]
            ),
            torch.stack([ndcg_loss(*each) for each in lists]),
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


class RowSets(NamedTuple):
    """Sets of codes of B rows: ascending keys of a row and a code."""

    keys: np.ndarray
    width: int  # above every code

    @classmethod
    def of(cls, row_T: np.ndarray, code_T: np.ndarray, width: int) -> RowSets:
        """Code 0 is left out."""
        has_id_T = code_T > 0
        return cls(np.unique(row_T[has_id_T] * width + code_T[has_id_T]), width)

    def has(self, pairs: Pairs) -> np.ndarray:
        """(M,) bool: whether the row's set holds the code."""
        return np.isin(pairs.row_M * self.width + pairs.code_M, self.keys)

    def sizes(self, rows: int) -> np.ndarray:
        """(B,) members of each row's set."""
        return np.bincount(self.keys // self.width, minlength=rows)


class RankingExamples:
    """Examples of a corpus. Codes are those of models.profile.ranker.memory.MemoryTokens."""

    def __init__(self, streams: Streams, items: list[str], categories: list[str]):
        self.streams = streams
        self._first_of_user_W = np.searchsorted(streams.user_W, streams.user_W)
        self._item_code = _codes(streams.items, items)
        self._category_code = _codes(streams.categories, categories)

    def with_target(self, windows: np.ndarray) -> np.ndarray:
        """The ascending `windows` whose user has a next window among them."""
        next_W = np.minimum(windows + 1, len(self.streams.user_W) - 1)
        same_user_W = self.streams.user_W[next_W] == self.streams.user_W[windows]
        return windows[same_user_W & (next_W > windows) & np.isin(next_W, windows)]

    def before(self, windows: np.ndarray) -> np.ndarray:
        """The windows, ascending, whose user has the next window among the ascending `windows`."""
        return windows[windows > self._first_of_user_W[windows]] - 1

    def memory(self, windows_B: np.ndarray) -> MemoryTokens:
        """The memories after `windows_B`, as the job's SQL collects them."""
        streams = self.streams
        start_B = np.maximum(self._first_of_user_W[windows_B], windows_B - MEMORY_WINDOWS + 1)
        window_V = concatenated_ranges(start_B, windows_B + 1)
        counts_V = streams.last_W[window_V] - streams.first_W[window_V]
        token_T = concatenated_ranges(streams.first_W[window_V], streams.last_W[window_V])
        kept_T = streams.type_N[token_T] != RETURN
        return memory_tokens(
            np.repeat(np.arange(len(windows_B)), windows_B + 1 - start_B),
            streams.end_ms_W[window_V],
            counts_V,
            np.where(kept_T, self._item_code[streams.item_N[token_T]], 0),
            np.where(kept_T, self._category_code[streams.category_N[token_T]], 0),
            len(windows_B),
        )

    def target(self, windows_B: np.ndarray) -> tuple[RowSets, RowSets]:
        """The items, and the categories, that users had in the windows after `windows_B`."""
        tokens = self.memory(windows_B + 1)
        newest = tokens.windows_ago_T == 0
        row, item, category = (
            each[newest] for each in (tokens.row_T, tokens.item_T, tokens.category_T)
        )
        return (
            RowSets.of(row, item, 1 + int(self._item_code.max())),
            RowSets.of(row, category, 1 + int(self._category_code.max())),
        )


def _codes(ids: list[str], names: list[str]) -> np.ndarray:
    """Code of each id of the streams: 0 for "", 1 + index of a name, then the other ids."""
    code_of = {"": 0} | {name: 1 + index for index, name in enumerate(names)}
    return np.array([code_of.setdefault(id, len(code_of)) for id in ids], np.int64)


PLACES = 10
COMPARED = 100  # candidates of a row that the loss of NDCG compares, the best ones


def set_loss(logit_N: Tensor, row_N: np.ndarray, positive_N: np.ndarray, rows: int) -> Tensor:
    """Mean over the rows of the cross-entropy with the uniform distribution over their positives.

    Rows without a positive count 0.
    """
    row = torch.from_numpy(row_N)
    largest_B = torch.full((rows,), -torch.inf).scatter_reduce(0, row, logit_N.detach(), "amax")
    sum_B = torch.zeros(rows).index_add(0, row, (logit_N - largest_B[row]).exp())
    log_p_N = logit_N - (sum_B.log() + largest_B)[row]
    positive = torch.from_numpy(positive_N.astype(np.float32))
    positives_B = torch.zeros(rows).index_add(0, row, positive)
    return -(log_p_N * positive / positives_B.clamp(min=1)[row]).sum() / rows


def ndcg_loss(pairs: Pairs, logit_M: Tensor, positive_M: np.ndarray, size_B: np.ndarray) -> Tensor:
    """Mean over the rows of the logistic loss of each pair, weighted by its share of NDCG@10.

    The weight of a positive and a negative is by how much NDCG@10 changes if both swap places
    (LambdaRank: Burges 2010, MSR-TR-2010-82; as a loss: Wang et al. 2018,
    doi:10.1145/3269206.3271784). size_B: members of each row's set, candidates or not.
    """
    logit_BX, positive_BX = _best(pairs, logit_M, positive_M, len(size_B))
    discount_X = _discounts(logit_BX.shape[1])
    places = min(PLACES, logit_BX.shape[1])
    weight_KX = (discount_X[:places, None] - discount_X).triu(1)
    gain_BKX = positive_BX[:, :places, None] - positive_BX[:, None]
    margin_BKX = (logit_BX[:, :places, None] - logit_BX[:, None]) * gain_BKX
    loss_BKX = F.softplus(-margin_BKX) * gain_BKX.abs() * weight_KX
    return (loss_BKX.sum((1, 2)) / _ideal(size_B)).mean()


def ndcg_at_10(pairs: Pairs, logit_M: Tensor, positive_M: np.ndarray, size_B: np.ndarray) -> Tensor:
    """(B,) NDCG@10 of each row; 0 for an empty set."""
    logit_BX, positive_BX = _best(pairs, logit_M, positive_M, len(size_B))
    return positive_BX @ _discounts(logit_BX.shape[1]) / _ideal(size_B)


def _best(
    pairs: Pairs, logit_M: Tensor, positive_M: np.ndarray, rows: int
) -> tuple[Tensor, Tensor]:
    """(B, X) logits, largest first, and 1 for each positive. Empty places are far below."""
    logit_BX, is_positive_BX = columns(pairs._replace(code_M=positive_M), logit_M, rows, 1)
    best = logit_BX.topk(min(COMPARED, logit_BX.shape[1]))
    positive_BX = torch.from_numpy(is_positive_BX.astype(np.float32)).gather(1, best.indices)
    return best.values.clamp(min=-1e4), positive_BX


def _discounts(places: int) -> Tensor:
    """(X,) gain of a hit at each place."""
    place_X = torch.arange(places)
    return torch.where(place_X < PLACES, 1 / torch.log2(place_X + 2.0), 0.0)


def _ideal(size_B: np.ndarray) -> Tensor:
    """(B,) the gain of the best ranking."""
    return _discounts(PLACES).cumsum(0)[torch.from_numpy(size_B).clamp(1, PLACES) - 1]
