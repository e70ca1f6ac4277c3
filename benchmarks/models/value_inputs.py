"""What the job knows of a user's purchases at a moment, as numbers for a value head.

Everything comes from what the operator reads for a window: the sums of the baselines, the windows
of the memory (their ends and events) and the amounts of the history.

Shape suffixes: M moments, W windows, P windows with a purchase, X inputs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.features import baselines
from liveprofile.units import DAY_MS
from liveprofile.wire.memories import MEMORY_WINDOWS
from models.profile import user_features
from models.profile.data.examples import PURCHASE
from models.profile.data.training_rows import Streams
from models.profile.evaluation.moments import Moments

LAGS = (1, 2, 3, 4, 5, 7, 10, 14, 20, 30, 39)  # of purchase windows before the last
SPANS_DAYS = (3, 7, 14, 30, 60, 90, 180)
GAPS_DAYS = (2, 4, 7, 10, 14, 21, 30, 45, 60, 90)
AMOUNTS = 4  # of the last purchase windows


class PurchaseWindows(NamedTuple):
    """The P windows with a purchase, ordered by user and time."""

    window_P: np.ndarray
    user_P: np.ndarray
    end_ms_P: np.ndarray
    lines_P: np.ndarray  # purchases
    amount_P: np.ndarray
    gap_days_P: np.ndarray  # since the user's previous one; 0 for the first

    @classmethod
    def of(cls, streams: Streams) -> PurchaseWindows:
        bought_N = streams.type_N == PURCHASE
        lines_W = np.add.reduceat(bought_N.astype(np.float64), streams.first_W)
        amount_W = np.add.reduceat(np.where(bought_N, streams.amount_N, 0.0), streams.first_W)
        window_P = np.flatnonzero(lines_W)
        user_P, end_ms_P = streams.user_W[window_P], streams.end_ms_W[window_P]
        repeat_P = np.diff(user_P, prepend=-1) == 0
        gap_P = np.where(repeat_P, np.diff(end_ms_P, prepend=0) / DAY_MS, 0.0)
        return cls(window_P, user_P, end_ms_P, lines_W[window_P], amount_W[window_P], gap_P)


def value_inputs(
    streams: Streams, moments: Moments, history_windows: int, decay_days: float
) -> np.ndarray:
    """(M, X) float32 of each moment's user, from the windows up to the moment's window."""
    window_M, at_ms_M = moments
    bought = PurchaseWindows.of(streams)
    first_of_user_M = np.searchsorted(streams.user_W, streams.user_W[window_M])

    def first_of_last(windows: int) -> np.ndarray:
        kept_M = np.maximum(window_M - windows + 1, first_of_user_M)
        return np.searchsorted(bought.window_P, kept_M)

    # The purchase windows of the memory are from_M .. to_M - 1, those with an amount from paid_M.
    from_M, paid_M = first_of_last(MEMORY_WINDOWS), first_of_last(history_windows + 1)
    to_M = np.searchsorted(bought.window_P, window_M, side="right")
    columns = [
        *_sums(streams, moments, decay_days).T,
        *_rhythm(bought, at_ms_M, from_M, to_M),
        *_spans(streams.user_W[window_M], bought, at_ms_M, from_M, paid_M, to_M),
    ]
    for back in range(1, AMOUNTS + 1):
        amount_M = bought.amount_P[np.maximum(to_M - back, 0)]
        columns.append(np.where(to_M - back >= paid_M, _log(amount_M), 0.0))
    weekday_M = 2 * np.pi * (at_ms_M // DAY_MS % 7) / 7
    columns += [np.sin(weekday_M), np.cos(weekday_M)]
    return np.column_stack(columns).astype(np.float32)


def _sums(streams: Streams, moments: Moments, decay_days: float) -> np.ndarray:
    """(M, .) the user features that the sums give."""
    window_M, at_ms_M = moments
    base = baselines.read_baselines(streams.sums_WS[window_M], at_ms_M, decay_days)
    recency_M = user_features.recency_days(at_ms_M, streams.last_purchase_ms_W[window_M])
    first_M = np.searchsorted(streams.user_W, streams.user_W[window_M])
    seen_days_M = (at_ms_M - streams.end_ms_W[first_M]) / DAY_MS
    nothing_M = np.zeros(len(window_M))
    summary = user_features.ActivitySummary(seen_days_M, nothing_M, nothing_M)
    return user_features.feature_matrix(base, recency_M, summary)


def _rhythm(
    bought: PurchaseWindows, at_ms_M: np.ndarray, from_M: np.ndarray, to_M: np.ndarray
) -> list[np.ndarray]:
    """Times since the last purchase windows, and how the gaps between them are distributed."""
    known_M = to_M > from_M
    last_M = np.where(known_M, to_M - 1, 0)
    first_M = np.where(known_M, from_M, 0)
    idle_M = np.where(known_M, (at_ms_M - bought.end_ms_P[last_M]) / DAY_MS, 0.0)
    span_M = np.where(known_M, (at_ms_M - bought.end_ms_P[first_M]) / DAY_MS, 0.0)
    gaps_M = np.maximum(last_M - first_M, 1)

    def total(value_P: np.ndarray) -> np.ndarray:
        """Sum over the gaps inside the memory."""
        before_P = np.concatenate([[0.0], np.cumsum(value_P)])
        return before_P[last_M + 1] - before_P[first_M + 1]

    gap_P = bought.gap_days_P
    mean_M = total(gap_P) / gaps_M
    spread_M = np.sqrt(np.maximum(total(gap_P**2) / gaps_M - mean_M**2, 0.0))
    columns = [
        _log(idle_M),
        _log(span_M),
        (to_M - from_M).astype(float),
        _log(mean_M),
        _log(spread_M),
        np.where(last_M > first_M, _log(gap_P[last_M]), 0.0),
        total(_log(gap_P)) / gaps_M,
        np.where(last_M > first_M, _log(np.minimum(idle_M / np.maximum(mean_M, 0.5), 50.0)), 0.0),
    ]
    for lag in LAGS:
        since_ms_M = at_ms_M - bought.end_ms_P[np.maximum(last_M - lag, first_M)]
        columns.append(np.where(known_M, _log(since_ms_M / DAY_MS), 0.0))
    for days in GAPS_DAYS:
        columns.append(_log(total(gap_P > days)))
        # The share of the time in which the next `days` days had no purchase.
        columns.append(total(np.maximum(gap_P - days, 0.0)) / np.maximum(span_M, 1.0))
    return columns


def _spans(
    user_M: np.ndarray,
    bought: PurchaseWindows,
    at_ms_M: np.ndarray,
    from_M: np.ndarray,
    paid_M: np.ndarray,
    to_M: np.ndarray,
) -> list[np.ndarray]:
    """Purchase windows, purchases and spend in the last days."""
    longest_ms = max(SPANS_DAYS) * DAY_MS
    start_ms = min(int(bought.end_ms_P.min()), int(at_ms_M.min())) - longest_ms
    key_ms = int(max(bought.end_ms_P.max(), at_ms_M.max())) - start_ms + 1
    key_P = bought.user_P * key_ms + bought.end_ms_P - start_ms
    key_M = user_M * key_ms + at_ms_M - start_ms
    lines, amount = (
        np.concatenate([[0.0], np.cumsum(value_P)]) for value_P in (bought.lines_P, bought.amount_P)
    )
    columns = []
    for days in SPANS_DAYS:
        since_M = np.searchsorted(key_P, key_M - days * DAY_MS, side="right")
        since_M = np.minimum(np.maximum(since_M, from_M), to_M)
        with_amount_M = np.maximum(since_M, np.minimum(paid_M, to_M))
        columns += [
            _log(to_M - since_M),
            _log(lines[to_M] - lines[since_M]),
            _log(amount[to_M] - amount[with_amount_M]),
        ]
    return columns


def _log(value: np.ndarray) -> np.ndarray:
    return np.log1p(np.maximum(value, 0.0))
