"""Tokens of many rows as columns: what the operator computes with, thousands in a batch."""

from __future__ import annotations

from itertools import compress
from typing import NamedTuple

import numpy as np

from liveprofile.wire.tokens import EVENT, FIELD, HEADER, TYPE_LETTERS, WINDOW, Token

_FIELDS = 5
_FIRST_LETTER = ord(TYPE_LETTERS[0])


class TokenColumns(NamedTuple):
    """The tokens of n rows laid end to end, N in all; a row's in order of time."""

    starts: np.ndarray  # (n + 1,) int64: row i's are starts[i] to starts[i + 1]
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
        """(N,) the row of each token."""
        return np.repeat(np.arange(len(self.starts) - 1), self.sizes)


class Histories(NamedTuple):
    """The K windows before this one, of n rows."""

    tokens: TokenColumns
    last_purchase_ms: np.ndarray  # (n,) int64 of all windows before this one; 0: none
    last_purchase_ms_now: np.ndarray  # (n,) this window included


def read_histories(texts: list[str]) -> Histories:
    """As `jobs.sql.profile_views.remembered` lists them: windows, this one last, each a header and its tokens.

    A header is laid out like a token: the last purchase so far, then the type HEADER. So the text
    of the whole batch is split once, and every fifth field is a column.
    """
    before, now = [], []
    for text in texts:
        earlier, _, this = text.rpartition(WINDOW)
        before.append(earlier)
        now.append(int(this[: this.index(FIELD)]))
    # Records of each row: tokens and headers.
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
    """Sorts in place where needed. Equal times go by what the token says: which arrived first
    changes from run to run."""
    unsure = (np.diff(tokens.time_ms) <= 0) & (np.diff(row_of) == 0)
    for row in np.unique(row_of[1:][unsure]).tolist():
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
