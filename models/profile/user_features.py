"""What the model is told of a user's past beside the tokens that fit into a sequence.

`numbers`: a row of magnitudes for the heads that look a month ahead. `had`: how often the user had
what, old times counting less, for the heads that rank what comes next: much of what people take
they take again (Anderson and others 2014, "The dynamics of repeat consumption",
doi:10.1145/2566486.2568018).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.features.baselines import Baselines
from liveprofile.units import DAY_MS
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import TYPE_INDEX

_FROM_BASELINES = (
    "windows", "events", "purchases", "amount", "purchase_windows", "purchase_windows_decayed",
    "purchases_decayed", "amount_decayed", "purchase_count_mean", "purchase_count_std",
    "purchase_amount_mean", "purchase_amount_std",
)  # fmt: skip
NUMBERS = (*_FROM_BASELINES, "recency_days", "history_days", "history_events", "history_amount")
NEVER_DAYS = 400.0  # since a purchase that never was


class Recent(NamedTuple):
    """The last K windows of n users as seen at a time, each (n,) float64."""

    days: np.ndarray  # since their first event; 0 for none
    events: np.ndarray
    amount: np.ndarray  # of purchases


def recent(tokens: TokenColumns, time_ms: np.ndarray) -> Recent:
    """Of the tokens of n rows. time_ms: (n,) when they are looked at."""
    rows, row_of, some = len(tokens.sizes), tokens.row_of, tokens.sizes > 0
    days = np.zeros(rows)
    first_ms = tokens.time_ms[tokens.starts[:-1][some]]
    days[some] = np.maximum(time_ms[some] - first_ms, 0) / DAY_MS
    bought = np.where(tokens.type_index == TYPE_INDEX["purchase"], tokens.amount, 0.0)
    return Recent(days, tokens.sizes.astype(np.float64), np.bincount(row_of, bought, rows))


def with_window(before: Recent, window: Recent, days: np.ndarray) -> Recent:
    """The history and the window after it. days: (n,) from the window's start to its end."""
    return Recent(
        np.where(before.events > 0, before.days + days, window.days),
        before.events + window.events,
        before.amount + window.amount,
    )


def recency_days(time_ms: np.ndarray, last_purchase_ms: np.ndarray) -> np.ndarray:
    """(n,) days since the last purchase, NaN for none (0 ms)."""
    return np.where(last_purchase_ms > 0, (time_ms - last_purchase_ms) / DAY_MS, np.nan)


def numbers(base: Baselines, recency: np.ndarray, history: Recent) -> np.ndarray:
    """(n, len(NUMBERS)) float32 logarithms. recency: (n,) days, NaN for never."""
    columns = [getattr(base, name) for name in _FROM_BASELINES]
    columns += [np.where(np.isnan(recency), NEVER_DAYS, recency), *history]
    return np.log1p(np.maximum(np.column_stack(columns), 0.0)).astype(np.float32)


class Had(NamedTuple):
    """How often each row had what: log(1 + count), an event of `decay` ago counting 1/e.

    M pairs, ordered by row and code; code 0, no id, is never had.
    """

    row_M: np.ndarray
    code_M: np.ndarray
    value_M: np.ndarray  # float32

    def dense(self, rows: int, width: int) -> np.ndarray:
        """(rows, width) float32; codes from `width` on are left out."""
        table = np.zeros((rows, width), np.float32)
        inside_M = self.code_M < width
        table[self.row_M[inside_M], self.code_M[inside_M]] = self.value_M[inside_M]
        return table


def weights(time_ms_N: np.ndarray, now_ms_N: np.ndarray, decay_days: float) -> np.ndarray:
    """(N,) what an event counts at a time."""
    return np.exp((time_ms_N - now_ms_N) / (decay_days * DAY_MS))


def had(row_N: np.ndarray, code_N: np.ndarray, weight_N: np.ndarray, width: int) -> Had:
    """Codes lie in 0..width-1."""
    some_N = code_N > 0
    pairs_N = row_N[some_N] * width + code_N[some_N]
    # As numpy.unique, but stable, since that merges the rows' runs instead of sorting anew.
    order_N = np.argsort(pairs_N, kind="stable")
    pairs_N, weight_N = pairs_N[order_N], weight_N[some_N][order_N]
    first_M = np.flatnonzero(np.diff(pairs_N, prepend=-1))
    count_M = np.add.reduceat(weight_N, first_M)
    row_M, code_M = np.divmod(pairs_N[first_M], width)
    return Had(row_M, code_M, np.log1p(count_M).astype(np.float32))


def had_dense(
    row_N: np.ndarray, code_N: np.ndarray, weight_N: np.ndarray, rows: int, width: int
) -> np.ndarray:
    """The same as (rows, width) float32, for a small `width`; code 0, no id, is never had."""
    count = np.bincount(row_N * width + code_N, weight_N, rows * width).reshape(rows, width)
    count[:, 0] = 0
    return np.log1p(count, dtype=np.float32)
