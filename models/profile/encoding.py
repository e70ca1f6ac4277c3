"""Encodes tokens as the integers that the Transformer reads.

Each token becomes len(FIELDS) row indexes of one embedding table; the model sums those rows. Ids
outside the vocabulary share hashed rows (Weinberger et al., Feature Hashing for Large Scale
Multitask Learning, ICML 2009, arXiv:0902.2206). The hash is CRC-32, so that every process computes
the same row. User ids are not encoded.

The first position of a sequence (BOS) holds no event. It holds the number of events of the whole
history and the time that they span, since only the newest events of a history fit.

Shape suffixes
    B rows (one user and window each)   P flat positions: padded sequences laid end to end
    N tokens of all rows                S flat positions that predict an event of the window
    C category rows                     7 fields of a token (FIELDS)
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
MAX_CACHED_IDS = 200_000

Groups = list[tuple[int, int, int]]  # first flat position, rows, padded length


def hash_row(name: str, names: int, buckets: int) -> int:
    """The row of an id that is not among the `names` ids of the vocabulary."""
    return 1 + names + zlib.crc32(name.encode("utf-8", "surrogatepass")) % buckets


class Vocabulary(dict[str, int]):
    """id -> row, of one kind of id: row 0 for an empty id, then the names, then the hash buckets.

    An unknown id is hashed once; up to MAX_CACHED_IDS of them are kept.
    """

    def __init__(self, names: Sequence[str], buckets: int):
        super().__init__()
        self.names, self.buckets = list(names), buckets
        self.rows = 1 + len(self.names) + buckets
        self._reset()

    def _reset(self) -> None:
        self.clear()
        self.update((name, 1 + index) for index, name in enumerate(self.names))
        self[""] = 0

    def __missing__(self, name: str) -> int:
        if len(self) > len(self.names) + MAX_CACHED_IDS:
            self._reset()
        self[name] = row = hash_row(name, len(self.names), self.buckets)
        return row

    def indexes(self, ids: Sequence[str]) -> np.ndarray:
        """(N,) int32 rows."""
        return np.fromiter(map(self.__getitem__, ids), np.int32, len(ids))


class Layout(NamedTuple):
    """The first row of each field in the embedding table, and the table's number of rows."""

    item: int
    category: int
    type: int
    amount: int
    gap: int
    hour: int
    position: int
    rows: int

    @classmethod
    def from_sizes(cls, item_rows: int, category_rows: int, max_len: int) -> Layout:
        sizes = (
            item_rows,
            category_rows,
            BOS_TYPE + 1,
            AMOUNT_BUCKETS + COUNT_BUCKETS,
            GAP_BUCKETS + SPAN_BUCKETS,
            HOURS_OF_WEEK + 1,
            max_len,
        )
        return cls(0, *(int(end) for end in np.cumsum(sizes)))

    @property
    def offsets(self) -> np.ndarray:
        return np.array(self[:-1], np.int32)


class KeptTokens(NamedTuple):
    """The newest tokens of B histories and windows, as B sequences laid end to end."""

    source_N: np.ndarray  # index of the token
    row_N: np.ndarray  # its sequence, 0..B-1
    position_N: np.ndarray  # its place in the sequence, from 1 on
    scored_N: np.ndarray  # it belongs to the window, not to the history before it
    history_B: np.ndarray  # how many tokens of the history are kept
    window_B: np.ndarray


def kept_tokens(
    history_first_B: np.ndarray,
    history_end_B: np.ndarray,
    window_first_B: np.ndarray,
    window_end_B: np.ndarray,
    max_len: int,
) -> KeptTokens:
    """The tokens that fit into max_len - 1 positions; the ranges are first and one past the last.

    The newest tokens of both are kept. The window has priority, but the history keeps up to a
    quarter of the positions.
    """
    history_B, window_B = kept_token_counts(
        history_end_B - history_first_B, window_end_B - window_first_B, max_len
    )
    counts_B = history_B + window_B
    row_N = np.repeat(np.arange(len(counts_B)), counts_B)
    position_N = 1 + index_in_run(counts_B)
    scored_N = position_N > history_B[row_N]
    first_B = np.column_stack([history_end_B - history_B, window_end_B - counts_B])
    source_N = first_B[row_N, scored_N.astype(np.int64)] + position_N - 1
    return KeptTokens(source_N, row_N, position_N, scored_N, history_B, window_B)


def kept_token_counts(
    histories_B: np.ndarray, windows_B: np.ndarray, max_len: int
) -> tuple[np.ndarray, np.ndarray]:
    """(B,) numbers of history and of window tokens that `kept_tokens` keeps."""
    capacity = max_len - 1
    window_B = np.minimum(windows_B, capacity - np.minimum(histories_B, capacity // 4))
    return np.minimum(histories_B, capacity - window_B), window_B


def spans_ms(time_ms: np.ndarray, first_B: np.ndarray, end_B: np.ndarray) -> np.ndarray:
    """(B,) time from the first to the last token of each range; 0 for an empty one."""
    span_ms_B, has_B = np.zeros(len(first_B), np.int64), end_B > first_B
    span_ms_B[has_B] = time_ms[end_B[has_B] - 1] - time_ms[first_B[has_B]]
    return span_ms_B


def history_weights(
    time_ms: np.ndarray, first_B: np.ndarray, end_B: np.ndarray, decay_days: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tokens of the ranges, their rows, and their weights as of the last token of the row."""
    token_N = concatenated_ranges(first_B, end_B)
    row_N = np.repeat(np.arange(len(first_B)), end_B - first_B)
    last_ms_N = time_ms[end_B[row_N] - 1]
    return token_N, row_N, user_features.decay_weights(time_ms[token_N], last_ms_N, decay_days)


def amount_bucket(amount_N: np.ndarray) -> np.ndarray:
    """Amount in currency -> bucket below AMOUNT_BUCKETS, four per doubling; 0 for no amount."""
    bucket_N = 1 + np.floor(4 * np.log2(1 + np.maximum(amount_N, 0.0)))
    return np.where(amount_N > 0, np.minimum(bucket_N, AMOUNT_BUCKETS - 1), 0).astype(np.int32)


def gap_bucket(gap_ms_N: np.ndarray) -> np.ndarray:
    """Milliseconds since the previous event -> bucket 1..GAP_BUCKETS-1, 1.5 per doubling."""
    bucket_N = 1 + np.floor(1.5 * np.log2(1 + np.maximum(gap_ms_N, 0) / 1000.0))
    return np.minimum(bucket_N, GAP_BUCKETS - 1).astype(np.int32)


def embedding_rows(
    layout: Layout,
    item_N: np.ndarray,
    category_N: np.ndarray,
    type_N: np.ndarray,
    amount_N: np.ndarray,
    time_ms_N: np.ndarray,
    position_N: np.ndarray,
) -> np.ndarray:
    """(N, 7) int32 rows of the embedding table for tokens in sequence order.

    `position_N` counts from 1 in each sequence; a 1 starts the next sequence. Amounts are in
    currency.
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
    """(B, 7) int32 rows of position 0.

    count_B: events of each whole history. span_ms_B: time from its first to its last event. Both
    are bucketed, four buckets per doubling.
    """
    rows_B7 = np.tile(np.array([0, 0, BOS_TYPE, 0, 0, NO_HOUR, 0], np.int32), (len(count_B), 1))
    rows_B7[:, 3] = AMOUNT_BUCKETS + _log_bucket(count_B, COUNT_BUCKETS)
    rows_B7[:, 4] = GAP_BUCKETS + _log_bucket(span_ms_B / 1000.0, SPAN_BUCKETS)
    return rows_B7 + layout.offsets


def _log_bucket(value_B: np.ndarray, buckets: int) -> np.ndarray:
    return np.minimum(np.floor(4 * np.log2(1 + np.maximum(value_B, 0))), buckets - 1)


class EncodedBatch(NamedTuple):
    """B sequences laid end to end, those of one group padded on the right to one length.

    `after_B` and `scored_S` are flat positions, 0..P-1. The first scored position of a row is the
    one before its window: the last history event, or BOS. Without a window it is `after_B`.
    """

    embedding_rows_P7: np.ndarray
    groups: Groups
    after_B: np.ndarray  # the last event
    scored_S: np.ndarray  # positions whose next event belongs to the window, row by row
    scored_counts_B: np.ndarray
    category_S: np.ndarray  # category row of that next event
    type_S: np.ndarray  # type of that next event
    repeat_counts_BC: np.ndarray  # float32, of the history's categories


class IndexedTokens(NamedTuple):
    """The N tokens of B rows with vocabulary rows: all histories end to end, then all windows."""

    history_starts: np.ndarray  # (B + 1,)
    window_starts: np.ndarray  # (B + 1,)
    item: np.ndarray  # (N,) rows of the item vocabulary
    category: np.ndarray
    type: np.ndarray
    amount: np.ndarray
    time_ms: np.ndarray


class Encoder:
    """Turns tokens into `EncodedBatch`: two dict look-ups per token, the rest in numpy."""

    def __init__(self, items: Vocabulary, categories: Vocabulary, max_len: int, decay_days: float):
        self.items, self.categories, self.max_len = items, categories, max_len
        self.decay_days = decay_days
        self.layout = Layout.from_sizes(items.rows, categories.rows, max_len)

    def lengths(self, history_sizes_B: np.ndarray, window_sizes_B: np.ndarray) -> np.ndarray:
        """(B,) positions that each row takes, BOS included."""
        return 1 + sum(kept_token_counts(history_sizes_B, window_sizes_B, self.max_len))

    def index_tokens(self, histories: TokenColumns, windows: TokenColumns) -> IndexedTokens:
        """Looks up the ids of all rows. Row i of `histories` precedes row i of `windows`."""
        both = (histories, windows)
        return IndexedTokens(
            histories.starts,
            windows.starts + len(histories.item),
            np.concatenate([self.items.indexes(tokens.item) for tokens in both]),
            np.concatenate([self.categories.indexes(tokens.category) for tokens in both]),
            np.concatenate([tokens.type_index for tokens in both]),
            np.concatenate([tokens.amount for tokens in both]),
            np.concatenate([tokens.time_ms for tokens in both]),
        )

    def encode(
        self, tokens: IndexedTokens, rows_B: np.ndarray, length_buckets: Sequence[int]
    ) -> EncodedBatch:
        """Encodes the rows `rows_B` of `tokens`, which must ascend in `lengths`."""
        history_B = tokens.history_starts[rows_B], tokens.history_starts[rows_B + 1]
        window_B = tokens.window_starts[rows_B], tokens.window_starts[rows_B + 1]
        kept = kept_tokens(*history_B, *window_B, self.max_len)
        counts_B = kept.history_B + kept.window_B
        groups, start_B = group_by_length(1 + counts_B, length_buckets)
        flat_position_N = start_B[kept.row_N] + kept.position_N
        category_N, type_N = tokens.category[kept.source_N], tokens.type[kept.source_N]

        embedding_rows_P7 = np.zeros((position_count(groups), len(FIELDS)), np.int32)
        embedding_rows_P7[start_B] = bos_rows(
            self.layout, history_B[1] - history_B[0], spans_ms(tokens.time_ms, *history_B)
        )
        embedding_rows_P7[flat_position_N] = embedding_rows(
            self.layout,
            tokens.item[kept.source_N],
            category_N,
            type_N,
            tokens.amount[kept.source_N],
            tokens.time_ms[kept.source_N],
            kept.position_N,
        )
        token_N, row_N, weight_N = history_weights(tokens.time_ms, *history_B, self.decay_days)
        repeat_counts_BC = user_features.repeat_counts(
            row_N, tokens.category[token_N], weight_N, len(rows_B), self.categories.rows
        )
        return EncodedBatch(
            embedding_rows_P7,
            groups,
            start_B + counts_B,
            flat_position_N[kept.scored_N] - 1,
            kept.window_B,
            category_N[kept.scored_N],
            type_N[kept.scored_N],
            repeat_counts_BC,
        )


def index_in_run(counts_B: np.ndarray) -> np.ndarray:
    """0, 1, .. within each of the consecutive runs of lengths `counts_B`."""
    return np.arange(counts_B.sum()) - np.repeat(np.cumsum(counts_B) - counts_B, counts_B)


def concatenated_ranges(first_B: np.ndarray, end_B: np.ndarray) -> np.ndarray:
    """first_B[0], .., end_B[0] - 1, first_B[1], .., end_B[1] - 1, and so on, as one array."""
    sizes_B = end_B - first_B
    return np.arange(sizes_B.sum()) + np.repeat(first_B - (np.cumsum(sizes_B) - sizes_B), sizes_B)


def group_by_length(
    length_B: np.ndarray, length_buckets: Sequence[int]
) -> tuple[Groups, np.ndarray]:
    """Groups of rows padded to one length, and the first flat position of each row.

    `length_B` must ascend.
    """
    ends = np.unique(np.searchsorted(length_B, [*length_buckets, length_B[-1]], side="right"))
    groups, start_B = [], np.empty(len(length_B), np.int64)
    row = position = 0
    for end in ends[ends > 0].tolist():
        rows, length = end - row, int(length_B[end - 1])
        groups.append((position, rows, length))
        start_B[row:end] = position + length * np.arange(rows)
        row, position = end, position + rows * length
    return groups, start_B


def position_count(groups: Groups) -> int:
    start, rows, length = groups[-1]
    return start + rows * length
