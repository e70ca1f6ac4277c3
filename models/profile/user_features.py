"""User-level model inputs that cover more of a user's past than the tokens of one sequence.

`feature_matrix` gives magnitudes for the churn and spend heads, which predict a month ahead.
`repeat_counts` gives, for the heads that rank the next item or category, how often a user already
had each one, with decay: people consume much of what they consumed before (Anderson and others
2014, "The dynamics of repeat consumption", doi:10.1145/2566486.2568018).

Shape suffixes: N events of all rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.features.baselines import Baselines
from liveprofile.units import DAY_MS
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import TYPE_INDEX

_BASELINE_FEATURES = (
    "windows",
    "events",
    "purchases",
    "amount",
    "purchase_windows",
    "purchase_windows_decayed",
    "purchases_decayed",
    "amount_decayed",
    "purchase_count_mean",
    "purchase_count_std",
    "purchase_amount_mean",
    "purchase_amount_std",
)
_HISTORY_FEATURES = ("recency_days", "history_days", "history_events", "history_amount")
FEATURE_NAMES = (*_BASELINE_FEATURES, *_HISTORY_FEATURES)
NEVER_DAYS = 400.0  # recency of a user without a purchase


class ActivitySummary(NamedTuple):
    """Totals over the last K windows of n users at a given time, each (n,) float64."""

    days: np.ndarray  # since the first event; 0 without events
    events: np.ndarray
    amount: np.ndarray  # of purchases


def summarize_activity(tokens: TokenColumns, time_ms: np.ndarray) -> ActivitySummary:
    """Summarizes the tokens of n rows. time_ms: (n,) the reference time of each row."""
    rows, row_of, nonempty = len(tokens.sizes), tokens.row_of, tokens.sizes > 0
    days = np.zeros(rows)
    first_ms = tokens.time_ms[tokens.starts[:-1][nonempty]]
    days[nonempty] = np.maximum(time_ms[nonempty] - first_ms, 0) / DAY_MS
    bought = np.where(tokens.type_index == TYPE_INDEX["purchase"], tokens.amount, 0.0)
    return ActivitySummary(days, tokens.sizes.astype(np.float64), np.bincount(row_of, bought, rows))


def add_window(
    before: ActivitySummary, window: ActivitySummary, days: np.ndarray
) -> ActivitySummary:
    """Adds a window to the history before it. days: (n,) the length of the window."""
    return ActivitySummary(
        np.where(before.events > 0, before.days + days, window.days),
        before.events + window.events,
        before.amount + window.amount,
    )


def recency_days(time_ms: np.ndarray, last_purchase_ms: np.ndarray) -> np.ndarray:
    """(n,) days since the last purchase, NaN where last_purchase_ms is 0 (no purchase)."""
    return np.where(last_purchase_ms > 0, (time_ms - last_purchase_ms) / DAY_MS, np.nan)


def feature_matrix(base: Baselines, recency: np.ndarray, history: ActivitySummary) -> np.ndarray:
    """(n, len(FEATURE_NAMES)) float32, log1p-scaled. recency: (n,) days, NaN for no purchase."""
    columns = [getattr(base, name) for name in _BASELINE_FEATURES]
    columns += [np.where(np.isnan(recency), NEVER_DAYS, recency), *history]
    return np.log1p(np.maximum(np.column_stack(columns), 0.0)).astype(np.float32)


def decay_weights(time_ms_N: np.ndarray, now_ms_N: np.ndarray, decay_days: float) -> np.ndarray:
    """(N,) exponential decay weights: an event `decay_days` before `now` weighs 1/e."""
    return np.exp((time_ms_N - now_ms_N) / (decay_days * DAY_MS))


def repeat_counts(
    row_N: np.ndarray, code_N: np.ndarray, weight_N: np.ndarray, rows: int, width: int
) -> np.ndarray:
    """(rows, width) float32 log(1 + sum of the weights) of each code; code 0 (no id) counts 0."""
    count = np.bincount(row_N * width + code_N, weight_N, rows * width).reshape(rows, width)
    count[:, 0] = 0
    return np.log1p(count, dtype=np.float32)
