"""What the ranker reads of a user's memory: which items and categories it holds, how often, when.

Events of one window have one time, so no feature depends on their order.

Shape suffixes
    B rows (one user and window each)   V windows of all rows   T tokens of all rows
    M pairs of a row and an item or category   F features of a pair   U features of a row
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from liveprofile.units import DAY_MS
from liveprofile.wire.histories import Memories, to_list
from liveprofile.wire.tokens import TYPE_INDEX

HALF_LIVES_DAYS = (7.0, 30.0, 90.0)
HALF_LIVES_WINDOWS = (10.0, 30.0)
PAIR_FEATURES = (
    *(f"windows_{days:g}_days" for days in HALF_LIVES_DAYS),
    *(f"windows_{windows:g}_windows" for windows in HALF_LIVES_WINDOWS),
    "events_30_days",
    "windows",
    "share_of_windows",
    "last_days",
    "last_windows",
    "in_last_window",
    "gap_days",
    "last_over_gap",
    "once",
    "first_days",
)
ROW_FEATURES = ("windows", "days", "window_tokens", "last_window_tokens", "gap_days", "last_gap")
RETURN, PURCHASE = TYPE_INDEX["return"], TYPE_INDEX["purchase"]
TIE_BREAK = 1e-4  # in logits
MOST_WINDOWS = 1_000  # of a memory


class MemoryTokens(NamedTuple):
    """The tokens of B memories, those of each row from its first window to its last.

    Codes: 0 is no id; then the model's names; then further ids that only these rows share.
    """

    rows: int
    row_T: np.ndarray
    item_T: np.ndarray
    category_T: np.ndarray
    age_days_T: np.ndarray  # from the end of the token's window to the end of the row's last one
    windows_ago_T: np.ndarray  # 0: in the row's last window
    row_features_BU: np.ndarray  # float32, ROW_FEATURES as log(1 + x)


class MemoryWindows(NamedTuple):
    """The windows of B memories, those of each row from its first to its last."""

    sizes_B: np.ndarray
    end_ms_V: np.ndarray
    purchases_V: np.ndarray


class Pairs(NamedTuple):
    """The items, or categories, of B memories, ordered by row and code."""

    row_M: np.ndarray
    code_M: np.ndarray
    features_MF: np.ndarray  # float32, PAIR_FEATURES
    category_M: np.ndarray  # the category code of an item's newest token


def memory_tokens(
    window_row_V: np.ndarray,
    window_ms_V: np.ndarray,
    window_tokens_V: np.ndarray,
    item_T: np.ndarray,
    category_T: np.ndarray,
    rows: int,
) -> MemoryTokens:
    """Times and sizes of the windows of B rows, ordered by row and time, and their tokens' codes.

    window_tokens_V: the number of tokens of each window.
    """
    windows_B = np.bincount(window_row_V, minlength=rows)
    end_B = np.cumsum(windows_B)
    has_B = windows_B > 0
    last_B, first_B = np.maximum(end_B - 1, 0), np.minimum(end_B - windows_B, len(window_ms_V) - 1)
    now_ms_B = np.where(has_B, window_ms_V[last_B], 0) if len(window_ms_V) else np.zeros(rows)
    age_days_V = ((now_ms_B[window_row_V] - window_ms_V) / DAY_MS).astype(np.float32)
    windows_ago_V = (last_B[window_row_V] - np.arange(len(window_row_V))).astype(np.float32)
    row_features_BU = np.zeros((rows, len(ROW_FEATURES)), np.float32)
    if len(window_ms_V):
        tokens_B = np.bincount(window_row_V, window_tokens_V, rows)
        days_B = age_days_V[first_B]
        previous_B = np.where(windows_B > 1, last_B - 1, last_B)
        count_B = np.maximum(windows_B, 1)
        columns = (
            windows_B,
            days_B,
            tokens_B / count_B,
            window_tokens_V[last_B],
            days_B / count_B,
            age_days_V[previous_B],
        )
        row_features_BU[:] = np.log1p(np.column_stack(columns)) * has_B[:, None]
    return MemoryTokens(
        rows,
        np.repeat(window_row_V, window_tokens_V),
        item_T,
        category_T,
        np.repeat(age_days_V, window_tokens_V),
        np.repeat(windows_ago_V, window_tokens_V),
        row_features_BU,
    )


def pairs(tokens: MemoryTokens, code_T: np.ndarray) -> Pairs:
    """Counts each code of each row. Code 0 is left out."""
    width = 1 + int(code_T.max(initial=0))
    key_T = tokens.row_T * width + code_T
    has_id_T = np.flatnonzero(code_T > 0)
    # Keys with their places sort many times faster than `argsort` finds a stable order.
    places = 1 << len(code_T).bit_length()
    sorted_T = np.sort(key_T[has_id_T] * places + has_id_T)
    key_T, order_T = sorted_T // places, sorted_T % places
    first_M = np.flatnonzero(np.diff(key_T, prepend=-1))
    if not len(first_M):
        none = np.empty(0, np.int64)
        return Pairs(none, none, np.empty((0, len(PAIR_FEATURES)), np.float32), none)
    # The largest code of the newest window: the order of its tokens means nothing.
    categories = int(tokens.category_T.max()) + 1
    newest_T = categories * (MOST_WINDOWS - tokens.windows_ago_T.astype(np.int64))
    newest_T = (newest_T + tokens.category_T)[order_T]
    last_M = np.append(first_M[1:], len(key_T)) - 1
    row_M, code_M = np.divmod(key_T[first_M], width)
    age_T, ago_T = tokens.age_days_T[order_T], tokens.windows_ago_T[order_T]
    # A token counts once for each window.
    new_window_T = np.ones(len(key_T), np.float32)
    new_window_T[1:] = (np.diff(key_T) != 0) | (np.diff(ago_T) != 0)
    weight_30_T = np.exp2(age_T / -30.0)
    # One pass over the tokens sums all of the decayed counts.
    weights = [
        *(weight_30_T if days == 30 else np.exp2(age_T / -days) for days in HALF_LIVES_DAYS),
        *(np.exp2(ago_T / -windows) for windows in HALF_LIVES_WINDOWS),
    ]
    sums = [np.add.reduceat(weight_T * new_window_T, first_M) for weight_T in weights]
    windows_M = np.add.reduceat(new_window_T, first_M)
    last_M_days, first_days_M = age_T[last_M], age_T[first_M]
    repeated_M = windows_M > 1
    gap_M = (first_days_M - last_M_days) / np.maximum(windows_M - 1, 1)
    overdue_M = np.log((last_M_days + 1) / (gap_M + 1)) * repeated_M
    columns = (
        *map(np.log1p, sums),
        np.log1p(np.add.reduceat(weight_30_T, first_M)),
        np.log1p(windows_M),
        windows_M / (ago_T[first_M] + 1),
        np.log1p(last_M_days),
        np.log1p(ago_T[last_M]),
        ago_T[last_M] == 0,
        np.log1p(gap_M),
        overdue_M,
        ~repeated_M,
        np.log1p(first_days_M),
    )
    category_M = np.maximum.reduceat(newest_T, first_M) % categories
    return Pairs(row_M, code_M, np.column_stack(columns).astype(np.float32), category_M)


class IndexedMemories(NamedTuple):
    """The windows of B memories end to end, with the codes of their tokens."""

    sizes_B: np.ndarray
    end_ms_V: np.ndarray
    purchases_V: np.ndarray
    tokens_V: np.ndarray  # how many each window has
    item_T: np.ndarray
    category_T: np.ndarray

    def rows(self, rows: slice) -> IndexedMemories:
        """Some of the memories, in order."""
        first, last, _ = rows.indices(len(self.sizes_B))
        windows = slice(self.sizes_B[:first].sum(), self.sizes_B[:last].sum())
        tokens = slice(self.tokens_V[: windows.start].sum(), self.tokens_V[: windows.stop].sum())
        columns_V = (column[windows] for column in self[1:4])
        return IndexedMemories(
            self.sizes_B[rows], *columns_V, self.item_T[tokens], self.category_T[tokens]
        )

    def parts(self, max_rows: int) -> Iterator[MemoryTokens]:
        """The tokens of all memories, some rows at a time."""
        for first in range(0, len(self.sizes_B), max_rows):
            yield self.rows(slice(first, first + max_rows)).tokens()

    def tokens(self) -> MemoryTokens:
        rows = len(self.sizes_B)
        row_V = np.repeat(np.arange(rows), self.sizes_B)
        ids_T = self.item_T, self.category_T
        return memory_tokens(row_V, self.end_ms_V, self.tokens_V, *ids_T, rows)

    def windows(self) -> MemoryWindows:
        return MemoryWindows(*self[:3])


class MemoryReader:
    """Turns the ids of memories into codes.

    items, categories: the names of the codes of the latest memories, from code 1 on: the model's,
    then further ids. item_ties, category_ties: float32 by code, below TIE_BREAK.
    """

    def __init__(self, items: list[str], categories: list[str]):
        self.items, self.categories = items, categories
        self._items, self._categories = _Names(items), _Names(categories)

    def index(self, memories: Memories) -> IndexedMemories:
        """The codes of B memories. Codes of further ids are valid until the next call."""
        window_T = np.repeat(np.arange(len(memories.end_ms)), memories.token_counts)
        is_purchase_T = memories.type_index == PURCHASE
        purchases_V = np.bincount(window_T[is_purchase_T], minlength=len(memories.end_ms))
        item_T, self.items, self.item_ties = self._items.encode(memories.item)
        category_T, self.categories, self.category_ties = self._categories.encode(memories.category)
        for code_T in (item_T, category_T):
            code_T[memories.type_index == RETURN] = 0
        return IndexedMemories(
            memories.sizes, memories.end_ms, purchases_V, memories.token_counts, item_T, category_T
        )


class _Names:
    """The model's names of items, or of categories."""

    def __init__(self, names: list[str]):
        self._names, self._coded = names, pa.array(["", *names], pa.large_string())

    def encode(self, ids: pa.Array) -> tuple[np.ndarray, list[str], np.ndarray]:
        """(T,) codes of ids, the names from code 1 on, and float32 by code that order equal ids.

        Ids that a user had in the same windows have equal scores. Their order must not depend on
        which id a batch has first.
        """
        encoded = pa.concat_arrays([self._coded, ids]).dictionary_encode()
        named, further = len(self._coded), encoded.dictionary[len(self._coded) :]
        hashes = map(zlib.crc32, to_list(further.cast(pa.large_binary())))
        ties = np.zeros(named + len(further), np.float32)
        ties[named:] = TIE_BREAK / 2**32 * np.fromiter(hashes, np.float64, len(further))
        code_T = encoded.indices.to_numpy()[named:].astype(np.int64)
        return code_T, self._names + to_list(further), ties
