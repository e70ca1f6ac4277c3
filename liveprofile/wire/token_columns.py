"""The history of a user as one text, and tokens of many rows as columns.

A history is the user's last windows, this one last, joined by WINDOW. Each window is a header and
its tokens, joined by EVENT. A header has the layout of a token: the time of the user's last
purchase so far, then HEADER in place of the type letter. `window_sql` and `history_sql` write a
history in Flink SQL, `read_histories` parses the histories of a batch.

Shapes: n rows, N tokens of all rows.
"""

from __future__ import annotations

from itertools import compress
from typing import NamedTuple

import numpy as np

from liveprofile.wire.tokens import (
    EVENT,
    FIELD,
    HEADER,
    TOKEN_CHARS_PER_WINDOW,
    TYPE_LETTERS,
    WINDOW,
    Token,
    join_sql,
)

_FIELDS = 5
_FIRST_LETTER = ord(TYPE_LETTERS[0])


class TokenColumns(NamedTuple):
    """The tokens of n rows end to end, each row's tokens in order of time."""

    starts: np.ndarray  # (n + 1,) int64: row i has the tokens starts[i] to starts[i + 1]
    time_ms: np.ndarray  # (N,) int64
    type_index: np.ndarray  # (N,) int32
    item: list[str]
    category: list[str]
    amount: np.ndarray  # (N,) float64

    @classmethod
    def of(cls, rows: list[list[Token]]) -> TokenColumns:
        sizes = np.fromiter(map(len, rows), np.int64, len(rows))
        flat = [token for row in rows for token in row]
        return cls(
            np.concatenate([[0], np.cumsum(sizes)]),
            np.array([t.time_ms for t in flat], np.int64),
            np.array([t.type_index for t in flat], np.int32),
            [t.item for t in flat],
            [t.category for t in flat],
            np.array([t.amount for t in flat], np.float64),
        )

    @property
    def sizes(self) -> np.ndarray:
        """(n,) tokens of each row."""
        return np.diff(self.starts)

    @property
    def row_of(self) -> np.ndarray:
        """(N,) the row that each token belongs to."""
        return np.repeat(np.arange(len(self.starts) - 1), self.sizes)


class Histories(NamedTuple):
    """The windows before this one, for n rows."""

    tokens: TokenColumns
    last_purchase_ms: np.ndarray  # (n,) int64, before this window; 0: none
    last_purchase_ms_now: np.ndarray  # (n,) int64, this window included


def tokens_sql(token: str) -> str:
    """SQL aggregate: the tokens of a window, in any order."""
    return f"LISTAGG({token}, '{EVENT}')"


def last_tokens_sql(tokens: str) -> str:
    """SQL: the tokens of a window, without the first ones if they are too long for the state."""
    # Flink computes an expression that occurs twice for every row, also for short ones.
    tail = f"RIGHT({tokens}, {TOKEN_CHARS_PER_WINDOW})"
    return (
        f"CASE WHEN CHAR_LENGTH({tokens}) < {TOKEN_CHARS_PER_WINDOW} THEN {tokens}"
        f" ELSE REGEXP_REPLACE({tail}, '^[^{EVENT}]*{EVENT}', '') END"
    )


def window_sql(last_purchase_ms: str, tokens: str) -> str:
    """SQL: a window of a history. `last_purchase_ms`: a BIGINT column, NULL without a purchase."""
    last_purchase = f"CAST(COALESCE({last_purchase_ms}, CAST(0 AS BIGINT)) AS STRING)"
    header = join_sql(last_purchase, f"'{HEADER}'", "''", "''", "'0'")
    return f"CONCAT({header}, '{EVENT}', {tokens})"


def history_sql(*windows: str) -> str:
    """SQL: a history of windows from the earliest to this one; NULL windows are left out."""
    return f"CONCAT_WS('{WINDOW}', {', '.join(windows)})"


def history_since(history: str, first_ms: int) -> str:
    """The history of a user whose windows before the one that begins at `first_ms` are forgotten.

    A last purchase before it is forgotten, too. The window of the row, the last one, stays.
    """
    *earlier, this = history.split(WINDOW)
    kept = [window for window in earlier if _first_token_ms(window) >= first_ms]
    return WINDOW.join(_forget_purchase(window, first_ms) for window in (*kept, this))


def _first_token_ms(window: str) -> int:
    _, token, *_ = window.split(EVENT, 2)
    return int(token[: token.index(FIELD)])


def _forget_purchase(window: str, first_ms: int) -> str:
    last_purchase_ms, separator, rest = window.partition(FIELD)
    return window if int(last_purchase_ms) >= first_ms else f"0{separator}{rest}"


def with_last_purchase(history: str, last_purchase_ms: int) -> str:
    """The history with another last purchase of its last window, the one of the row; 0: none."""
    earlier, separator, this = history.rpartition(WINDOW)
    return f"{earlier}{separator}{last_purchase_ms}{this[this.index(FIELD) :]}"


def read_histories(texts: list[str]) -> Histories:
    """Parses n histories.

    Tokens and headers have five fields each, so one split of all texts yields columns.
    """
    before, now = [], []
    for text in texts:
        earlier, _, this = text.rpartition(WINDOW)
        before.append(earlier)
        now.append(int(this[: this.index(FIELD)]))
    # Tokens and headers of each row.
    counts = np.array([t.count(EVENT) + t.count(WINDOW) + 1 if t else 0 for t in before], np.int64)
    joined = FIELD.join(filter(None, before)).replace(EVENT, FIELD).replace(WINDOW, FIELD)
    fields = joined.split(FIELD) if joined else []
    letters = np.frombuffer("".join(fields[1::_FIELDS]).encode(), np.uint8)
    times = np.fromiter(map(int, fields[0::_FIELDS]), np.int64, len(letters))
    header = letters == ord(HEADER)
    row_of = np.repeat(np.arange(len(texts)), counts)

    last_purchase = np.zeros(len(texts), np.int64)
    last_purchase[row_of[header]] = times[header]  # the last of a row wins
    keep = ~header
    chosen = keep.tolist()
    row_of, times = row_of[keep], times[keep]
    tokens = TokenColumns(
        np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=len(texts)))]),
        times,
        letters[keep].astype(np.int32) - _FIRST_LETTER,
        list(compress(fields[2::_FIELDS], chosen)),
        list(compress(fields[3::_FIELDS], chosen)),
        np.fromiter(map(float, compress(fields[4::_FIELDS], chosen)), np.float64, len(times)),
    )
    return Histories(_by_time(tokens, row_of), last_purchase, np.array(now, np.int64))


def _by_time(tokens: TokenColumns, row_of: np.ndarray) -> TokenColumns:
    """Sorts each row in place, by time and then by the other fields.

    The order of arrival is no criterion: it changes from run to run.
    """
    unsorted = (np.diff(tokens.time_ms) <= 0) & (np.diff(row_of) == 0)
    for row in np.unique(row_of[1:][unsorted]).tolist():
        part = slice(tokens.starts[row], tokens.starts[row + 1])
        ordered = sorted(
            zip(
                tokens.time_ms[part].tolist(),
                tokens.type_index[part].tolist(),
                tokens.item[part],
                tokens.category[part],
                tokens.amount[part].tolist(),
                strict=True,
            )
        )
        columns = zip(*ordered, strict=True)
        for column, values in zip(tokens[1:], columns, strict=True):
            column[part] = values
    return tokens
