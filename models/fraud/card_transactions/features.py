"""What is known of a card and a terminal when a transaction comes: no later event enters, and no
label before it is known.

`HANDBOOK` are the features of the handbook's chapter 3 (see models.fraud.card_transactions.data), the baselines'. All
others are ours: how unusual an amount is for its card, and since when a terminal has been known for
frauds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.units import DAY_MS, HOUR_MS
from models.fraud.card_transactions.data import Transactions

WINDOWS_DAYS = (1, 7, 30)
LARGE = 3.0  # times the card's usual amount
LARGE_DAYS = (1, 3, 7, 14)
MOST = 20.0  # a ratio beyond it tells no more
SPREE_DAYS = 28  # how long frauds at one place are looked back for
NEVER_DAYS = 999.0
NIGHT_UNTIL_HOUR = 6


class Features(NamedTuple):
    """F columns of N transactions."""

    names: list[str]
    values_NF: np.ndarray  # float32

    def only(self, names: list[str]) -> Features:
        return Features(names, self.values_NF[:, [self.names.index(name) for name in names]])


HANDBOOK = [
    "amount",
    "weekend",
    "night",
    *(f"card_{what}_{days}d" for days in WINDOWS_DAYS for what in ("count", "mean")),
    *(f"terminal_{what}_{days}d" for days in WINDOWS_DAYS for what in ("count", "risk")),
]


def features(data: Transactions, delay_days: int) -> Features:
    """Of every transaction, itself included where its label is not asked for."""
    columns: dict[str, np.ndarray] = {
        "amount": data.amount_N,
        "weekend": (data.day_N + 3) % 7 >= 5,  # 1970-01-01 was a Thursday
        "night": data.time_ms_N // HOUR_MS % 24 <= NIGHT_UNTIL_HOUR,
    }
    card = _Past(data.card_N, data.time_ms_N)
    terminal = _Past(data.terminal_N, data.time_ms_N)
    for name, past in (("card", card), ("terminal", terminal)):
        columns |= _prefixed(name, _amounts(past, data.amount_N))
        # A label is never known before its transaction is over.
        columns |= _prefixed(name, _known_frauds(past, data, max(delay_days * DAY_MS, 1)))
    ratio_N = np.minimum(columns["card_ratio"], MOST)
    large_N = columns["card_ratio"] > LARGE
    for days in LARGE_DAYS:
        columns[f"card_large_{days}d"] = card.within(days, large_N)
        columns[f"card_mean_ratio_{days}d"] = card.mean_within(days, ratio_N)
    for days in (1, 7, SPREE_DAYS):
        columns[f"terminal_mean_ratio_{days}d"] = terminal.mean_within(days, ratio_N)
    return Features(list(columns), np.column_stack(list(columns.values())).astype(np.float32))


def _prefixed(prefix: str, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}_{name}": values for name, values in columns.items()}


class _Past:
    """Sums over a key's transactions of a stretch of time, each by two binary searches.

    All transactions lie in order of key and time; a place is an index into that order.
    """

    def __init__(self, key_N: np.ndarray, time_ms_N: np.ndarray):
        self.time_ms_N = time_ms_N
        self.order_N = np.lexsort((time_ms_N, key_N))
        since_ms_N = time_ms_N - time_ms_N.min()
        self._key_starts_N = key_N * (int(since_ms_N.max()) + 1)
        self._at_N = self._key_starts_N + since_ms_N
        self._sorted_N = self._at_N[self.order_N]
        self.first_N = np.searchsorted(self._sorted_N, self._key_starts_N)  # of the key
        self._until: dict[int, np.ndarray] = {}
        self.now_N = self.until(0)

    def until(self, before_ms: int) -> np.ndarray:
        """(N,) the place behind the last of the same key at or before `before_ms` ago."""
        if before_ms not in self._until:  # most are asked for by several features
            wanted_N = np.maximum(self._at_N - before_ms, self._key_starts_N - 1)
            self._until[before_ms] = np.searchsorted(self._sorted_N, wanted_N, side="right")
        return self._until[before_ms]

    def sums(self, value_N: np.ndarray) -> np.ndarray:
        """(N + 1,): the sum over places a to b - 1 is sums[b] - sums[a]."""
        return np.concatenate([[0.0], np.cumsum(value_N[self.order_N], dtype=np.float64)])

    def within(self, days: int, value_N: np.ndarray) -> np.ndarray:
        """(N,) the sum over the last `days`."""
        sums = self.sums(value_N)
        return sums[self.now_N] - sums[self.until(days * DAY_MS)]

    def mean_within(self, days: int, value_N: np.ndarray) -> np.ndarray:
        return self.within(days, value_N) / (self.now_N - self.until(days * DAY_MS))


def _amounts(past: _Past, amount_N: np.ndarray) -> dict[str, np.ndarray]:
    columns = {}
    for days in WINDOWS_DAYS:
        columns[f"count_{days}d"] = past.now_N - past.until(days * DAY_MS)
        columns[f"mean_{days}d"] = past.mean_within(days, amount_N)
    sums, squares = past.sums(amount_N), past.sums(amount_N**2)
    earlier_N = past.now_N - past.first_N - 1
    some_N = np.maximum(earlier_N, 1)
    mean_N = (sums[past.now_N] - sums[past.first_N] - amount_N) / some_N
    square_N = (squares[past.now_N] - squares[past.first_N] - amount_N**2) / some_N
    spread_N = np.sqrt(np.maximum(square_N - mean_N**2, 1.0))
    known_N = earlier_N > 1  # from one alone nothing is usual
    columns["earlier"] = earlier_N
    columns["usual"] = mean_N
    columns["ratio"] = np.where(known_N, amount_N / np.maximum(mean_N, 1.0), 1.0)
    columns["deviation"] = np.where(known_N, (amount_N - mean_N) / spread_N, 0.0)
    time_ms = past.time_ms_N[past.order_N]
    before_N = np.maximum(past.now_N - 2, 0)
    columns["gap_hours"] = np.where(
        earlier_N > 0, (past.time_ms_N - time_ms[before_N]) / HOUR_MS, NEVER_DAYS * 24
    )
    return columns


def _known_frauds(past: _Past, data: Transactions, delay_ms: int) -> dict[str, np.ndarray]:
    """From labels that are `delay_ms` old."""
    columns = {}
    fraud_N = data.fraud_N[past.order_N]
    sums = past.sums(data.fraud_N)
    known_N = past.until(delay_ms)
    for days in WINDOWS_DAYS:
        from_N = past.until(delay_ms + days * DAY_MS)
        labelled_N, frauds_N = known_N - from_N, sums[known_N] - sums[from_N]
        columns[f"labelled_{days}d"] = labelled_N
        columns[f"frauds_{days}d"] = frauds_N
        columns[f"risk_{days}d"] = frauds_N / np.maximum(labelled_N, 1)

    count = len(fraud_N)
    place_N = np.arange(count)
    time_ms = past.time_ms_N[past.order_N]
    # The last fraud at or before each place, and the first at or behind it.
    last_N = np.concatenate([[-1], np.maximum.accumulate(np.where(fraud_N, place_N, -1))])
    next_N = np.minimum.accumulate(np.where(fraud_N, place_N, count)[::-1])[::-1]
    next_N = np.append(next_N, count)
    last = last_N[known_N]
    first = next_N[past.until(delay_ms + SPREE_DAYS * DAY_MS)]
    seen, began = last >= past.first_N, first < known_N
    ago_ms_N = past.time_ms_N - time_ms[np.maximum(last, 0)]
    columns["days_since_last_fraud"] = np.where(seen, ago_ms_N / DAY_MS, NEVER_DAYS)
    first = np.where(began, first, 0)
    columns["days_since_first_fraud"] = np.where(
        began, (past.time_ms_N - time_ms[first]) / DAY_MS, NEVER_DAYS
    )
    columns["risk_since_first_fraud"] = np.where(
        began, (sums[known_N] - sums[first]) / np.maximum(known_N - first, 1), 0.0
    )
    return columns
