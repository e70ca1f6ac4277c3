"""From tokens to the integers that the Transformer reads.

Every token becomes FIELDS small indexes into one embedding table, so the model's whole input is one
summed look-up. Ids outside the vocabulary share hashed rows (Weinberger et al., Feature Hashing for
Large Scale Multitask Learning, ICML 2009, arXiv:0902.2206), hashed by CRC-32 so that every process
agrees. User ids never enter.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from udfs.events import EVENT_TYPES, Token

FIELDS = ("item", "category", "type", "amount", "gap", "hour", "position")
BOS_TYPE = len(EVENT_TYPES)
AMOUNT_BUCKETS = 64
GAP_BUCKETS = 40
HOURS_OF_WEEK = 168
NO_HOUR = HOURS_OF_WEEK
HOUR_MS = 3_600_000
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
            item_rows, category_rows, BOS_TYPE + 1, AMOUNT_BUCKETS, GAP_BUCKETS,
            HOURS_OF_WEEK + 1, max_len,
        )  # fmt: skip
        return cls(0, *(int(end) for end in np.cumsum(sizes)))

    @property
    def offsets(self) -> np.ndarray:
        return np.array(self[:-1], np.int32)


def truncate(history: list[Token], window: list[Token], max_len: int) -> tuple[list[Token], int]:
    """The tokens that fit beside BOS, and how many of them are history.

    The window may push history out, but not below a quarter of the room.
    """
    room = max_len - 1
    kept_window = min(len(window), room - min(len(history), room // 4))
    kept_history = min(len(history), room - kept_window)
    history = history[len(history) - kept_history :]
    return [*history, *window[len(window) - kept_window :]], kept_history


def kept_counts(
    histories_B: np.ndarray, windows_B: np.ndarray, max_len: int
) -> tuple[np.ndarray, np.ndarray]:
    """`truncate` over lengths: kept history and kept window tokens of each row."""
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


def bos_row(layout: Layout) -> np.ndarray:
    """(len(FIELDS),) int32: what stands at position 0 of every sequence."""
    return np.array([0, 0, BOS_TYPE, 0, 0, NO_HOUR, 0], np.int32) + layout.offsets


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


class Encoder:
    """Tokens to `Batch`: two dict look-ups for each token, and the rest in numpy."""

    def __init__(self, items: Vocabulary, categories: Vocabulary, max_len: int):
        self.items, self.categories, self.max_len = items, categories, max_len
        self.layout = Layout.of(items.rows, categories.rows, max_len)
        self._bos = bos_row(self.layout)

    def lengths(
        self, histories: Sequence[Sequence[Token]], windows: Sequence[Sequence[Token]]
    ) -> np.ndarray:
        """(B,) positions that each row takes, BOS included."""
        history_B, window_B = kept_counts(_sizes(histories), _sizes(windows), self.max_len)
        return 1 + history_B + window_B

    def encode(
        self,
        histories: Sequence[Sequence[Token]],
        windows: Sequence[Sequence[Token]],
        length_buckets: Sequence[int],
    ) -> Batch:
        """Rows must ascend in `lengths`, and the tokens of a row in time."""
        all_history_B, all_window_B = _sizes(histories), _sizes(windows)
        history_B, window_B = kept_counts(all_history_B, all_window_B, self.max_len)
        length_B = 1 + history_B + window_B
        groups, start_B = _layout_groups(length_B, length_buckets)

        tokens_B = length_B - 1
        first_B = np.cumsum(tokens_B) - tokens_B
        total = int(tokens_B.sum())
        position_N = np.arange(1, total + 1) - np.repeat(first_B, tokens_B)
        place_N = np.repeat(start_B, tokens_B) + position_N

        features_P7 = np.zeros((_positions(groups), len(FIELDS)), np.int32)
        features_P7[start_B] = self._bos
        scored_N = position_N > np.repeat(history_B, tokens_B)
        if total:
            cut = bool(np.any(all_history_B + all_window_B > tokens_B))
            sizes = (history_B, window_B) if cut else None
            time_ms, kind, item, category, amount = zip(
                *_flat(histories, windows, sizes), strict=True
            )
            type_N = np.fromiter(kind, np.int32, total)
            category_N = self.categories.indexes(category)
            features_P7[place_N] = feature_rows(
                self.layout,
                self.items.indexes(item),
                category_N,
                type_N,
                np.fromiter(amount, np.float64, total),
                np.fromiter(time_ms, np.int64, total),
                position_N,
            )
        else:
            type_N = category_N = np.zeros(0, np.int32)
        return Batch(
            features_P7,
            groups,
            start_B + history_B,
            start_B + tokens_B,
            place_N[scored_N] - 1,
            window_B,
            category_N[scored_N],
            type_N[scored_N],
        )


def _sizes(rows: Sequence[Sequence[Token]]) -> np.ndarray:
    return np.fromiter(map(len, rows), np.int64, len(rows))


def _flat(
    histories: Sequence[Sequence[Token]],
    windows: Sequence[Sequence[Token]],
    kept: tuple[np.ndarray, np.ndarray] | None,
) -> Iterator[Token]:
    pairs = chain.from_iterable(zip(histories, windows, strict=True))
    if kept is None:
        return chain.from_iterable(pairs)
    counts = chain.from_iterable(zip(kept[0].tolist(), kept[1].tolist(), strict=True))
    return chain.from_iterable(
        row if len(row) == count else islice(row, len(row) - count, None)
        for row, count in zip(pairs, counts, strict=True)
    )


def _layout_groups(
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


def _positions(groups: list[tuple[int, int, int]]) -> int:
    start, rows, length = groups[-1]
    return start + rows * length
