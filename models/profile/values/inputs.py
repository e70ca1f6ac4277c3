"""What the curves read of a user: the user features, and the rhythm of purchases in the memory.

Shape suffixes: M users, each at a time; P windows with a purchase; X inputs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.units import DAY_MS
from models.profile.user_features import FEATURE_NAMES

LAGS = (1, 2, 3, 4, 5, 7, 10, 14, 20, 30, 39)  # of purchase windows before the last
SPANS_DAYS = (3, 7, 14, 30, 60, 90, 180)
GAPS_DAYS = (2, 4, 7, 10, 14, 21, 30, 45, 60, 90)
RHYTHM = (
    "idle_days",
    "span_days",
    "windows",
    "gap_mean",
    "gap_std",
    "last_gap",
    "gap_log_mean",
    "idle_over_gap",
    *(f"since_{lag}" for lag in LAGS),
    *(f"{kind}_{days}" for days in GAPS_DAYS for kind in ("gaps_over", "quiet")),
    *(f"{kind}_{days}" for days in SPANS_DAYS for kind in ("windows", "purchases")),
    "weekday_sin",
    "weekday_cos",
)
INPUTS = (*FEATURE_NAMES, *RHYTHM)


class PurchaseWindows(NamedTuple):
    """P windows with a purchase, ordered by user and time."""

    user_P: np.ndarray  # any ascending number
    end_ms_P: np.ndarray
    purchases_P: np.ndarray

    @classmethod
    def of(
        cls, user_W: np.ndarray, end_ms_W: np.ndarray, purchases_W: np.ndarray
    ) -> tuple[PurchaseWindows, np.ndarray]:
        """Also returns (W + 1,) how many purchase windows come before each window."""
        index_P = np.flatnonzero(purchases_W)
        before_W = np.concatenate([[0], np.cumsum(purchases_W > 0)])
        return cls(user_W[index_P], end_ms_W[index_P], purchases_W[index_P]), before_W


def curve_inputs(
    user_features_MF: np.ndarray,
    bought: PurchaseWindows,
    user_M: np.ndarray,
    from_M: np.ndarray,
    to_M: np.ndarray,
    at_ms_M: np.ndarray,
) -> np.ndarray:
    """(M, X) float32, in the order of INPUTS.

    user_features_MF: at the same times. user_M: as in `bought`; the purchase windows of the memory
    of user m are those from from_M[m] to to_M[m] - 1, and end at at_ms_M[m] or earlier.
    """
    weekday_M = 2 * np.pi * (at_ms_M // DAY_MS % 7) / 7
    columns = [
        *_gaps(bought, at_ms_M, from_M, to_M),
        *_spans(bought, user_M, at_ms_M, from_M, to_M),
        np.sin(weekday_M),
        np.cos(weekday_M),
    ]
    return np.column_stack([user_features_MF, *columns]).astype(np.float32)


def _gaps(
    bought: PurchaseWindows, at_ms_M: np.ndarray, from_M: np.ndarray, to_M: np.ndarray
) -> list[np.ndarray]:
    """Days since the last purchase windows, and how the gaps between them are distributed."""
    known_M = to_M > from_M
    # A place past the end stands for users without a purchase.
    end_ms_P = np.append(bought.end_ms_P, 0)
    last_M, first_M = np.where(known_M, to_M - 1, 0), np.where(known_M, from_M, 0)
    idle_M = np.where(known_M, (at_ms_M - end_ms_P[last_M]) / DAY_MS, 0.0)
    span_M = np.where(known_M, (at_ms_M - end_ms_P[first_M]) / DAY_MS, 0.0)
    gap_P = np.append(np.diff(bought.end_ms_P, prepend=0) / DAY_MS, 0.0)
    gap_P[:-1][np.diff(bought.user_P, prepend=-1) != 0] = 0.0
    gaps_M, repeated_M = np.maximum(last_M - first_M, 1), last_M > first_M

    def total(value_P: np.ndarray) -> np.ndarray:
        """Sum over the gaps inside the memory.

        Each memory is added up alone: differences of running sums round by what else is in a batch.
        """
        edge_2M = np.column_stack([first_M + 1, last_M + 1]).ravel()
        return np.where(repeated_M, np.add.reduceat(np.append(value_P, 0.0), edge_2M)[::2], 0.0)

    mean_M = total(gap_P) / gaps_M
    # Rounded, since the square root of a rounding error of the sums would be large.
    spread_M = np.sqrt(np.maximum(np.round(total(gap_P**2) / gaps_M - mean_M**2, 6), 0.0))
    columns = [
        log_1p(idle_M),
        log_1p(span_M),
        (to_M - from_M).astype(float),
        log_1p(mean_M),
        log_1p(spread_M),
        np.where(repeated_M, log_1p(gap_P[last_M]), 0.0),
        total(log_1p(gap_P)) / gaps_M,
        np.where(repeated_M, log_1p(np.minimum(idle_M / np.maximum(mean_M, 0.5), 50.0)), 0.0),
    ]
    for lag in LAGS:
        since_ms_M = at_ms_M - end_ms_P[np.maximum(last_M - lag, first_M)]
        columns.append(np.where(known_M, log_1p(since_ms_M / DAY_MS), 0.0))
    for days in GAPS_DAYS:
        columns.append(log_1p(total(gap_P > days)))
        # The share of the time in which the next `days` days had no purchase.
        columns.append(total(np.maximum(gap_P - days, 0.0)) / np.maximum(span_M, 1.0))
    return columns


def span_starts(
    bought: PurchaseWindows,
    user_M: np.ndarray,
    at_ms_M: np.ndarray,
    from_M: np.ndarray,
    to_M: np.ndarray,
) -> list[np.ndarray]:
    """(M,) for each of SPANS_DAYS: the first purchase window of the last days, or to_M."""
    longest_ms = max(SPANS_DAYS) * DAY_MS
    times_ms = np.concatenate([bought.end_ms_P, at_ms_M])
    if not len(times_ms):
        return [to_M] * len(SPANS_DAYS)
    start_ms = int(times_ms.min()) - longest_ms
    key_ms = int(times_ms.max()) - start_ms + 1
    key_P = bought.user_P * key_ms + bought.end_ms_P - start_ms
    key_M = user_M * key_ms + at_ms_M - start_ms
    starts = []
    for days in SPANS_DAYS:
        since_M = np.searchsorted(key_P, key_M - days * DAY_MS, side="right")
        starts.append(np.minimum(np.maximum(since_M, from_M), to_M))
    return starts


def _spans(
    bought: PurchaseWindows,
    user_M: np.ndarray,
    at_ms_M: np.ndarray,
    from_M: np.ndarray,
    to_M: np.ndarray,
) -> list[np.ndarray]:
    """Purchase windows and purchases in the last days."""
    purchases_P = np.concatenate([[0.0], np.cumsum(bought.purchases_P)])
    columns = []
    for since_M in span_starts(bought, user_M, at_ms_M, from_M, to_M):
        columns += [log_1p(to_M - since_M), log_1p(purchases_P[to_M] - purchases_P[since_M])]
    return columns


def log_1p(value: np.ndarray) -> np.ndarray:
    """log(1 + value), of 0 for a negative value."""
    return np.log1p(np.maximum(value, 0.0))
