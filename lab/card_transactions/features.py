"""The features of chapter 3 of the Fraud Detection Handbook, for the baselines.

No feature uses a later transaction, or a label before it is known. The module `data` of this
package cites the handbook.

Shape suffixes: N transactions, F features.
"""

from __future__ import annotations

import numpy as np

from lab.card_transactions.data import Transactions
from liveprofile.units import DAY_MS, HOUR_MS

WINDOWS_DAYS = (1, 7, 30)
NIGHT_UNTIL_HOUR = 6

FEATURE_NAMES = [
    "amount",
    "weekend",
    "night",
    *(f"card_{measure}_{days}d" for days in WINDOWS_DAYS for measure in ("count", "mean")),
    *(f"terminal_{measure}_{days}d" for days in WINDOWS_DAYS for measure in ("count", "risk")),
]


def handbook_features(data: Transactions, delay_days: int) -> np.ndarray:
    """Returns the (N, F) float32 columns of FEATURE_NAMES.

    Counts and means include the transaction itself. The risk of a terminal is its share of frauds
    among the transactions of the window that ends `delay_days` before the transaction.
    """
    columns: dict[str, np.ndarray] = {
        "amount": data.amount_N,
        "weekend": (data.day_N + 3) % 7 >= 5,  # 1970-01-01 was a Thursday
        "night": data.time_ms_N // HOUR_MS % 24 <= NIGHT_UNTIL_HOUR,
    }
    card = _KeyWindows(data.card_N, data.time_ms_N)
    terminal = _KeyWindows(data.terminal_N, data.time_ms_N)
    # Even without a delay, the transaction's own label is unknown.
    delay_ms = max(delay_days * DAY_MS, 1)
    for days in WINDOWS_DAYS:
        window_ms = days * DAY_MS
        amounts_N, count_N = card.sums_and_counts(data.amount_N, window_ms)
        columns[f"card_count_{days}d"] = count_N
        columns[f"card_mean_{days}d"] = amounts_N / count_N
        columns[f"terminal_count_{days}d"] = terminal.sums_and_counts(data.fraud_N, window_ms)[1]
        frauds_N, labelled_N = terminal.sums_and_counts(data.fraud_N, window_ms, delay_ms)
        columns[f"terminal_risk_{days}d"] = frauds_N / np.maximum(labelled_N, 1)
    return np.column_stack([columns[name] for name in FEATURE_NAMES]).astype(np.float32)


class _KeyWindows:
    """Sums over time windows of the transactions of one key (a card or a terminal).

    All transactions are sorted by key, then time. Two binary searches find the ends of a window in
    that order, and a cumulative sum gives the sum between them.
    """

    def __init__(self, key_N: np.ndarray, time_ms_N: np.ndarray):
        self._order_N = np.lexsort((time_ms_N, key_N))
        since_first_ms_N = time_ms_N - time_ms_N.min()
        # One sorted axis for all keys: each key has its own stretch of time.
        self._key_start_N = key_N * (int(since_first_ms_N.max()) + 1)
        self._position_N = self._key_start_N + since_first_ms_N
        self._sorted_N = self._position_N[self._order_N]

    def sums_and_counts(
        self, value_N: np.ndarray, window_ms: int, delay_ms: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns (N,) sums of the values and (N,) counts over (t - delay - window, t - delay]."""
        sums = np.concatenate([[0.0], np.cumsum(value_N[self._order_N], dtype=np.float64)])
        end_N, start_N = self._end(delay_ms), self._end(delay_ms + window_ms)
        return sums[end_N] - sums[start_N], end_N - start_N

    def _end(self, before_ms: int) -> np.ndarray:
        """(N,) index behind the key's last transaction at or before `before_ms` ago."""
        wanted_N = np.maximum(self._position_N - before_ms, self._key_start_N - 1)
        return np.searchsorted(self._sorted_N, wanted_N, side="right")
