"""The history of a user: the last windows as one text, and as columns.

A history is the user's last MEMORY_WINDOWS windows, this one last, joined by WINDOW. A window is
its end in ms and its tokens (liveprofile.wire.tokens), joined by EVENT. Beside it are the times of
the last purchases of the last two windows with one, joined by a space. `window_sql` and
`last_sql` write both in Flink SQL. The Transformer reads all of the tokens of a few windows
(`read_histories`), the ranker the ids of all windows (`read_memories`).

Shapes: n rows, N tokens of all rows.
"""

from itertools import chain
from typing import Any, NamedTuple

import numpy as np

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
    """The windows of n users end to end, each as the text that `read_window` parses."""

    sizes: np.ndarray  # (n,) int64 windows of each user
    windows: list[str]


class Histories(NamedTuple):
    """The windows before this one, for n rows."""

    tokens: TokenColumns
    last_purchase_ms: np.ndarray  # (n,) int64, before this window; 0: none
    last_purchase_ms_now: np.ndarray  # (n,) int64, this window included


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
    before = []
    for text in texts:
        *earlier, _ = text.rsplit(WINDOW, windows + 1)
        before.append(EVENT.join(window.partition(EVENT)[2] for window in earlier[-windows:]))
    counts, type_index, times_ms, _, items, categories, amounts = _token_columns(before)
    tokens = TokenColumns(
        np.concatenate([[0], np.cumsum(counts)]),
        np.fromiter(map(int, times_ms), np.int64, len(type_index)),
        type_index,
        items,
        categories,
        np.fromiter(map(float, amounts), np.float64, len(type_index)),
    )
    last = np.array(list(map(read_purchases, purchases, starts_ms.tolist())), np.int64)
    return Histories(tokens.sorted(), *last.reshape(-1, 2).T)


def read_windows(windows: list[str]) -> tuple[Any, ...]:
    """Ends in ms and numbers of tokens of n windows; types, items and categories of all tokens."""
    parts = [window.partition(EVENT) for window in windows]
    counts, type_index, _, _, *ids, _ = _token_columns([tokens for _, _, tokens in parts])
    return [int(end_ms) for end_ms, *_ in parts], counts, type_index, *ids


def _token_columns(texts: list[str]) -> tuple[Any, ...]:
    """The numbers of tokens of n texts, type indexes, and a list for each of the five fields."""
    counts = np.array([text.count(EVENT) + 1 if text else 0 for text in texts], np.int64)
    joined = FIELD.join(filter(None, texts)).replace(EVENT, FIELD)
    fields = joined.split(FIELD) if joined else []
    columns = [fields[first::_FIELDS] for first in range(_FIELDS)]
    letters = np.frombuffer("".join(columns[1]).encode(), np.uint8)
    return counts, letters.astype(np.int32) - _FIRST_LETTER, *columns


def read_memories(texts: list[str]) -> Memories:
    """Splits n histories into all of their windows that the ranker can read."""
    kept = (
        text if len(text) <= MEMORY_CHARS else text[-MEMORY_CHARS:].partition(WINDOW)[2]
        for text in texts
    )
    rows = [text.split(WINDOW) for text in kept]
    sizes = np.fromiter(map(len, rows), np.int64, len(rows))
    return Memories(sizes, list(chain.from_iterable(rows)))


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


def read_window(window: str) -> list[MemoryToken]:
    """The tokens of a window."""
    return [read_token(text) for text in window.split(EVENT)[1:]]


def read_token(text: str) -> MemoryToken:
    _, letter, item, category, _ = text.split(FIELD)
    return MemoryToken(TYPE_LETTERS.index(letter), item, category)


def of_windows(rows: list[list[tuple[int, list[MemoryToken]]]]) -> Memories:
    """Memories of rows of windows, each with its end in ms and its tokens."""
    windows = [window_text(*window) for row in rows for window in row]
    return Memories(np.fromiter(map(len, rows), np.int64, len(rows)), windows)
