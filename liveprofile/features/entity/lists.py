"""The event lists of users and of shared entities, parsed into flat columns.

liveprofile.wire.entity_lists describes the text of a list: the last K tokens of a key in order of
arrival. Ids in it are 31-bit hashes (Flink's HASH_CODE), so an empty id and hash 0 are the same.

Array suffixes: n events, S lists, T tokens of all lists, P selected lists.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv

from liveprofile.wire.scored_events import ENTITY_NAMES, EventBatch
from liveprofile.wire.tokens import EVENT, FIELD, TYPE_INDEX, TYPE_LETTERS

MISSING = 0
_TO_LINES = bytes.maketrans(EVENT.encode(), b"\n")
_TOKEN = {"letter": pa.string(), "time_ms": pa.int64(), "event": pa.int32(), "amount": pa.float64()}


class InvalidLists(ValueError):
    """The text is not a list of tokens."""


class TokenLists(NamedTuple):
    """S lists with T tokens in all, concatenated."""

    starts: np.ndarray  # (S + 1,) int64: list s is starts[s] to starts[s + 1]
    letter: np.ndarray  # (T,) uint8, ASCII
    time_ms: np.ndarray  # (T,) int64
    event: np.ndarray  # (T,) int32, hash of the event id
    amount: np.ndarray  # (T,) float64
    # Each (T,) int32: the ENTITY_NAMES of a user list's tokens, or the user of an entity list's.
    ids: tuple[np.ndarray, ...]

    def take(self, index_T: np.ndarray | slice, starts: np.ndarray) -> TokenLists:
        """Selects tokens by index, in lists with the given starts."""
        return TokenLists(
            starts,
            self.letter[index_T],
            self.time_ms[index_T],
            self.event[index_T],
            self.amount[index_T],
            tuple(ids_T[index_T] for ids_T in self.ids),
        )

    def ending_at(self, end_P: np.ndarray, size_P: np.ndarray) -> TokenLists:
        """Builds P lists: list p has the size_P[p] tokens before index end_P[p]."""
        starts = np.concatenate([[0], np.cumsum(size_P)])
        index_T = np.arange(starts[-1]) + np.repeat(end_P - starts[1:], size_P)
        return self.take(index_T, starts)

    def without_event(self, list_P: np.ndarray, event_P: np.ndarray) -> TokenLists:
        """Copies the lists list_P, each without the tokens and labels of the event event_P[p]."""
        size_P = np.diff(self.starts)[list_P]
        end_P = np.cumsum(size_P)
        index_T = np.arange(end_P[-1]) + np.repeat(self.starts[list_P] - end_P + size_P, size_P)
        copy_T = np.repeat(np.arange(len(list_P)), size_P)
        kept_T = self.event[index_T] != event_P[copy_T]
        index_T, size_P = index_T[kept_T], np.bincount(copy_T[kept_T], minlength=len(list_P))
        return self.take(index_T, np.concatenate([[0], np.cumsum(size_P)]))


class EventLists(NamedTuple):
    """n events with the lists that their features are computed from."""

    event_ms: np.ndarray  # (n,) int64
    amount: np.ndarray  # (n,) float64
    letter: np.ndarray  # (n,) uint8
    user_lists: TokenLists  # n lists
    entity_lists: TokenLists  # 5n lists in the order of ENTITY_NAMES: all devices, all places, ...

    def without_event(self, row_P: np.ndarray, event_P: np.ndarray) -> EventLists:
        """Copies the rows row_P, each as if the event event_P[p] had not happened."""
        entity_rows = np.arange(len(ENTITY_NAMES))[:, None] * len(self.event_ms) + row_P
        return EventLists(
            self.event_ms[row_P],
            self.amount[row_P],
            self.letter[row_P],
            self.user_lists.without_event(row_P, event_P),
            self.entity_lists.without_event(
                entity_rows.ravel(), np.tile(event_P, len(ENTITY_NAMES))
            ),
        )

    def duplicates(self) -> np.ndarray:
        """(n,) bool: an earlier token of the user's list is the same event."""
        lists = self.user_lists
        list_T = np.repeat(np.arange(len(self.event_ms)), np.diff(lists.starts))
        own_n = np.maximum(lists.starts[1:] - 1, 0)  # unused for empty lists
        same_T = is_event(lists.letter) & (lists.time_ms == lists.time_ms[own_n[list_T]])
        same_T &= lists.event == lists.event[own_n[list_T]]
        return np.bincount(list_T[same_T], minlength=len(self.event_ms)) > 1


def is_event(letter_T: np.ndarray) -> np.ndarray:
    """(T,) bool: the token is an event, not a label."""
    return letter_T >= ord(TYPE_LETTERS[0])


def parse_lists(batch: EventBatch) -> EventLists:
    """Parses the lists of a batch. Raises InvalidLists for the whole batch if one is invalid."""
    entity_texts = [text for entity in ENTITY_NAMES for text in getattr(batch, f"of_{entity}")]
    return EventLists(
        batch.event_ms,
        batch.amount,
        np.array([ord(TYPE_LETTERS[TYPE_INDEX[name]]) for name in batch.event_type], np.uint8),
        _parse_texts(batch.of_user, ENTITY_NAMES),
        _parse_texts(entity_texts, ("user",)),
    )


def _parse_texts(texts: list[str], id_names: tuple[str, ...]) -> TokenLists:
    # A list is a table whose lines are tokens, so one run of Arrow's CSV reader parses all lists.
    sizes = [text.count(EVENT) + 1 if text else 0 for text in texts]
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    types = {**_TOKEN, **dict.fromkeys(id_names, pa.int32())}
    lines = EVENT.join(filter(None, texts)).encode("utf-8", "replace").translate(_TO_LINES)
    if not lines:
        empty = (np.empty(0, dtype.to_pandas_dtype()) for dtype in list(types.values())[1:])
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
        raise InvalidLists(str(error).splitlines()[0]) from None
    letters = b"".join(chunk.buffers()[2] for chunk in table["letter"].chunks)
    if len(letters) != starts[-1] or table["time_ms"].null_count or table["event"].null_count:
        raise InvalidLists("a token has no letter, time or event")
    time_ms, event, amount, *id_columns = (
        (column.fill_null(0) if column.null_count else column).to_numpy()
        for column in table.columns[1:]
    )
    letter = np.frombuffer(letters, np.uint8)
    return TokenLists(starts, letter, time_ms, event, amount, tuple(id_columns))
