"""Recency, frequency and monetary value of every window's user at its end, from the streams alone.

A purchase day is a UTC day with a purchase. What is said of a window looks no further than its last
token, so a day that goes on after it counts with what it had by then. Definitions as in Fader,
Hardie and Lee 2005, Marketing Science 24(2), doi:10.1287/mksc.1040.0098, and beyond them the last
weeks and the gaps between purchase days.

Shape suffixes: W windows of the corpus, N tokens, P purchases, F columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.units import DAY_MS
from models.profile.data.examples import PURCHASE
from models.profile.data.training_rows import Streams

LATELY_DAYS = (7, 30, 90)

COLUMNS = {
    "recency": "days from the last purchase day to the window's last day",
    "frequency": "purchase days",
    "age": "days from the first purchase day to the window's last day",
    "monetary": "spend per purchase day",
    **{
        f"{what}_{days}d": f"{meaning} in the {days} days up to the window's last, inclusive"
        for days in LATELY_DAYS
        for what, meaning in (
            ("purchases", "purchases"),
            ("spend", "spend"),
            ("days", "purchase days"),
        )
    },
    "gap_mean": "days between a purchase day and the next, mean; 0 before there are two",
    "gap_std": "and their standard deviation; 0 before there are three",
    "gap_last": "the last of them; 0 before there are two",
    "window_amount": "spend in the window",
}


class Features(NamedTuple):
    """F columns of W windows; of a user who has not bought yet all are 0, the frequency too."""

    names: list[str]
    values_WF: np.ndarray  # float64; days, counts and currency

    def column(self, name: str) -> np.ndarray:
        return self.values_WF[:, self.names.index(name)]


def features(streams: Streams) -> Features:
    """Of every window, in the corpus's order; see COLUMNS."""
    bought_N = streams.type_N == PURCHASE
    if not bought_N.any():
        return Features(list(COLUMNS), np.zeros((len(streams.user_W), len(COLUMNS))))
    user_P = np.repeat(streams.user_W, streams.last_W - streams.first_W)[bought_N]
    day_P = streams.time_ms_N[bought_N] // DAY_MS
    amount_P = streams.amount_N[bought_N]
    again_P = np.diff(user_P, prepend=-1) == 0  # not the user's first purchase
    step_P = np.where(again_P, np.diff(day_P, prepend=0), 0)
    new_day_P = ~again_P | (step_P > 0)
    gap_P = step_P[new_day_P]  # of each purchase day to the one before, 0 for a user's first

    # Of each window's user, purchases before place `to_W`, the first of them at `from_W`.
    bought = _total(bought_N)
    to_W = bought[streams.last_W]
    from_W = np.searchsorted(user_P, streams.user_W)
    some_W = to_W > from_W
    first_W, last_W = np.where(some_W, from_W, 0), np.where(some_W, to_W - 1, 0)
    end_day_W = (streams.end_ms_W - 1) // DAY_MS
    spend, days, squares = _total(amount_P), _total(new_day_P), _total(step_P.astype(float) ** 2)

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
    start_day = min(int(day_P.min()), int(end_day_W.min())) - max(LATELY_DAYS)
    span = max(int(day_P.max()), int(end_day_W.max())) - start_day + 2
    key_P = user_P * span + day_P - start_day
    end_key_W = streams.user_W * span + end_day_W - start_day
    for lately in LATELY_DAYS:
        since_W = np.searchsorted(key_P, end_key_W - lately, side="right")
        columns |= {
            f"purchases_{lately}d": to_W - since_W,
            f"spend_{lately}d": spend[to_W] - spend[since_W],
            f"days_{lately}d": days[to_W] - days[since_W],
        }
    columns |= {
        "gap_mean": gap_mean_W,
        "gap_std": np.sqrt(np.maximum(gap_square_W - gap_mean_W**2, 0.0)),
        "gap_last": gap_P[np.maximum(days[to_W] - 1, 0)],
        "window_amount": spend[to_W] - spend[bought[streams.first_W]],
    }
    values_WF = np.column_stack([columns[name] for name in COLUMNS]).astype(float)
    return Features(list(COLUMNS), np.where(some_W[:, None], values_WF, 0.0))


def _total(value_N: np.ndarray) -> np.ndarray:
    """(N + 1,) sum of all before each place."""
    return np.concatenate([[0], np.cumsum(value_N)])
