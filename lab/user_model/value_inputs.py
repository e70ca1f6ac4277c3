"""The inputs of the product's value curves at a moment, and more: the amounts of single windows.

Everything comes from what the operator reads for a window: the sums of the baselines, the windows
of the memory (their ends and events) and the amounts of the history.

Shape suffixes: M moments, W windows, N events, P windows with a purchase, X inputs.
"""

from __future__ import annotations

import numpy as np

from liveprofile.features import baselines
from liveprofile.units import DAY_MS
from liveprofile.wire.histories import MEMORY_WINDOWS
from models.profile import user_features
from models.profile.data.examples import PURCHASE
from models.profile.data.moments import Moments
from models.profile.data.training_rows import Streams
from models.profile.values import PurchaseWindows, curve_inputs, log_1p, span_starts

AMOUNTS = 4  # of the last purchase windows


def value_inputs(
    streams: Streams, moments: Moments, history_windows: int, decay_days: float
) -> np.ndarray:
    """(M, X) float32 of each moment's user, from the windows up to the moment's window."""
    window_M, at_ms_M = moments
    user_M = streams.user_W[window_M]
    first_of_user_M = np.searchsorted(streams.user_W, user_M)
    bought_N = streams.type_N == PURCHASE
    purchases_W = np.add.reduceat(bought_N.astype(np.float64), streams.first_W)
    amount_W = np.add.reduceat(np.where(bought_N, streams.amount_N, 0.0), streams.first_W)
    bought, before_W = PurchaseWindows.of(streams.user_W, streams.end_ms_W, purchases_W)
    amount_P = amount_W[purchases_W > 0]

    def first_of_last(windows: int) -> np.ndarray:
        return before_W[np.maximum(window_M - windows + 1, first_of_user_M)]

    # The purchase windows of the memory are from_M .. to_M - 1, those with an amount from paid_M.
    from_M, paid_M = first_of_last(MEMORY_WINDOWS), first_of_last(history_windows + 1)
    to_M = before_W[window_M + 1]
    columns = []
    total_P = np.concatenate([[0.0], np.cumsum(amount_P)])
    for since_M in span_starts(bought, user_M, at_ms_M, from_M, to_M):
        with_amount_M = np.maximum(since_M, np.minimum(paid_M, to_M))
        columns.append(log_1p(total_P[to_M] - total_P[with_amount_M]))
    for back in range(1, AMOUNTS + 1):
        amount_M = np.append(amount_P, 0.0)[np.maximum(to_M - back, 0)]
        columns.append(np.where(to_M - back >= paid_M, log_1p(amount_M), 0.0))
    sums_MX = _sums(streams, moments, decay_days)
    product_MX = curve_inputs(sums_MX, bought, user_M, from_M, to_M, at_ms_M)
    return np.column_stack([product_MX, *columns]).astype(np.float32)


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
