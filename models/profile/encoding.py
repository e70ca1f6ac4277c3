"""From tokens to the integers that the Transformer reads.

Every token becomes FIELDS small indexes into one embedding table, so the model's whole input is one
summed look-up. Ids outside the vocabulary share hashed rows (Weinberger et al., Feature Hashing for
Large Scale Multitask Learning, ICML 2009, arXiv:0902.2206), hashed by CRC-32 so that every process
agrees. User ids never enter.

The first position holds no event but what little can be said of the whole history at no cost, since
only its end fits: how many events it has and how long a time they span.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from liveprofile.units import HOUR_MS
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import EVENT_TYPES
from models.profile import user_features
from models.profile.user_features import Had

FIELDS = ("item", "category", "type", "amount", "gap", "hour", "position")
BOS_TYPE = len(EVENT_TYPES)
AMOUNT_BUCKETS = 64
GAP_BUCKETS = 40
COUNT_BUCKETS = 48
SPAN_BUCKETS = 108
HOURS_OF_WEEK = 168
NO_HOUR = HOURS_OF_WEEK
# 1970-01-01 was a Thursday: three days into a week that begins on Monday.
EPOCH_HOUR_OF_WEEK = 72
MEMO_IDS = 200_000


class _Memo(dict[str, int]):
    """id -> index; hashes what it does not know and remembers it, within a bound."""

    def __init__(self, names: Sequence[str], buckets: int):
        super().__init__({"": 0})
        self._names, self._buckets = names, buckets
        self._fill()

    def _fill(self) -> None:
        self.update((name, 1 + index) for index, name in enumerate(self._names))
        self[""] = 0

    def __missing__(self, name: str) -> int:
        if len(self) > len(self._names) + MEMO_IDS:
            self.clear()
            self._fill()
        index = hashed(name, len(self._names), self._buckets)
        self[name] = index
        return index


def hashed(name: str, known: int, buckets: int) -> int:
    """The row of an id outside the vocabulary of `known` names."""
    return 1 + known + zlib.crc32(name.encode("utf-8", "surrogatepass")) % buckets


class Vocabulary:
    """Rows of one kind of id: 0 unknown or empty, then the names, then the hash buckets."""

    def __init__(self, names: Sequence[str], buckets: int):
        self.names = list(names)
        self.buckets = buckets
        self.rows = 1 + len(self.names) + buckets
        self.index = _Memo(self.names, buckets)

    def indexes(self, ids: Sequence[str]) -> np.ndarray:
        """(N,) int32 rows."""
        return np.fromiter(map(self.index.__getitem__, ids), np.int32, len(ids))


class Layout(NamedTuple):
    """Where each field's rows begin in the one embedding table; `rows` is its height."""

    item: int
    category: int
    type: int
    amount: int
    gap: int
    hour: int
    position: int
    rows: int

    @classmethod
    def of(cls, item_rows: int, category_rows: int, max_len: int) -> Layout:
        sizes = (
            item_rows, category_rows, BOS_TYPE + 1, AMOUNT_BUCKETS + COUNT_BUCKETS,
            GAP_BUCKETS + SPAN_BUCKETS, HOURS_OF_WEEK + 1, max_len,
        )  # fmt: skip
        return cls(0, *(int(end) for end in np.cumsum(sizes)))

    @property
    def offsets(self) -> np.ndarray:
        return np.array(self[:-1], np.int32)


def kept_counts(
    histories_B: np.ndarray, windows_B: np.ndarray, max_len: int
) -> tuple[np.ndarray, np.ndarray]:
    """How many history and window tokens of each row fit beside BOS; the newest of both are kept.

    The window may push history out, but not below a quarter of the room.
    """
    room = max_len - 1
    window_B = np.minimum(windows_B, room - np.minimum(histories_B, room // 4))
    return np.minimum(histories_B, room - window_B), window_B


def amount_bucket(amount_N: np.ndarray) -> np.ndarray:
    """Currency to one of AMOUNT_BUCKETS, four to a doubling; 0 for none."""
    bucket_N = 1 + np.floor(4 * np.log2(1 + np.maximum(amount_N, 0.0)))
    return np.where(amount_N > 0, np.minimum(bucket_N, AMOUNT_BUCKETS - 1), 0).astype(np.int32)


def gap_bucket(gap_ms_N: np.ndarray) -> np.ndarray:
    """Milliseconds since the event before to one of 1..GAP_BUCKETS-1, three to two doublings."""
    bucket_N = 1 + np.floor(1.5 * np.log2(1 + np.maximum(gap_ms_N, 0) / 1000.0))
    return np.minimum(bucket_N, GAP_BUCKETS - 1).astype(np.int32)


def feature_rows(
    layout: Layout,
    item_N: np.ndarray,
    category_N: np.ndarray,
    type_N: np.ndarray,
    amount_N: np.ndarray,
    time_ms_N: np.ndarray,
    position_N: np.ndarray,
) -> np.ndarray:
    """(N, len(FIELDS)) int32 rows of the embedding table for tokens in sequence order.

    `position_N` counts from 1 in each sequence, so a 1 begins the next one; amounts in currency.
    """
    gap_N = gap_bucket(np.diff(time_ms_N, prepend=time_ms_N[:1]))
    gap_N[position_N == 1] = 0
    rows_N7 = np.empty((len(item_N), len(FIELDS)), np.int32)
    rows_N7[:, 0] = item_N
    rows_N7[:, 1] = category_N
    rows_N7[:, 2] = type_N
    rows_N7[:, 3] = amount_bucket(amount_N)
    rows_N7[:, 4] = gap_N
    rows_N7[:, 5] = (time_ms_N // HOUR_MS + EPOCH_HOUR_OF_WEEK) % HOURS_OF_WEEK
    rows_N7[:, 6] = position_N
    rows_N7 += layout.offsets
    return rows_N7


def bos_rows(layout: Layout, count_B: np.ndarray, span_ms_B: np.ndarray) -> np.ndarray:
    """(B, len(FIELDS)) int32: position 0 of sequences whose whole histories have `count_B` events.

    `span_ms_B` lies between a history's first and last event. Both go in quarters of a doubling.
    """
    rows_B7 = np.tile(np.array([0, 0, BOS_TYPE, 0, 0, NO_HOUR, 0], np.int32), (len(count_B), 1))
    rows_B7[:, 3] = AMOUNT_BUCKETS + _quarters(count_B, COUNT_BUCKETS)
    rows_B7[:, 4] = GAP_BUCKETS + _quarters(span_ms_B / 1000.0, SPAN_BUCKETS)
    return rows_B7 + layout.offsets


def _quarters(value_B: np.ndarray, buckets: int) -> np.ndarray:
    return np.minimum(np.floor(4 * np.log2(1 + np.maximum(value_B, 0))), buckets - 1)


class Batch(NamedTuple):
    """B sequences laid end to end, those of one group padded on the right to one length.

    All places are indexes into the P flat positions; S positions predict an event of the window.
    """

    features_P7: np.ndarray
    groups: list[tuple[int, int, int]]  # first position, rows, length
    before_B: np.ndarray  # place before the window: the last history event, or BOS
    after_B: np.ndarray  # place of the last event
    scored_S: np.ndarray  # places whose next event belongs to the window, row by row
    scored_counts_B: np.ndarray
    category_S: np.ndarray  # that event's category row ...
    type_S: np.ndarray  # ... and type
    had_before_BC: np.ndarray  # how often the history has each category row, float32 ...
    had_after_BC: np.ndarray  # ... and history and window together
    had_items: Had  # history and window together, named items only: row 1 is the first name


class Known(NamedTuple):
    """The tokens of B rows looked up: histories laid end to end, then windows; N in all."""

    history_starts: np.ndarray  # (B + 1,)
    window_starts: np.ndarray  # (B + 1,)
    item: np.ndarray  # (N,) rows of the items' table
    category: np.ndarray
    type: np.ndarray
    amount: np.ndarray
    time_ms: np.ndarray


class Encoder:
    """Tokens to `Batch`: two dict look-ups for each token, and the rest in numpy."""

    def __init__(self, items: Vocabulary, categories: Vocabulary, max_len: int, decay_days: float):
        self.items, self.categories, self.max_len = items, categories, max_len
        self.decay_days = decay_days
        self.layout = Layout.of(items.rows, categories.rows, max_len)

    def lengths(self, history_sizes_B: np.ndarray, window_sizes_B: np.ndarray) -> np.ndarray:
        """(B,) positions that each row takes, BOS included."""
        history_B, window_B = kept_counts(history_sizes_B, window_sizes_B, self.max_len)
        return 1 + history_B + window_B

    def known(self, histories: TokenColumns, windows: TokenColumns) -> Known:
        """All that is looked up, once for a whole batch."""
        both = (histories, windows)
        return Known(
            histories.starts,
            windows.starts + len(histories.item),
            np.concatenate([self.items.indexes(tokens.item) for tokens in both]),
            np.concatenate([self.categories.indexes(tokens.category) for tokens in both]),
            np.concatenate([tokens.type_index for tokens in both]),
            np.concatenate([tokens.amount for tokens in both]),
            np.concatenate([tokens.time_ms for tokens in both]),
        )

    def encode(self, known: Known, rows_B: np.ndarray, length_buckets: Sequence[int]) -> Batch:
        """`rows_B`: which rows of `known`, ascending in `lengths`."""
        history_first_B, history_end_B = (
            known.history_starts[rows_B],
            known.history_starts[rows_B + 1],
        )
        window_first_B, window_end_B = known.window_starts[rows_B], known.window_starts[rows_B + 1]
        all_history_B = history_end_B - history_first_B
        history_B, window_B = kept_counts(
            all_history_B, window_end_B - window_first_B, self.max_len
        )
        tokens_B = history_B + window_B
        groups, start_B = layout_groups(1 + tokens_B, length_buckets)

        first_B = np.cumsum(tokens_B) - tokens_B
        position_N = np.arange(1, int(tokens_B.sum()) + 1) - np.repeat(first_B, tokens_B)
        place_N = np.repeat(start_B, tokens_B) + position_N
        scored_N = position_N > np.repeat(history_B, tokens_B)
        # Of each row the last tokens of its history, then the last of its window.
        token_N = (
            position_N
            - 1
            + np.where(
                scored_N,
                np.repeat(window_end_B - tokens_B, tokens_B),
                np.repeat(history_end_B - history_B, tokens_B),
            )
        )
        type_N, category_N = known.type[token_N], known.category[token_N]

        span_ms_B = np.zeros(len(rows_B), np.int64)
        some_B = all_history_B > 0
        span_ms_B[some_B] = (
            known.time_ms[history_end_B[some_B] - 1] - known.time_ms[history_first_B[some_B]]
        )
        features_P7 = np.zeros((positions(groups), len(FIELDS)), np.int32)
        features_P7[start_B] = bos_rows(self.layout, all_history_B, span_ms_B)
        features_P7[place_N] = feature_rows(
            self.layout,
            known.item[token_N],
            category_N,
            type_N,
            known.amount[token_N],
            known.time_ms[token_N],
            position_N,
        )
        return Batch(
            features_P7,
            groups,
            start_B + history_B,
            start_B + tokens_B,
            place_N[scored_N] - 1,
            window_B,
            category_N[scored_N],
            type_N[scored_N],
            *self._had(known, rows_B),
        )

    def _had(self, known: Known, rows_B: np.ndarray) -> tuple[np.ndarray, np.ndarray, Had]:
        """What the rows' users had: categories before and after the window, items after it."""
        rows, width = len(rows_B), self.categories.rows
        first_B, end_B = known.history_starts[rows_B], known.history_starts[rows_B + 1]
        window_first_B, window_end_B = known.window_starts[rows_B], known.window_starts[rows_B + 1]
        history_N = spans(first_B, end_B)
        window_N = spans(window_first_B, window_end_B)
        history_row_N = np.repeat(np.arange(rows), end_B - first_B)
        window_row_N = np.repeat(np.arange(rows), window_end_B - window_first_B)
        token_N = np.concatenate([history_N, window_N])
        row_N = np.concatenate([history_row_N, window_row_N])
        # Ages count from the last event, so that what stands after a window stands before the next.
        last_B = np.where(end_B > first_B, end_B, window_end_B) - 1
        last_now_B = np.where(window_end_B > window_first_B, window_end_B, end_B) - 1
        time_ms_N = known.time_ms[token_N]
        now_N = user_features.weights(time_ms_N, known.time_ms[last_now_B][row_N], self.decay_days)
        before_N = user_features.weights(
            known.time_ms[history_N], known.time_ms[last_B][history_row_N], self.decay_days
        )
        category_N, item_N = known.category[token_N], known.item[token_N]
        named_N = item_N <= len(self.items.names)
        return (
            user_features.had_dense(
                history_row_N, known.category[history_N], before_N, rows, width
            ),
            user_features.had_dense(row_N, category_N, now_N, rows, width),
            user_features.had(row_N[named_N], item_N[named_N], now_N[named_N], self.items.rows),
        )


def spans(first_B: np.ndarray, end_B: np.ndarray) -> np.ndarray:
    """first_B[0], .., end_B[0] - 1, then those of the next, laid end to end."""
    sizes_B = end_B - first_B
    return np.arange(sizes_B.sum()) + np.repeat(first_B - (np.cumsum(sizes_B) - sizes_B), sizes_B)


def layout_groups(
    length_B: np.ndarray, length_buckets: Sequence[int]
) -> tuple[list[tuple[int, int, int]], np.ndarray]:
    """Groups of one padded length each, and every row's first position. Lengths ascend."""
    ends = np.unique(np.searchsorted(length_B, [*length_buckets, length_B[-1]], side="right"))
    groups, start_B = [], np.empty(len(length_B), np.int64)
    row = place = 0
    for end in ends[ends > 0].tolist():
        rows, length = end - row, int(length_B[end - 1])
        groups.append((place, rows, length))
        start_B[row:end] = place + length * np.arange(rows)
        row, place = end, place + rows * length
    return groups, start_B


def positions(groups: list[tuple[int, int, int]]) -> int:
    start, rows, length = groups[-1]
    return start + rows * length
