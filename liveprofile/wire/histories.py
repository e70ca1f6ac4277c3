"""The history of a user: the last windows as one text, and as columns.

A history is the user's last MEMORY_WINDOWS windows, this one last, joined by WINDOW. A window is
its end in ms and its tokens (liveprofile.wire.tokens), joined by EVENT. Beside it are the times of
the last purchases of the last two windows with one, joined by a space. `window_sql` and
`last_sql` write both in Flink SQL. The Transformer reads all of the tokens of a few windows
(`read_histories`), the ranker the ids of all windows (`read_memories`).

Shapes: n rows, V windows of all rows, N tokens of all rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import EVENT, FIELD, TYPE_LETTERS, WINDOW

MEMORY_WINDOWS = 40
MEMORY_CHARS = 65_536  # of a history: a longer one loses its first windows for the ranker
PURCHASES = 2
_FIELDS = 5
_FIRST_LETTER = ord(TYPE_LETTERS[0])


class MemoryToken(NamedTuple):
    """What the ranker reads of an event."""

    type_index: int
    item: str  # "" if unknown
    category: str  # "" if unknown


class Memories(NamedTuple):
    """The windows of n users end to end, and the tokens of these windows."""

    sizes: np.ndarray  # (n,) int64 windows of each user
    end_ms: np.ndarray  # (V,) int64
    token_counts: np.ndarray  # (V,) int64
    type_index: np.ndarray  # (N,) int32
    item: pa.Array  # (N,) large_string
    category: pa.Array  # (N,) large_string


class Histories(NamedTuple):
    """The windows before this one, for n rows."""

    tokens: TokenColumns
    last_purchase_ms: np.ndarray  # (n,) int64, before this window; 0: none
    last_purchase_ms_now: np.ndarray  # (n,) int64, this window included
    memories: Memories  # this window included


def window_sql(end_ms: str, tokens: str) -> str:
    """SQL: a window of a history. `end_ms`: a BIGINT column; `tokens`: of the window."""
    return f"CONCAT(CAST({end_ms} AS STRING), '{EVENT}', {tokens})"


def last_sql(window: str, purchase_ms: str, over: str) -> tuple[str, str]:
    """SQL: the history, and the times of purchases, by the Java aggregate LAST_JOINED.

    `window`: of `window_sql`. `purchase_ms`: a BIGINT column, NULL in a window without a purchase.
    """
    return (
        f"LAST_JOINED({window}, '{WINDOW}', {MEMORY_WINDOWS}) {over}",
        f"LAST_JOINED(CAST({purchase_ms} AS STRING), ' ', {PURCHASES}) {over}",
    )


def history_since(history: str, first_ms: int) -> str:
    """The history of a user whose windows before the one that begins at `first_ms` are forgotten.

    The window of the row, the last one, is later.
    """
    kept = (window for window in history.split(WINDOW) if read_end_ms(window) > first_ms)
    return WINDOW.join(kept)


def purchases_since(purchases: str, first_ms: int) -> str:
    return " ".join(time_ms for time_ms in purchases.split() if int(time_ms) >= first_ms)


def history_without(history: str, token: MemoryToken) -> str:
    """The history without one such event of its last window; the same if it has none."""
    earlier, separator, window = history.rpartition(WINDOW)
    end_ms, *texts = window.split(EVENT)
    found = next((text for text in texts if read_token(text) == token), None)
    if found is not None:
        texts.remove(found)
    return earlier + separator + EVENT.join((end_ms, *texts))


def read_purchases(purchases: str, start_ms: int) -> tuple[int, int]:
    """The times of the last purchase before the window that begins at `start_ms`, and with it.

    0: none.
    """
    times_ms = [int(time_ms) for time_ms in purchases.split()]
    before = [time_ms for time_ms in times_ms if time_ms < start_ms]
    return max(before, default=0), max(times_ms, default=0)


def read_histories(
    texts: list[str], purchases: list[str], starts_ms: np.ndarray, windows: int
) -> Histories:
    """Parses n histories: the tokens of at most `windows` windows before that of the row."""
    memories, fields, first_field = _parse(texts)
    row_of = np.repeat(np.arange(len(texts)), memories.sizes)
    windows_ago = np.cumsum(memories.sizes)[row_of] - 1 - np.arange(len(row_of))
    is_read = (windows_ago > 0) & (windows_ago <= windows)
    counts = np.bincount(row_of, memories.token_counts * is_read, len(texts)).astype(np.int64)
    token = np.flatnonzero(np.repeat(is_read, memories.token_counts))
    tokens = TokenColumns(
        np.concatenate([[0], np.cumsum(counts)]),
        fields.take(first_field[token]).cast(pa.int64()).to_numpy().copy(),
        memories.type_index[token],
        to_list(memories.item.take(token)),
        to_list(memories.category.take(token)),
        fields.take(first_field[token] + 4).cast(pa.float64()).to_numpy().copy(),
    )
    last = np.array(list(map(read_purchases, purchases, starts_ms.tolist())), np.int64)
    return Histories(tokens.sorted(), *last.reshape(-1, 2).T, memories)


def to_list(values: pa.Array) -> list[Any]:
    """The values of an array, twenty times faster than by `to_pylist`."""
    return values.to_numpy(zero_copy_only=False).tolist()


def read_memories(texts: Sequence[str]) -> Memories:
    """Parses all windows of n histories that the ranker can read; "" is a history of none."""
    return _parse(texts)[0]


def _parse(texts: Sequence[str]) -> tuple[Memories, pa.Array, np.ndarray]:
    """Also returns the fields of all tokens, and (N,) the place of each token's first one.

    Arrow cuts the text without a Python object for each field.
    """
    kept = [
        text if len(text) <= MEMORY_CHARS else text[-MEMORY_CHARS:].partition(WINDOW)[2]
        for text in texts
    ]
    sizes = np.array([text.count(WINDOW) + 1 if text else 0 for text in kept], np.int64)
    joined = WINDOW.join(filter(None, kept)).replace(EVENT, FIELD)
    encoded = joined.encode("utf-8", "replace")  # as Flink encodes lone surrogates
    windows = pa.array([encoded] if encoded else [], pa.large_string())
    lists = pc.split_pattern(pc.split_pattern(windows, WINDOW).flatten(), FIELD)
    fields, starts = lists.flatten(), lists.offsets.to_numpy()
    # The end of a window comes first, then the fields of its tokens.
    token_counts, rest = np.divmod(np.diff(starts).astype(np.int64) - 1, _FIELDS)
    if rest.any():
        raise ValueError("a token of a history does not have five fields")
    first_field = np.repeat(np.arange(1, 1 + len(token_counts)), token_counts)
    first_field += _FIELDS * np.arange(len(first_field))
    _, offsets, letters = fields.buffers()
    letter = np.frombuffer(offsets, np.int64)[first_field + 1]
    memories = Memories(
        sizes,
        fields.take(starts[:-1]).cast(pa.int64()).to_numpy(),
        token_counts,
        np.frombuffer(letters, np.uint8)[letter].astype(np.int32) - _FIRST_LETTER,
        fields.take(first_field + 2),
        fields.take(first_field + 3),
    )
    return memories, fields, first_field


def window_text(end_ms: int, tokens: list[MemoryToken]) -> str:
    """A window of tokens without time and amount."""
    texts = (
        FIELD.join(("0", TYPE_LETTERS[token.type_index], token.item, token.category, "0"))
        for token in tokens
    )
    return EVENT.join((str(end_ms), *texts))


def read_end_ms(window: str) -> int:
    """The end of a window in ms."""
    return int(window.partition(EVENT)[0])


def read_token(text: str) -> MemoryToken:
    _, letter, item, category, _ = text.split(FIELD)
    return MemoryToken(TYPE_LETTERS.index(letter), item, category)


def of_windows(rows: list[list[tuple[int, list[MemoryToken]]]]) -> Memories:
    """Memories of rows of windows, each with its end in ms and its tokens."""
    return read_memories([WINDOW.join(window_text(*window) for window in row) for row in rows])
