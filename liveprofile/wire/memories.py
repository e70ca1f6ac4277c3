"""The memory of a user: the ids of hundreds of events as one text, and as columns.

A memory is the user's last windows, this one last. A window is a header, HEADER and its end in ms,
then a token for each of its events: the letter of the type, the item and the category. Headers and
tokens are joined by EVENT. All events of a window have the window's end as their time, so their
order means nothing. `window_sql` and `memory_sql` write a memory in Flink SQL from the windows that
`liveprofile.wire.token_columns.last_tokens_sql` keeps, `read_memories` splits those of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from liveprofile.wire.tokens import EVENT, FIELD, HEADER, TYPE_LETTERS

_NEXT = EVENT + HEADER  # between two windows
MEMORY_WINDOWS = 40
MEMORY_CHARS = 32_768  # a memory that is longer loses its first windows


class MemoryToken(NamedTuple):
    """What a memory keeps of an event."""

    type_index: int
    item: str  # "" if unknown
    category: str  # "" if unknown


class Memories(NamedTuple):
    """The windows of n memories end to end, each as the text that `read_window` parses."""

    sizes: np.ndarray  # (n,) int64 windows of each memory
    windows: list[str]

    def rows(self, rows: slice) -> Memories:
        """Some of the memories, in order."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)])
        first, last, _ = rows.indices(len(self.sizes))
        return Memories(self.sizes[rows], self.windows[starts[first] : starts[last]])


def window_sql(end_ms: str, tokens: str) -> str:
    """SQL: a window of a memory. `end_ms`: a BIGINT column; `tokens`: of the window."""
    # The time of each token, and its amount.
    unused = f"(?<![^{EVENT}])[0-9-]+{FIELD}|{FIELD}[^{FIELD}{EVENT}]*+(?![^{EVENT}])"
    slim = f"REGEXP_REPLACE({tokens}, '{unused}', '')"
    return f"CONCAT('{HEADER}', CAST({end_ms} AS STRING), '{EVENT}', {slim})"


def memory_sql(window: str) -> str:
    """SQL aggregate: a memory of windows in order of time."""
    return f"LISTAGG({window}, '{EVENT}')"


def last_windows(memory: str) -> str:
    """The memory without its first windows if it is too long for the model.

    Not in SQL: Flink counts the characters of a text by reading all of it.
    """
    if len(memory) <= MEMORY_CHARS:
        return memory
    tail = memory[-MEMORY_CHARS:]
    return tail[tail.index(_NEXT) + 1 :]


def read_memories(texts: list[str]) -> Memories:
    """Splits n memories. A memory has at least one window."""
    sizes = np.fromiter((text.count(_NEXT) + 1 for text in texts), np.int64, len(texts))
    return Memories(sizes, EVENT.join(texts)[len(HEADER) :].split(_NEXT) if texts else [])


def memory_since(memory: str, first_ms: int) -> str:
    """The memory of a user whose windows before the one that begins at `first_ms` are forgotten."""
    windows = memory[len(HEADER) :].split(_NEXT)
    kept = [window for window in windows if int(window.partition(EVENT)[0]) > first_ms]
    return HEADER + _NEXT.join(kept)


def memory_without(memory: str, token: MemoryToken) -> str:
    """The memory without one such event of its last window; the same memory if it has none."""
    earlier, separator, window = memory.rpartition(_NEXT)
    header, *tokens = window.split(EVENT)
    text = token_text(token)
    if text in tokens:
        tokens.remove(text)
    return earlier + separator + EVENT.join((header, *tokens))


def window_text(end_ms: int, tokens: Iterable[str]) -> str:
    """A window in the form of `Memories.windows`, with the texts of its tokens."""
    return EVENT.join((str(end_ms), *tokens))


def token_text(token: MemoryToken) -> str:
    """The text of a token."""
    return FIELD.join((TYPE_LETTERS[token.type_index], token.item, token.category))


def read_window(text: str) -> tuple[int, list[str]]:
    """The end of a window in ms, and the texts of its tokens."""
    end_ms, *tokens = text.split(EVENT)
    return int(end_ms), tokens


def read_token(text: str) -> MemoryToken:
    """Parses a token."""
    letter, item, category = text.split(FIELD)
    return MemoryToken(TYPE_LETTERS.index(letter), item, category)


def of_windows(rows: list[list[tuple[int, list[MemoryToken]]]]) -> Memories:
    """Memories of rows of windows, each with its end in ms and its tokens."""
    windows = [
        window_text(end_ms, map(token_text, tokens)) for row in rows for end_ms, tokens in row
    ]
    return Memories(np.fromiter(map(len, rows), np.int64, len(rows)), windows)
