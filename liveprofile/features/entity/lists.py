"""The lists of a user and of shared entities as text of the job's SQL, and as flat columns.

A list holds the last K tokens of a key in order of arrival. Its text is tokens joined by U+001E, of
fields joined by U+001F; ids in it are hashes of 31 bits (Flink's HASH_CODE), so an empty id and
hash 0 are one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv

from liveprofile.wire.scored_events import EventBatch
from liveprofile.wire.tokens import EVENT, FIELD, TYPE_INDEX, TYPE_LETTERS

ENTITIES = ("device", "place", "shop", "coupon", "address")
FRAUD, LEGITIMATE = "+", "-"  # in the place of the letter: not an event but an event's label
MISSING = 0
_LINES = bytes.maketrans(EVENT.encode(), b"\n")
_TOKEN = {"letter": pa.string(), "time_ms": pa.int64(), "event": pa.int32(), "amount": pa.float64()}


class BadLists(ValueError):
    """Text that is no list of tokens."""


class TokenLists(NamedTuple):
    """S lists of T tokens in all, one list behind the other."""

    starts: np.ndarray  # (S + 1,) int64: list s is starts[s] to starts[s + 1]
    letter: np.ndarray  # (T,) uint8, ASCII
    time_ms: np.ndarray  # (T,) int64
    event: np.ndarray  # (T,) int32
    amount: np.ndarray  # (T,) float64
    ids: tuple[np.ndarray, ...]  # each (T,) int32: a user list's ENTITIES, an entity list's user

    def taken(self, index_T: np.ndarray | slice, starts: np.ndarray) -> TokenLists:
        """The tokens at these places, in lists that start where `starts` says."""
        return TokenLists(
            starts,
            self.letter[index_T],
            self.time_ms[index_T],
            self.event[index_T],
            self.amount[index_T],
            tuple(ids_T[index_T] for ids_T in self.ids),
        )

    def until(self, end_P: np.ndarray, size_P: np.ndarray) -> TokenLists:
        """P lists: so many tokens before each of these places."""
        starts = np.concatenate([[0], np.cumsum(size_P)])
        index_T = np.arange(starts[-1]) + np.repeat(end_P - starts[1:], size_P)
        return self.taken(index_T, starts)

    def without(self, list_P: np.ndarray, event_P: np.ndarray) -> TokenLists:
        """P of these lists, one of them as often as it is named, each without the tokens of an
        event and its labels."""
        sizes_P = np.diff(self.starts)[list_P]
        ends_P = np.cumsum(sizes_P)
        index_T = np.arange(ends_P[-1]) + np.repeat(self.starts[list_P] - ends_P + sizes_P, sizes_P)
        of_T = np.repeat(np.arange(len(list_P)), sizes_P)
        kept_T = self.event[index_T] != event_P[of_T]
        index_T, sizes_P = index_T[kept_T], np.bincount(of_T[kept_T], minlength=len(list_P))
        return self.taken(index_T, np.concatenate([[0], np.cumsum(sizes_P)]))


class Rows(NamedTuple):
    """n events with their lists; what features are computed from."""

    event_ms: np.ndarray  # (n,) int64
    amount: np.ndarray  # (n,) float64
    letter: np.ndarray  # (n,) uint8
    of_user: TokenLists  # n lists
    of_entities: TokenLists  # 5n lists: those of all devices, then of all places, ... (ENTITIES)

    def without(self, row_P: np.ndarray, event_P: np.ndarray) -> Rows:
        """P of these rows, each as if one event had not been."""
        entities = np.arange(len(ENTITIES))[:, None] * len(self.event_ms) + row_P
        return Rows(
            self.event_ms[row_P],
            self.amount[row_P],
            self.letter[row_P],
            self.of_user.without(row_P, event_P),
            self.of_entities.without(entities.ravel(), np.tile(event_P, len(ENTITIES))),
        )

    def duplicates(self) -> np.ndarray:
        """(n,) bool: an earlier token of the user's list is the same event."""
        lists = self.of_user
        list_T = np.repeat(np.arange(len(self.event_ms)), np.diff(lists.starts))
        own_n = np.maximum(lists.starts[1:] - 1, 0)  # an empty list is asked for nothing
        same_T = is_event(lists.letter) & (lists.time_ms == lists.time_ms[own_n[list_T]])
        same_T &= lists.event == lists.event[own_n[list_T]]
        return np.bincount(list_T[same_T], minlength=len(self.event_ms)) > 1


def is_event(letter_T: np.ndarray) -> np.ndarray:
    """(T,) bool: not a label."""
    return letter_T >= ord(TYPE_LETTERS[0])


def read(batch: EventBatch) -> Rows:
    """Raises BadLists, for the whole batch, if one text is no list."""
    texts = [text for entity in ENTITIES for text in getattr(batch, f"of_{entity}")]
    return Rows(
        batch.event_ms,
        batch.amount,
        np.array([ord(TYPE_LETTERS[TYPE_INDEX[name]]) for name in batch.event_type], np.uint8),
        _parsed(batch.of_user, ENTITIES),
        _parsed(texts, ("user",)),
    )


def _parsed(texts: list[str], ids: tuple[str, ...]) -> TokenLists:
    """A list of tokens is a table with fields between U+001F, so a reader of such tables reads all
    lists at once."""
    sizes = [text.count(EVENT) + 1 if text else 0 for text in texts]
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    types = {**_TOKEN, **dict.fromkeys(ids, pa.int32())}
    lines = EVENT.join(filter(None, texts)).encode("utf-8", "replace").translate(_LINES)
    if not lines:
        empty = (np.empty(0, kind.to_pandas_dtype()) for kind in list(types.values())[1:])
        time_ms, event, amount, *id_columns = empty
        return TokenLists(starts, np.empty(0, np.uint8), time_ms, event, amount, tuple(id_columns))
    try:
        table = csv.read_csv(
            pa.BufferReader(lines),
            csv.ReadOptions(use_threads=False, block_size=len(lines) + 1, column_names=list(types)),
            csv.ParseOptions(delimiter=FIELD, quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(column_types=types, null_values=[""]),
        )
    except pa.ArrowInvalid as error:
        raise BadLists(str(error).splitlines()[0]) from None
    letters = b"".join(chunk.buffers()[2] for chunk in table["letter"].chunks)
    if len(letters) != starts[-1] or table["time_ms"].null_count or table["event"].null_count:
        raise BadLists("a token has no letter, time or event")
    time_ms, event, amount, *id_columns = (
        (column.fill_null(0) if column.null_count else column).to_numpy()
        for column in table.columns[1:]
    )
    letter = np.frombuffer(letters, np.uint8)
    return TokenLists(starts, letter, time_ms, event, amount, tuple(id_columns))
