"""Ranks what a user has next, among the items and categories that the user's memory holds.

The ranker weighs counts, recency and gaps of each item and category of the memory, hundreds of
events (models/profile/ranker/memory.py), and adds what it knows of the names of its own shop. Where
it knows less than half of a memory, it ranks without names, as it does for some rows in training.
models/profile/training/fit_ranker.py fits it.

Sources
    repeat consumption by counts, recency and gaps    Anderson et al. 2014,
                                                      doi:10.1145/2566486.2568018
    the next basket as a set, decayed counts of it    Hu et al. 2020 (TIFU-KNN), arXiv:2006.00556
    softmax with several positives                    Blondel et al. 2020 and Rendle 2021,
                                                      arXiv:2105.09024
    bag of a user's past as input                     Covington et al. 2016,
                                                      doi:10.1145/2959100.2959190

Shape suffixes
    B rows   M pairs of a row and a category or item in memory   F pair features   U row features
    Z state width   H, G hidden widths
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
KNOWN_SHARE = 0.5  # of the tokens of a memory, at least
# Pair features whose products with category rows make up the bag of a user's past.
_BAG_FEATURES = [
    PAIR_FEATURES.index(name) for name in ("windows_30_days", "windows_90_days", "in_last_window")
]


class Ranked(NamedTuple):
    """The categories and items of the memories of B rows, with a logit each."""

    category: Pairs
    category_M: Tensor
    other_B: Tensor  # the logit of all categories that are not in the memory
    item: Pairs
    item_M: Tensor
    has_names_B: np.ndarray  # whether the memory is of the model's shop


# Some of the features of M pairs: a table, and its row for each pair. -1: all of them are 0; None:
# the rows are the pairs'.
FeaturePart = tuple[np.ndarray, np.ndarray | None]


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
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():  # at first the order of decayed counts
            self.linear.weight.zero_()[0, PAIR_FEATURES.index("windows_30_days")] = 1.0

    def forward(self, parts: Sequence[FeaturePart], state_BZ: Tensor, row_M: np.ndarray) -> Tensor:
        """(M,) scores of pairs whose features are those of all parts side by side.

        The first layer is computed before rows are gathered, because several pairs share a row.
        """
        first_FH = torch.cat([self.features.weight, self.linear.weight]).t() / self.std[:, None]
        bias_H = F.pad(self.features.bias, (0, 1)) - self.mean @ first_FH
        sum_MH = F.pad(self.state(state_BZ), (0, 1)) + bias_H
        sum_MH = sum_MH.index_select(0, to_device(row_M, state_BZ.device))
        place = 0
        for features_NF, index_M in parts:
            weight_FH = first_FH[place : place + features_NF.shape[1]]
            place += features_NF.shape[1]
            part_NH = to_device(features_NF, state_BZ.device) @ weight_FH
            if index_M is not None:
                index_M = np.where(index_M < 0, len(features_NF), index_M)  # the last row: zeros
                part_NH = F.pad(part_NH, (0, 0, 0, 1))
                part_NH = part_NH.index_select(0, to_device(index_M, state_BZ.device))
            sum_MH = sum_MH + part_NH
        hidden_MH, linear_M1 = sum_MH.split((HIDDEN_WIDTH, 1), 1)
        hidden_MG = F.relu(self.second(F.relu(hidden_MH)))
        return (self.out(hidden_MG) + linear_M1).squeeze(1)


class Ranker(nn.Module):
    """Logits of the categories and items in memory. Attribute names are keys of stored weights.

    categories, items: how many names it has weights for, the first ones of the model.
    """

    def __init__(self, categories: int, items: int):
        super().__init__()
        self.row = nn.Linear(len(ROW_FEATURES), STATE_WIDTH)
        self.other = nn.Linear(STATE_WIDTH, 1)
        self.categories = PairScorer(len(PAIR_FEATURES))
        self.items = PairScorer(2 * len(PAIR_FEATURES))  # of the item and of its category
        # Row 0: without a name.
        self.category_bias = nn.Parameter(torch.zeros(1 + categories))
        self.item_bias = nn.Parameter(torch.zeros(1 + items))
        self.bag = nn.Parameter(torch.empty(1 + categories, len(_BAG_FEATURES), STATE_WIDTH))
        self.category_rows = nn.Parameter(torch.empty(1 + categories, STATE_WIDTH))
        self.item_category_rows = nn.Parameter(torch.empty(1 + categories, STATE_WIDTH))
        for table in self.tables()[2:]:
            nn.init.normal_(table, std=0.02)

    def tables(self) -> list[nn.Parameter]:
        """Weights of single names, most of which have few examples."""
        rows = [self.bag, self.category_rows, self.item_category_rows]
        return [self.category_bias, self.item_bias, *rows]

    def forward(self, tokens: MemoryTokens, nameless_share: float = 0.0) -> Ranked:
        """Ranks the memories of B rows. nameless_share: of random rows, whose names are hidden."""
        category, item = pairs(tokens, tokens.category_T), pairs(tokens, tokens.item_T)
        device = self.row.weight.device
        has_names_B = self._knows(tokens)
        if nameless_share:
            has_names_B &= torch.rand(tokens.rows).numpy() >= nameless_share

        def named(row_M: np.ndarray, code_M: np.ndarray, names: Tensor) -> Tensor:
            """Codes with 0 for those without a name."""
            is_named_M = (code_M < len(names)) & has_names_B[row_M]
            return to_device(np.where(is_named_M, code_M, 0), device)

        category_row_M, item_row_M = (to_device(each.row_M, device) for each in (category, item))
        category_M = named(category.row_M, category.code_M, self.category_bias)
        item_M = named(item.row_M, item.code_M, self.item_bias)
        item_category_M = named(item.row_M, item.category_M, self.category_bias)
        bag_MK = to_device(category.features_MF[:, _BAG_FEATURES], device)
        bag_MZ = torch.einsum("mk,mkz->mz", bag_MK, self.bag[category_M])
        row_BZ = self.row(to_device(tokens.row_features_BU, device))
        state_BZ = F.relu(row_BZ.index_add(0, category_row_M, bag_MZ))
        its_category_M = category_of_item(item, category)
        item_parts = (item.features_MF, None), (category.features_MF, its_category_M)
        return Ranked(
            category,
            self.categories([(category.features_MF, None)], state_BZ, category.row_M)
            + self.category_bias[category_M]
            + _products(state_BZ, category_row_M, self.category_rows, category_M),
            self.other(state_BZ).squeeze(1),
            item,
            self.items(item_parts, state_BZ, item.row_M)
            + self.item_bias[item_M]
            + _products(state_BZ, item_row_M, self.item_category_rows, item_category_M),
            has_names_B,
        )

    def _knows(self, tokens: MemoryTokens) -> np.ndarray:
        """(B,) bool: whether the memories are of the model's shop, by its categories if it has any.

        Another shop's names can be equal by chance.
        """
        named = len(self.category_bias) - 1
        code_T = tokens.category_T if named else tokens.item_T
        known_T = (code_T > 0) & (code_T <= (named or len(self.item_bias) - 1))
        known_B, ids_B = (
            np.bincount(tokens.row_T, each_T, tokens.rows) for each_T in (known_T, code_T > 0)
        )
        return known_B >= np.maximum(KNOWN_SHARE * ids_B, 1)


def _products(state_BZ: Tensor, row_M: Tensor, table_NZ: Tensor, code_M: Tensor) -> Tensor:
    """(M,) product of each pair's state and its row of the table."""
    return torch.linalg.vecdot(state_BZ[row_M], table_NZ[code_M])


def category_of_item(item: Pairs, category: Pairs) -> np.ndarray:
    """(M,) index of the pair of each item's row and category; -1: the item has no category."""
    if not len(category.row_M):
        return np.full(len(item.row_M), -1)
    width = 1 + int(category.code_M.max())
    key_M, wanted_M = (
        row_M * width + code_M
        for row_M, code_M in (
            (category.row_M, category.code_M),
            (item.row_M, item.category_M),
        )
    )
    return np.where(item.category_M > 0, np.searchsorted(key_M, wanted_M), -1)
