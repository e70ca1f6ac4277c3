"""The tokens of a window as one text, and those of many rows as columns.

Shapes: n rows, N tokens of all rows.
"""

from typing import NamedTuple, Self

import numpy as np

from liveprofile.wire.tokens import EVENT, TOKEN_CHARS_PER_WINDOW, Token


class TokenColumns(NamedTuple):
    """The tokens of n rows end to end, each row's tokens in order of time."""

    starts: np.ndarray  # (n + 1,) int64: row i has the tokens starts[i] to starts[i + 1]
    time_ms: np.ndarray  # (N,) int64
    type_index: np.ndarray  # (N,) int32
    item: list[str]
    category: list[str]
    amount: np.ndarray  # (N,) float64

    @classmethod
    def of(cls, rows: list[list[Token]]) -> Self:
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

    def sorted(self) -> Self:
        """Sorts each row in place, by time and then by the other fields.

        The order of arrival is no criterion: it changes from run to run.
        """
        row_of = self.row_of
        unsorted = (np.diff(self.time_ms) <= 0) & (np.diff(row_of) == 0)
        for row in np.unique(row_of[1:][unsorted]).tolist():
            part = slice(self.starts[row], self.starts[row + 1])
            ordered = sorted(
                zip(
                    self.time_ms[part].tolist(),
                    self.type_index[part].tolist(),
                    self.item[part],
                    self.category[part],
                    self.amount[part].tolist(),
                    strict=True,
                )
            )
            for column, values in zip(self[1:], zip(*ordered, strict=True), strict=True):
                column[part] = values
        return self


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
