"""The last events of a user or an entity as one text.

A list holds the last K tokens of a key in order of arrival, joined by EVENT. A token of a user's
list is letter, time in ms, hash of the event id, amount, and the hash of each entity of ENTITIES;
a token of an entity's list has the hash of the user id in place of the entities. A label is a
token too, with FRAUD or LEGITIMATE in place of the type letter. Hashes are Flink's HASH_CODE, 31
bits; an empty id has the hash '', which is read as 0.

The functions ending in `_sql` write the lists in Flink SQL; `parse_token_lists` reads them into
flat columns.

Array suffixes: S lists, T tokens of all lists, P selected lists.
"""

from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
from pyarrow import csv

from liveprofile.wire.scored_events import ENTITIES
from liveprofile.wire.tokens import EVENT, FIELD, TYPE_LETTERS, join_sql

FRAUD, LEGITIMATE = "+", "-"
MISSING = 0
_TO_LINES = bytes.maketrans(EVENT.encode(), b"\n")
_TOKEN = {"letter": pa.string(), "time_ms": pa.int64(), "event": pa.int32(), "amount": pa.float64()}


def hash_sql(column: str) -> str:
    """SQL: a short stand-in for an id, since a list holds a hundred ids."""
    return f"CASE WHEN {column} = '' THEN '' ELSE CAST(HASH_CODE({column}) AS STRING) END"


def hash_code(text: str) -> int:
    """What HASH_CODE is of a text: Math.abs, which keeps the smallest integer, of Java's
    String.hashCode."""
    code = 0
    units = text.encode("utf-16-le", "surrogatepass")
    for low, high in zip(units[::2], units[1::2], strict=True):
        code = (31 * code + (high << 8 | low)) & 0xFFFFFFFF
    signed = code - (1 << 32) if code >> 31 else code
    return abs(signed) if signed != -(1 << 31) else signed


def user_token_sql(letter: str, time_ms: str, event_id: str, amount: str, *entities: str) -> str:
    """SQL: a token of a user's list. `entities`: hashes or '', in the order of ENTITIES."""
    if len(entities) != len(ENTITIES):
        raise ValueError(f"{len(entities)} entities, not {len(ENTITIES)}")
    return join_sql(letter, time_ms, hash_sql(event_id), amount, *entities)


def entity_token_sql(letter: str, time_ms: str, event_id: str, amount: str, user_id: str) -> str:
    """SQL: a token of an entity's list."""
    return join_sql(letter, time_ms, hash_sql(event_id), amount, hash_sql(user_id))


def label_letter_sql(label: str) -> str:
    """SQL: the letter of a label's token."""
    return f"CASE {label} WHEN 'fraud' THEN '{FRAUD}' ELSE '{LEGITIMATE}' END"


def last_tokens_sql(token: str, key: str, count: int) -> str:
    """SQL: the list of a key's last `count` tokens, in order of arrival, by the Java aggregate
    LAST_JOINED. NULL tokens do not count."""
    over = f"OVER (PARTITION BY {key} ORDER BY arrival ROWS UNBOUNDED PRECEDING)"
    return f"LAST_JOINED({token}, '{EVENT}', {count}) {over}"


class InvalidListsError(ValueError):
    """The text is not a list of tokens."""


class TokenLists(NamedTuple):
    """S lists with T tokens in all, concatenated."""

    starts: np.ndarray  # (S + 1,) int64: list s is starts[s] to starts[s + 1]
    letter: np.ndarray  # (T,) uint8, ASCII
    time_ms: np.ndarray  # (T,) int64
    event: np.ndarray  # (T,) int32, hash of the event id
    amount: np.ndarray  # (T,) float64
    # (5, T) int32: the ENTITY_NAMES of a user list's tokens; (1, T): the user of an entity list's.
    ids: np.ndarray

    def take(self, index_T: np.ndarray | slice, starts: np.ndarray) -> Self:
        """Selects tokens by index, in lists with the given starts."""
        return TokenLists(
            starts,
            self.letter[index_T],
            self.time_ms[index_T],
            self.event[index_T],
            self.amount[index_T],
            self.ids[:, index_T],
        )

    def where(self, kept_T: np.ndarray) -> Self:
        """The same lists with some of their tokens. kept_T: (T,) bool."""
        before = np.concatenate([[0], np.cumsum(kept_T, dtype=np.int64)])
        return self.take(np.flatnonzero(kept_T), before[self.starts])

    def without_event(self, list_P: np.ndarray, event_P: np.ndarray) -> Self:
        """Copies the lists list_P, each without the tokens and labels of the event event_P[p]."""
        size_P = np.diff(self.starts)[list_P]
        end_P = np.cumsum(size_P)
        index_T = np.arange(end_P[-1]) + np.repeat(self.starts[list_P] - end_P + size_P, size_P)
        copy_T = np.repeat(np.arange(len(list_P)), size_P)
        kept_T = self.event[index_T] != event_P[copy_T]
        index_T, size_P = index_T[kept_T], np.bincount(copy_T[kept_T], minlength=len(list_P))
        return self.take(index_T, np.concatenate([[0], np.cumsum(size_P)]))


def is_event(letter_T: np.ndarray) -> np.ndarray:
    """(T,) bool: the token is an event, not a label."""
    return letter_T >= ord(TYPE_LETTERS[0])


def parse_token_lists(texts: list[str], id_names: tuple[str, ...]) -> TokenLists:
    """Parses S lists. `id_names`: the ids of a token. Raises InvalidListsError."""
    # A list is a table whose lines are tokens, so one run of Arrow's CSV reader parses all lists.
    sizes = [text.count(EVENT) + 1 if text else 0 for text in texts]
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    types = {**_TOKEN, **dict.fromkeys(id_names, pa.int32())}
    lines = EVENT.join(filter(None, texts)).encode("utf-8", "replace").translate(_TO_LINES)
    if not lines:
        empty = (np.empty(0, dtype.to_pandas_dtype()) for dtype in list(types.values())[1:])
        time_ms, event, amount, *id_columns = empty
        return TokenLists(
            starts, np.empty(0, np.uint8), time_ms, event, amount, np.array(id_columns)
        )
    try:
        table = csv.read_csv(
            pa.BufferReader(lines),
            csv.ReadOptions(use_threads=False, block_size=len(lines) + 1, column_names=list(types)),
            csv.ParseOptions(delimiter=FIELD, quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(column_types=types, null_values=[""]),
        )
    except pa.ArrowInvalid as error:
        raise InvalidListsError(str(error).splitlines()[0]) from None
    letters = b"".join(chunk.buffers()[2] for chunk in table["letter"].chunks)
    if len(letters) != starts[-1] or table["time_ms"].null_count or table["event"].null_count:
        raise InvalidListsError("a token has no letter, time or event")
    time_ms, event, amount, *id_columns = (
        (column.fill_null(0) if column.null_count else column).to_numpy()
        for column in table.columns[1:]
    )
    letter = np.frombuffer(letters, np.uint8)
    return TokenLists(starts, letter, time_ms, event, amount, np.array(id_columns))
