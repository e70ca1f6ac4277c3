"""Fits the ranker (models/profile/ranker/network.py) behind the finished trunk.

An example is a window of the training split whose user has a next window there. The target is what
the user had in that next window, as a set. The first epochs minimise a softmax over the candidates
that serving ranks, with the same weight for each member of the set; validation decides how many.
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
from models.profile.data.examples import run_trunk
from models.profile.data.prepared import PreparedData
from models.profile.data.training_rows import Streams
from models.profile.encoding import concatenated_ranges
from models.profile.forward import columns, rank
from models.profile.network import BehaviourTransformer
from models.profile.ranker.memory import RETURN, MemoryTokens, memory_tokens
from models.profile.ranker.network import Ranker, item_candidates, memory_pairs
from models.profile.recipes import Recipe
from models.profile.training.losses import train_epochs

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
        tokens = examples.memory(self._sample(self.train_W, SCALE_WINDOWS))
        item, category = memory_pairs(tokens)
        none = np.empty((tokens.rows, 0), np.int64)
        pair_M = item_candidates(item, category, none, usual_I).category_pair_N
        own_MF = np.concatenate([item.features_MF, np.zeros_like(item.features_MF)], 1)
        own_MF[pair_M >= 0, item.features_MF.shape[1] :] = category.features_MF[pair_M[pair_M >= 0]]
        if shape.categories:  # without categories, nothing else has their features either
            own_MF = own_MF[pair_M >= 0]
        scorers = (ranker.categories, category.features_MF), (ranker.items, own_MF)
        for scorer, features_MF in scorers:
            if len(features_MF):
                scorer.mean.copy_(torch.from_numpy(features_MF.mean(0)))
                scorer.std.copy_(torch.from_numpy(features_MF.std(0).clip(min=MIN_STD)))
        return ranker

    def _losses(self, windows_B: np.ndarray) -> _Losses:
        rows, (had_items, had_categories) = len(windows_B), self.examples.target(windows_B)
        h_BD = torch.from_numpy(self.state_WD[windows_B])
        ranked = rank(self.model, self.examples.memory(windows_B), h_BD, self.ranked_items)
        categories, candidates = ranked.categories, ranked.candidates
        named = categories.named_BC.shape[1]
        row_N = np.concatenate([np.repeat(np.arange(rows), named), categories.row_M])
        code_N = np.concatenate([np.tile(1 + np.arange(named), rows), categories.code_M])
        logit_N = torch.cat([categories.named_BC.flatten(), categories.further_M])
        is_item_N = had_items.has(candidates.row_N, candidates.code_N)
        lists = (
            (logit_N, row_N, had_categories.has(row_N, code_N), had_categories.sizes(rows)),
            (ranked.item_N, candidates.row_N, is_item_N, had_items.sizes(rows)),
        )
        with torch.no_grad():
            ndcg = [ndcg_at_10(*each).mean() for each in lists]
        return _Losses(
            torch.stack([set_loss(*each[:3], rows) for each in lists]),
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

    def has(self, row_M: np.ndarray, code_M: np.ndarray) -> np.ndarray:
        """(M,) bool: whether the row's set holds the code."""
        return np.isin(row_M * self.width + code_M, self.keys)

    def sizes(self, rows: int) -> np.ndarray:
        """(B,) members of each row's set."""
        return np.bincount(self.keys // self.width, minlength=rows)


class RankingExamples:
    """Examples of a corpus. Codes are those of models.profile.ranker.memory.MemoryTokens."""

    def __init__(self, streams: Streams, items: list[str], categories: list[str]):
        self.streams = streams
        self._items, self._categories = len(items), len(categories)
        self._first_of_user_W = np.searchsorted(streams.user_W, streams.user_W)
        self._item_code = _codes(streams.items, items)
        self._category_code = _codes(streams.categories, categories)
        # Above every code, also those of names that the streams lack.
        self._item_width = 1 + max(len(items), int(self._item_code.max(initial=0)))
        self._category_width = 1 + max(len(categories), int(self._category_code.max(initial=0)))

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
        items = RowSets.of(row, item, self._item_width)
        return items, RowSets.of(row, category, self._category_width)

    def usual_categories(self, windows: np.ndarray) -> np.ndarray:
        """(I,) code of the named category that each named item has most often in `windows`.

        0 for an item without any.
        """
        streams = self.streams
        token_T = concatenated_ranges(streams.first_W[windows], streams.last_W[windows])
        item_T = self._item_code[streams.item_N[token_T]]
        category_T = self._category_code[streams.category_N[token_T]]
        named_T = (item_T > 0) & (item_T <= self._items)
        named_T &= (category_T > 0) & (category_T <= self._categories)
        key, count = np.unique(
            item_T[named_T] * self._category_width + category_T[named_T], return_counts=True
        )
        item, category = np.divmod(key, self._category_width)
        result = np.zeros(self._items, np.int64)
        order = np.argsort(count, kind="stable")
        result[item[order] - 1] = category[order]  # the most frequent is written last
        return result


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


def ndcg_loss(
    logit_N: Tensor, row_N: np.ndarray, positive_N: np.ndarray, size_B: np.ndarray
) -> Tensor:
    """Mean over the rows of the logistic loss of each pair, weighted by its share of NDCG@10.

    The weight of a positive and a negative is by how much NDCG@10 changes if both swap places
    (LambdaRank: Burges 2010, MSR-TR-2010-82; as a loss: Wang et al. 2018,
    doi:10.1145/3269206.3271784). size_B: members of each row's set, candidates or not.
    """
    logit_BX, positive_BX = _best(logit_N, row_N, positive_N, len(size_B))
    discount_X = _discounts(logit_BX.shape[1])
    places = min(PLACES, logit_BX.shape[1])
    weight_KX = (discount_X[:places, None] - discount_X).triu(1)
    gain_BKX = positive_BX[:, :places, None] - positive_BX[:, None]
    margin_BKX = (logit_BX[:, :places, None] - logit_BX[:, None]) * gain_BKX
    loss_BKX = F.softplus(-margin_BKX) * gain_BKX.abs() * weight_KX
    return (loss_BKX.sum((1, 2)) / _ideal(size_B)).mean()


def ndcg_at_10(
    logit_N: Tensor, row_N: np.ndarray, positive_N: np.ndarray, size_B: np.ndarray
) -> Tensor:
    """(B,) NDCG@10 of each row; 0 for an empty set."""
    logit_BX, positive_BX = _best(logit_N, row_N, positive_N, len(size_B))
    return positive_BX @ _discounts(logit_BX.shape[1]) / _ideal(size_B)


def _best(
    logit_N: Tensor, row_N: np.ndarray, positive_N: np.ndarray, rows: int
) -> tuple[Tensor, Tensor]:
    """(B, X) logits, largest first, and 1 for each positive. Empty places are far below."""
    order_N = np.argsort(row_N, kind="stable")
    logit_N = logit_N[torch.from_numpy(order_N)]
    logit_BX, is_positive_BX = columns(row_N[order_N], positive_N[order_N], logit_N, rows)
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
