"""A user's baselines: long-term decayed sums that the SQL accumulates in O(1) state.

A decayed total at time t is sum(x_i * exp(-(t - e_i) / tau)). The SQL accumulates
sum(x_i * exp((e_i - T0) / tau)), which does not depend on t, and `read_baselines` rescales it to t
(forward decay: Cormode et al., ICDE 2009). At tau = 30 days a double overflows 58 years after T0.
The formulas are in docs/data-contract.md, section 4.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from liveprofile.units import DAY_MS, HOUR_MS, SECOND_MS

T0 = "TIMESTAMP '2020-01-01 00:00:00'"
T0_MS = 1_577_836_800_000
DAY_S = DAY_MS / SECOND_MS

HOUR_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWX"
WEEKDAY_DIGITS = "1234567"  # Monday first
FIRST_WEEKDAY = 3  # 1970-01-01 was a Thursday

# name -> SQL of what a window adds. The decayed sums multiply it by the window's decay weight.
_TOTALS = {
    "windows": "1.0",
    "events": "n_events",
    "purchases": "n_purchases",
    "amount": "amount",
    "purchase_windows": "has_purchase",
}
_DECAYED = {
    "w_windows": "has_purchase",
    "w_purchases": "n_purchases",
    "w_purchases_squared": "n_purchases * n_purchases",
    "w_amount": "amount",
    "w_amount_squared": "amount * amount",
}
SUMS = (*_TOTALS, *_DECAYED)
_ACTIVITY = tuple(HOUR_LETTERS + WEEKDAY_DIGITS)
# The layout of a row of sums and of a window's contributions to them.
COLUMNS = (*SUMS, *(f"activity_{c}" for c in _ACTIVITY))
FIRST_ACTIVITY = len(SUMS)
T = TypeVar("T", float, np.ndarray)


def decay_weight_sql(window_end: str, decay_days: float) -> str:
    """SQL: a window's forward-decay weight exp((e - T0) / tau)."""
    return f"EXP(TIMESTAMPDIFF(SECOND, {T0}, {window_end}) / {decay_days * DAY_S!r}E0)"


def _activity_count_sql(letter: str) -> str:
    return f"(CHAR_LENGTH(activity) - CHAR_LENGTH(REPLACE(activity, '{letter}', '')))"


def contributions_sql() -> list[tuple[str, str]]:
    """SQL: (column, the window's contribution to it) for each of COLUMNS."""
    sums = {**_TOTALS, **{k: f"({v}) * weight" for k, v in _DECAYED.items()}}
    sums |= {f"activity_{c}": f"{_activity_count_sql(c)} * weight" for c in _ACTIVITY}
    return [(name, sums[name]) for name in COLUMNS]


@dataclass(frozen=True)
class Baselines:
    """The baselines of n users. Arrays are (n,) unless noted."""

    windows: np.ndarray
    events: np.ndarray
    purchases: np.ndarray
    amount: np.ndarray
    purchase_windows: np.ndarray
    purchase_windows_decayed: np.ndarray
    purchases_decayed: np.ndarray
    amount_decayed: np.ndarray
    purchase_count_mean: np.ndarray
    purchase_count_std: np.ndarray
    purchase_amount_mean: np.ndarray
    purchase_amount_std: np.ndarray
    activity_hour: np.ndarray  # (n, 24), shares
    activity_weekday: np.ndarray  # (n, 7), shares


def read_baselines(sums: np.ndarray, time_ms: np.ndarray, decay_days: float) -> Baselines:
    """Computes the baselines as of `time_ms`.

    sums: (n, len(COLUMNS)) float64 as the SQL accumulates them, or only the first len(SUMS)
    columns, without activity. time_ms: (n,).
    """
    sum_of = {name: sums[:, i] for i, name in enumerate(SUMS)}
    scale = np.exp(-(time_ms - T0_MS) / (decay_days * DAY_MS))
    # Numerator and denominator of a mean have the same scale, which cancels out.
    weight = np.where(sum_of["w_windows"] > 0, sum_of["w_windows"], 1.0)

    def mean_and_std(total: str, squared: str) -> tuple[np.ndarray, np.ndarray]:
        mean = sum_of[total] / weight
        return mean, np.sqrt(np.maximum(sum_of[squared] / weight - mean * mean, 0.0))

    count_mean, count_std = mean_and_std("w_purchases", "w_purchases_squared")
    amount_mean, amount_std = mean_and_std("w_amount", "w_amount_squared")
    activity = sums[:, FIRST_ACTIVITY:]
    return Baselines(
        windows=sum_of["windows"],
        events=sum_of["events"],
        purchases=sum_of["purchases"],
        amount=sum_of["amount"],
        purchase_windows=sum_of["purchase_windows"],
        purchase_windows_decayed=sum_of["w_windows"] * scale,
        purchases_decayed=sum_of["w_purchases"] * scale,
        amount_decayed=sum_of["w_amount"] * scale,
        purchase_count_mean=count_mean,
        purchase_count_std=count_std,
        purchase_amount_mean=amount_mean,
        purchase_amount_std=amount_std,
        activity_hour=_shares(activity[:, : len(HOUR_LETTERS)]),
        activity_weekday=_shares(activity[:, len(HOUR_LETTERS) :]),
    )


def purchase_sums(purchases: T, amount: T, weight: float) -> dict[str, T]:
    """What the purchases of a window add, in numpy or plain numbers; as `contributions_sql`."""
    has_purchase = 1.0 * (purchases > 0)
    return {
        "purchases": purchases,
        "amount": amount,
        "purchase_windows": has_purchase,
        "w_windows": has_purchase * weight,
        "w_purchases": purchases * weight,
        "w_purchases_squared": purchases * purchases * weight,
        "w_amount": amount * weight,
        "w_amount_squared": amount * amount * weight,
    }


def added_without(
    added: np.ndarray,
    is_purchase_N: np.ndarray,
    amount_N: np.ndarray,
    time_ms_N: np.ndarray,
    end_ms: int,
    decay_days: float,
) -> np.ndarray:
    """(N, len(COLUMNS)) what a window adds without one of its events, for each of N events.

    added: (len(COLUMNS),) with all events (`contributions_sql`). end_ms: of the window.
    """
    of = dict(zip(COLUMNS, added.tolist(), strict=True))
    weight = np.exp((end_ms - T0_MS) // SECOND_MS / (decay_days * DAY_S))
    purchases_N = of["purchases"] - is_purchase_N
    amount_N = (purchases_N > 0) * (of["amount"] - is_purchase_N * amount_N)
    rows = np.tile(added, (len(amount_N), 1))
    rows[:, COLUMNS.index("events")] -= 1
    for name, column_N in purchase_sums(purchases_N, amount_N, weight).items():
        rows[:, COLUMNS.index(name)] = column_N
    hour_N, weekday_N = time_ms_N // HOUR_MS % 24, (time_ms_N // DAY_MS + FIRST_WEEKDAY) % 7
    for letter_N in (hour_N, len(HOUR_LETTERS) + weekday_N):
        rows[np.arange(len(rows)), FIRST_ACTIVITY + letter_N] -= weight
    return rows


def _shares(weights: np.ndarray) -> np.ndarray:
    total = weights.sum(axis=1, keepdims=True)
    return weights / np.where(total > 0, total, 1.0)
