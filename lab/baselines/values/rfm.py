"""Recency, frequency and monetary value (RFM) of users at given moments.

A purchase day is a UTC day with a purchase. Features use events of windows that have ended by the
moment, so a day that continues after the window counts with its purchases so far. Definitions
follow Fader, Hardie and Lee 2005, Marketing Science 24(2), doi:10.1287/mksc.1040.0098; the recent
spans and the gaps between purchase days are added to them.

Shape suffixes: W moments, each with the user's last window; N tokens, P purchases, F columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.units import DAY_MS
from models.profile.data.examples import PURCHASE
from models.profile.data.moments import Moments
from models.profile.data.training_rows import Streams

RECENT_DAYS = (7, 30, 90)

COLUMNS = {
    "recency": "days from the last purchase day to the last day before the moment",
    "frequency": "purchase days",
    "age": "days from the first purchase day to the last day before the moment",
    "monetary": "spend per purchase day",
    **{
        f"{name}_{days}d": f"{meaning} in the {days} days before the moment"
        for days in RECENT_DAYS
        for name, meaning in (
            ("purchases", "purchases"),
            ("spend", "spend"),
            ("days", "purchase days"),
        )
    },
    "gap_mean": "mean days between consecutive purchase days; 0 for fewer than two",
    "gap_std": "standard deviation of these gaps; 0 for fewer than three purchase days",
    "gap_last": "the last of these gaps; 0 for fewer than two purchase days",
    "window_amount": "spend in the last window",
}


class RfmFeatures(NamedTuple):
    """F columns of W moments, all 0 where the user has no purchase yet."""

    names: list[str]
    values_WF: np.ndarray  # float64; days, counts and currency

    def column(self, name: str) -> np.ndarray:
        return self.values_WF[:, self.names.index(name)]


def rfm_features(streams: Streams, moments: Moments) -> RfmFeatures:
    """The features COLUMNS at each moment."""
    window_W, at_ms_W = moments
    user_W = streams.user_W[window_W]
    bought_N = streams.type_N == PURCHASE
    if not bought_N.any():
        return RfmFeatures(list(COLUMNS), np.zeros((len(user_W), len(COLUMNS))))
    user_P = np.repeat(streams.user_W, streams.last_W - streams.first_W)[bought_N]
    day_P = streams.time_ms_N[bought_N] // DAY_MS
    amount_P = streams.amount_N[bought_N]
    repeat_P = np.diff(user_P, prepend=-1) == 0  # not the user's first purchase
    step_P = np.where(repeat_P, np.diff(day_P, prepend=0), 0)
    new_day_P = ~repeat_P | (step_P > 0)
    gap_P = step_P[new_day_P]  # from the previous purchase day; 0 for a user's first

    # The purchases of a moment's user up to the last window's end are from_W .. to_W - 1.
    purchases_before = _cumulative_sum(bought_N)
    to_W = purchases_before[streams.last_W[window_W]]
    from_W = np.searchsorted(user_P, user_W)
    has_purchase_W = to_W > from_W
    first_W = np.where(has_purchase_W, from_W, 0)
    last_W = np.where(has_purchase_W, to_W - 1, 0)
    end_day_W = (at_ms_W - 1) // DAY_MS
    spend, days = _cumulative_sum(amount_P), _cumulative_sum(new_day_P)
    squares = _cumulative_sum(step_P.astype(float) ** 2)

    frequency_W = days[to_W] - days[from_W]
    gaps_W = np.maximum(frequency_W - 1, 1)
    gap_mean_W = (day_P[last_W] - day_P[first_W]) / gaps_W
    gap_square_W = (squares[to_W] - squares[from_W]) / gaps_W
    columns = {
        "recency": end_day_W - day_P[last_W],
        "frequency": frequency_W,
        "age": end_day_W - day_P[first_W],
        "monetary": (spend[to_W] - spend[from_W]) / np.maximum(frequency_W, 1),
    }
    # One ascending key for (user, day).
    start_day = min(int(day_P.min()), int(end_day_W.min())) - max(RECENT_DAYS)
    span = max(int(day_P.max()), int(end_day_W.max())) - start_day + 2
    key_P = user_P * span + day_P - start_day
    end_key_W = user_W * span + end_day_W - start_day
    for recent_days in RECENT_DAYS:
        since_W = np.searchsorted(key_P, end_key_W - recent_days, side="right")
        since_W = np.minimum(since_W, to_W)  # later purchases are in open windows
        columns |= {
            f"purchases_{recent_days}d": to_W - since_W,
            f"spend_{recent_days}d": spend[to_W] - spend[since_W],
            f"days_{recent_days}d": days[to_W] - days[since_W],
        }
    columns |= {
        "gap_mean": gap_mean_W,
        "gap_std": np.sqrt(np.maximum(gap_square_W - gap_mean_W**2, 0.0)),
        "gap_last": gap_P[np.maximum(days[to_W] - 1, 0)],
        "window_amount": spend[to_W] - spend[purchases_before[streams.first_W[window_W]]],
    }
    values_WF = np.column_stack([columns[name] for name in COLUMNS]).astype(float)
    return RfmFeatures(list(COLUMNS), np.where(has_purchase_W[:, None], values_WF, 0.0))


def _cumulative_sum(value_N: np.ndarray) -> np.ndarray:
    """(N + 1,) sum of the values before each index."""
    return np.concatenate([[0], np.cumsum(value_N)])
