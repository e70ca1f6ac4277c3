"""Long-term baselines of a user: accumulated by the SQL in O(1) state, read here.

A decayed total at time t is sum(x_i * exp(-(t - e_i) / tau)). The SQL accumulates
sum(x_i * exp((e_i - T0) / tau)) without looking at t, and the reader scales it back
(forward decay: Cormode and others, ICDE 2009). At tau = 30 days a double lasts 58 years from T0.
Formulas: docs/data-contract.md, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from liveprofile.units import DAY_MS

T0 = "TIMESTAMP '2020-01-01 00:00:00'"
T0_MS = 1_577_836_800_000
DAY_S = 86_400.0

HOUR_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWX"
WEEKDAY_DIGITS = "1234567"  # Monday first

# name -> what the window adds; `weight` is the window's forward-decay weight.
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
# The layout of one baseline array, after and before; `contribution` has the same length.
COLUMNS = (*SUMS, *(f"activity_{c}" for c in _ACTIVITY))
FIRST_ACTIVITY = len(SUMS)


def weight(window_end: str, decay_days: float) -> str:
    """SQL: exp((e - T0) / tau)."""
    return f"EXP(TIMESTAMPDIFF(SECOND, {T0}, {window_end}) / {decay_days * DAY_S!r}E0)"


def _count(letter: str) -> str:
    return f"(CHAR_LENGTH(activity) - CHAR_LENGTH(REPLACE(activity, '{letter}', '')))"


def contributions() -> list[tuple[str, str]]:
    """SQL: (column, what this window adds to it), in the order of COLUMNS."""
    sums = {**_TOTALS, **{k: f"({v}) * weight" for k, v in _DECAYED.items()}}
    sums |= {f"activity_{c}": f"{_count(c)} * weight" for c in _ACTIVITY}
    return [(name, sums[name]) for name in COLUMNS]


@dataclass(frozen=True)
class Baselines:
    """Of n users, each array of shape (n,) but for the activity ones."""

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


def read(sums: np.ndarray, time_ms: np.ndarray, decay_days: float) -> Baselines:
    """Baselines as seen at a time.

    sums: (n, len(COLUMNS)) float64 as accumulated by the SQL, or their first len(SUMS) columns,
    without activity; time_ms: (n,).
    """
    at = {name: sums[:, i] for i, name in enumerate(SUMS)}
    scale = np.exp(-(time_ms - T0_MS) / (decay_days * DAY_MS))
    # Both sides of a ratio carry the same scale, so means need none.
    weighed = np.where(at["w_windows"] > 0, at["w_windows"], 1.0)

    def mean_and_std(total: str, squared: str) -> tuple[np.ndarray, np.ndarray]:
        mean = at[total] / weighed
        return mean, np.sqrt(np.maximum(at[squared] / weighed - mean * mean, 0.0))

    count_mean, count_std = mean_and_std("w_purchases", "w_purchases_squared")
    amount_mean, amount_std = mean_and_std("w_amount", "w_amount_squared")
    activity = sums[:, FIRST_ACTIVITY:]
    return Baselines(
        windows=at["windows"],
        events=at["events"],
        purchases=at["purchases"],
        amount=at["amount"],
        purchase_windows=at["purchase_windows"],
        purchase_windows_decayed=at["w_windows"] * scale,
        purchases_decayed=at["w_purchases"] * scale,
        amount_decayed=at["w_amount"] * scale,
        purchase_count_mean=count_mean,
        purchase_count_std=count_std,
        purchase_amount_mean=amount_mean,
        purchase_amount_std=amount_std,
        activity_hour=_shares(activity[:, : len(HOUR_LETTERS)]),
        activity_weekday=_shares(activity[:, len(HOUR_LETTERS) :]),
    )


def _shares(weights: np.ndarray) -> np.ndarray:
    total = weights.sum(axis=1, keepdims=True)
    return weights / np.where(total > 0, total, 1.0)
