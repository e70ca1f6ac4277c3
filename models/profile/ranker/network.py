"""Ranks what a user has next: the items and categories of the next window, as a set.

The trunk reads at most 31 tokens. The ranker reads the user's memory, hundreds of events
(models/profile/ranker/memory.py), and weighs counts, recency and gaps of each item and category
with a small network that depends on the user's state. models/profile/training/fit_ranker.py fits
it behind the finished trunk.

Sources
    repeat consumption by counts, recency and gaps    Anderson et al. 2014,
                                                      doi:10.1145/2566486.2568018
    the next basket as a set, decayed counts of it    Hu et al. 2020 (TIFU-KNN), arXiv:2006.00556
    softmax with several positives                    Blondel et al. 2020 and Rendle 2021,
                                                      arXiv:2105.09024
    bag of a user's past as input                     Covington et al. 2016,
                                                      doi:10.1145/2959100.2959190

Shape suffixes
    B rows   M pairs of a row and a category or item in memory   N candidate items of all rows
    F pair features   U row features   D trunk width   Z state width   H, G hidden widths
    C named categories   K the trunk's candidates
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.profile.device import to_device
from models.profile.ranker.memory import PAIR_FEATURES, ROW_FEATURES, MemoryTokens, Pairs, pairs

STATE_WIDTH, HIDDEN_WIDTH, SECOND_WIDTH = 32, 32, 16
STATE_DROPOUT = 0.2
TRUNK_CANDIDATES = 32
# Pair features whose products with category rows make up the bag of a user's past.
_BAG_FEATURES = [
    PAIR_FEATURES.index(name) for name in ("windows_30_days", "windows_90_days", "in_last_window")
]


class Candidates(NamedTuple):
    """N candidate items: those in memory and the trunk's, ordered by row, no item twice."""

    row_N: np.ndarray
    code_N: np.ndarray
    memory_N: np.ndarray  # index of the pair in memory, -1: not in memory
    category_N: np.ndarray  # code
    category_pair_N: np.ndarray  # index of the category's pair, -1: not in memory


class CategoryLogits(NamedTuple):
    """Logits of the named categories, and of M' further ones that only the memory names."""

    named_BC: Tensor
    row_M: np.ndarray
    code_M: np.ndarray
    further_M: Tensor


# Some of the features of M pairs: a table of N rows and the row of each pair; N: all features are
# 0; None: the rows are the pairs'.
FeaturePart = tuple[Tensor, Tensor | None]


class PairScorer(nn.Module):
    """A score of each pair: linear in its features, plus a network that also reads the state."""

    def __init__(self, features: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.linear = nn.Linear(features, 1, bias=False)
        self.features = nn.Linear(features, HIDDEN_WIDTH)
        self.state = nn.Linear(STATE_WIDTH, HIDDEN_WIDTH, bias=False)
        self.second = nn.Linear(HIDDEN_WIDTH, SECOND_WIDTH)
        self.out = nn.Linear(SECOND_WIDTH, 1, bias=False)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.out.weight)

    def forward(self, parts: Sequence[FeaturePart], state_BZ: Tensor, row_M: Tensor) -> Tensor:
        """(M,) scores of pairs whose features are those of all parts side by side.

        Without parts, all features are 0. The first layer is computed before rows are gathered,
        because several pairs share a row.
        """
        first_FH = torch.cat([self.features.weight, self.linear.weight]).t() / self.std[:, None]
        bias_H = F.pad(self.features.bias, (0, 1)) - self.mean @ first_FH
        sum_MH = (F.pad(self.state(state_BZ), (0, 1)) + bias_H).index_select(0, row_M)
        place = 0
        for features_NF, index_M in parts:
            weight_FH = first_FH[place : place + features_NF.shape[1]]
            place += features_NF.shape[1]
            part_NH = features_NF @ weight_FH
            if index_M is not None:  # the last row: of pairs that are not among the N
                part_NH = F.pad(part_NH, (0, 0, 0, 1)).index_select(0, index_M)
            sum_MH = sum_MH + part_NH
        hidden_MH, linear_M1 = sum_MH.split((HIDDEN_WIDTH, 1), 1)
        hidden_MG = F.relu(self.second(F.relu(hidden_MH)))
        return (self.out(hidden_MG) + linear_M1).squeeze(1)


class Ranker(nn.Module):
    """Logits of categories and candidate items. Attribute names are keys of the stored weights.

    trunk_dim: width of the trunk's states. items: named items, of which the first `biased_items`
    have a bias.
    """

    def __init__(self, trunk_dim: int, categories: int, items: int, biased_items: int):
        super().__init__()
        self.named = categories
        pair, row = len(PAIR_FEATURES), len(ROW_FEATURES)
        self.trunk = nn.Linear(trunk_dim, STATE_WIDTH)
        self.row = nn.Linear(row, STATE_WIDTH, bias=False)
        # Row 0: a category without a name in the model.
        self.bag = nn.Parameter(torch.empty(1 + categories, len(_BAG_FEATURES), STATE_WIDTH))
        self.category_rows = nn.Parameter(torch.empty(1 + categories, STATE_WIDTH))
        self.category_bias = nn.Parameter(torch.zeros(1 + categories))
        self.item_category_rows = nn.Parameter(torch.empty(1 + categories, STATE_WIDTH))
        self.item_bias = nn.Parameter(torch.zeros(1 + biased_items))
        self.register_buffer("item_category", torch.zeros(items, dtype=torch.int64))  # usual code
        self.trunk_weights = nn.Parameter(torch.zeros(2))  # of its category and item logits
        self.categories = PairScorer(pair)
        self.items = PairScorer(2 * pair)
        for table in (self.bag, self.category_rows, self.item_category_rows):
            nn.init.normal_(table, std=0.02)

    def states(self, h_BD: Tensor, tokens: MemoryTokens, category: Pairs) -> Tensor:
        """(B, Z) states of the users."""
        h_BD = F.dropout(h_BD, STATE_DROPOUT, self.training)
        bags = len(_BAG_FEATURES)
        index_MK = _known(category.code_M, self.named)[:, None] * bags + np.arange(bags)
        pairs_B = np.bincount(category.row_M, minlength=tokens.rows)
        bag_BZ = F.embedding_bag(
            _tensor(index_MK.ravel(), h_BD),
            self.bag.flatten(0, 1),
            _tensor(bags * (np.cumsum(pairs_B) - pairs_B), h_BD),
            mode="sum",
            per_sample_weights=_tensor(category.features_MF[:, _BAG_FEATURES].ravel(), h_BD),
        )
        row_BZ = self.row(_tensor(tokens.row_features_BU, h_BD))
        return F.relu(self.trunk(h_BD) + row_BZ + bag_BZ)

    def category_logits(
        self, state_BZ: Tensor, category: Pairs, trunk_logits_BC: Tensor
    ) -> CategoryLogits:
        """trunk_logits_BC: the trunk's logits of the named categories."""
        rows = torch.arange(len(state_BZ), device=state_BZ.device)
        absent_B = self.categories((), state_BZ, rows)
        row_M = _tensor(category.row_M, state_BZ)
        present = _tensor(category.features_MF, state_BZ), None
        present_M = self.categories((present,), state_BZ, row_M)
        more_M = present_M - absent_B.index_select(0, row_M)
        base_BC = F.linear(state_BZ, self.category_rows, self.category_bias)
        base_BC = base_BC + absent_B[:, None]
        is_named_M = category.code_M <= self.named
        named, further = np.flatnonzero(is_named_M), np.flatnonzero(~is_named_M)
        index = (
            _tensor(category.row_M[named], state_BZ),
            _tensor(category.code_M[named] - 1, state_BZ),
        )
        named_BC = base_BC[:, 1:] + self.trunk_weights[0] * trunk_logits_BC
        named_BC = named_BC.index_put(index, more_M[_tensor(named, state_BZ)], accumulate=True)
        further_row = _tensor(category.row_M[further], state_BZ)
        further_M = base_BC[:, 0]
        if self.named:
            further_M = further_M + trunk_logits_BC.amin(1) * self.trunk_weights[0]
        further_M = further_M.index_select(0, further_row) + more_M[_tensor(further, state_BZ)]
        return CategoryLogits(
            named_BC, category.row_M[further], category.code_M[further], further_M
        )

    def item_logits(
        self,
        state_BZ: Tensor,
        candidates: Candidates,
        item: Pairs,
        category: Pairs,
        trunk_logit_N: Tensor,
    ) -> Tensor:
        """(N,) logits. trunk_logit_N: the trunk's logit of each candidate."""
        parts = (
            _part(item, candidates.memory_N, state_BZ),
            _part(category, candidates.category_pair_N, state_BZ),
        )
        row_N = _tensor(candidates.row_N, state_BZ)
        category_N = _tensor(_known(candidates.category_N, self.named), state_BZ)
        biased_N = _tensor(_known(candidates.code_N, len(self.item_bias) - 1), state_BZ)
        affinity_BC = F.linear(state_BZ, self.item_category_rows)
        return (
            self.items(parts, state_BZ, row_N)
            + self.item_bias[biased_N]
            + affinity_BC[row_N, category_N]
            + self.trunk_weights[1] * trunk_logit_N
        )


def item_candidates(
    item: Pairs, category: Pairs, trunk_item_BK: np.ndarray, item_category_I: np.ndarray
) -> Candidates:
    """The items in memory, and the trunk's candidates that are not among them.

    trunk_item_BK: 0-based named items. item_category_I: the usual category code of each.
    """
    rows = len(trunk_item_BK)
    width = 1 + max(int(item.code_M.max(initial=0)), len(item_category_I))
    memory_key_M = item.row_M * width + item.code_M
    trunk_key = (np.arange(rows)[:, None] * width + trunk_item_BK + 1).ravel()
    new = _find(memory_key_M, trunk_key) < 0
    new_key = trunk_key[new]
    key_N = np.concatenate([memory_key_M, new_key])
    memory_N = np.concatenate([np.arange(len(memory_key_M)), np.full(len(new_key), -1)])
    category_N = np.concatenate([item.category_M, item_category_I[new_key % width - 1]])
    order_N = np.argsort(key_N, kind="stable")
    row_N, code_N = np.divmod(key_N[order_N], width)
    category_N = category_N[order_N]
    categories = 1 + max(int(category.code_M.max(initial=0)), int(category_N.max(initial=0)))
    category_key_M = category.row_M * categories + category.code_M
    category_pair_N = _find(category_key_M, row_N * categories + category_N)
    return Candidates(row_N, code_N, memory_N[order_N], category_N, category_pair_N)


def _find(key_M: np.ndarray, wanted_N: np.ndarray) -> np.ndarray:
    """(N,) indexes of the wanted keys in the ascending keys; -1: not among them."""
    if not len(key_M):
        return np.full(len(wanted_N), -1)
    index_N = np.searchsorted(key_M, wanted_N).clip(max=len(key_M) - 1)
    return np.where(key_M[index_N] == wanted_N, index_N, -1)


def memory_pairs(tokens: MemoryTokens) -> tuple[Pairs, Pairs]:
    """The items and the categories of the memories."""
    return pairs(tokens, tokens.item_T), pairs(tokens, tokens.category_T)


def _part(pairs_of: Pairs, index_N: np.ndarray, like: Tensor) -> FeaturePart:
    """The features of the pairs with these indexes; -1: zeros."""
    index_N = np.where(index_N < 0, len(pairs_of.row_M), index_N)
    return _tensor(pairs_of.features_MF, like), _tensor(index_N, like)


def _known(code_M: np.ndarray, named: int) -> np.ndarray:
    """Codes with 0 for those without a name."""
    return np.where(code_M <= named, code_M, 0)


def _tensor(array: np.ndarray, like: Tensor) -> Tensor:
    return to_device(array, like.device)
