"""Memories of the windows of a corpus, and what their users had in the next window.

Shape suffixes: W windows of the streams, B windows of a batch, M members of their targets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.wire.histories import MEMORY_WINDOWS
from models.profile.data.training_rows import Streams
from models.profile.encoding import concatenated_ranges
from models.profile.ranker.memory import RETURN, MemoryTokens, memory_tokens


class Target(NamedTuple):
    """What B users had in their next windows, as sets: keys of a row and a code, ascending."""

    item: np.ndarray
    category: np.ndarray
    item_width: int
    category_width: int

    def has_item(self, row_M: np.ndarray, code_M: np.ndarray) -> np.ndarray:
        """(M,) bool: whether the row's set holds the item."""
        return np.isin(row_M * self.item_width + code_M, self.item)

    def sizes(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """(B,) members of each row's sets: categories and items."""
        categories = np.bincount(self.category // self.category_width, minlength=rows)
        return categories, np.bincount(self.item // self.item_width, minlength=rows)

    def has_category(self, row_M: np.ndarray, code_M: np.ndarray) -> np.ndarray:
        """(M,) bool: whether the row's set holds the category."""
        return np.isin(row_M * self.category_width + code_M, self.category)


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

    def target(self, windows_B: np.ndarray) -> Target:
        """What the users of `windows_B` had in the windows after these."""
        tokens = self.memory(windows_B + 1)
        newest = tokens.windows_ago_T == 0
        item, category = tokens.item_T[newest], tokens.category_T[newest]
        row = tokens.row_T[newest]
        return Target(
            np.unique(row[item > 0] * self._item_width + item[item > 0]),
            np.unique(row[category > 0] * self._category_width + category[category > 0]),
            self._item_width,
            self._category_width,
        )

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
