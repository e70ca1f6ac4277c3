"""Churn, spend and days to the next purchase at any time after a window, from a stored curve.

A model computes a profile when a window closes, and its values age until somebody reads them. So
the profile also stores what the values are if no event follows: for each horizon, at the knots,
days after the window's end. `values_at` reads them at a moment. Everything that shows or compares a
stored value calls it; only raw copies of rows do not.

The JSON of a profile has the key `value_curves`:

    {"after_days": [K days, ascending from 0], "horizon_days": [H days], "churn": [H lists of K],
     "expected_spend": [H lists of K], "purchase_in_days": [H lists of K]}

The first horizon is the model's, that of the columns churn and expected_spend. A row of a model
without curves lacks the key. Its values stay as they were at the window's end.

Shape suffixes: N users, H horizons, K knots.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from liveprofile.units import DAY_MS, HOUR_MS

KEY = "value_curves"
VALUES = ("churn", "expected_spend", "purchase_in_days")
STORED_COLUMNS = ("churn", "expected_spend")  # what rows have at the window's end, too
_DECIMALS = 6  # as profiles are rounded


class ValueCurves(NamedTuple):
    """Curves of N users for the model's horizon. NaN: the user's row has none."""

    after_days_NK: np.ndarray  # ascending; a row with fewer knots repeats its last
    values_NK: Mapping[str, np.ndarray]  # for each of VALUES

    @classmethod
    def of(cls, profiles: Iterable[Mapping[str, Any]]) -> Self:
        """The curves of N parsed profiles, or deltas."""
        curves = [profile.get(KEY) for profile in profiles]
        knots = max((len(curve["after_days"]) for curve in curves if curve), default=1)
        return cls(
            _matrix((curve and curve["after_days"] for curve in curves), knots),
            {
                name: _matrix((curve and curve[name][0] for curve in curves), knots)
                for name in VALUES
            },
        )

    def at(self, elapsed_days_N: np.ndarray) -> dict[str, np.ndarray]:
        """(N,) for each of VALUES, so many days after the windows' ends; NaN without a curve."""
        return {
            name: interpolate(self.after_days_NK, values_NK, elapsed_days_N)
            for name, values_NK in self.values_NK.items()
        }


def interpolate(
    after_days_NK: np.ndarray, value_NK: np.ndarray, elapsed_days_N: np.ndarray
) -> np.ndarray:
    """(N,) linear in log(1 + days) between two knots, constant before the first and past the last.

    NaN where the knots are NaN.
    """
    last = after_days_NK.shape[1] - 1
    clipped_N = np.clip(elapsed_days_N, after_days_NK[:, 0], after_days_NK[:, -1])
    right_N = np.clip((after_days_NK <= clipped_N[:, None]).sum(1), min(1, last), last)
    left_N, row_N = np.maximum(right_N - 1, 0), np.arange(len(right_N))
    from_N, to_N, at_N = (
        np.log1p(days_N)
        for days_N in (after_days_NK[row_N, left_N], after_days_NK[row_N, right_N], clipped_N)
    )
    width_N = to_N - from_N
    share_N = np.where(width_N > 0, (at_N - from_N) / np.where(width_N > 0, width_N, 1.0), 0.0)
    left_value_N = value_NK[row_N, left_N]
    value_N = left_value_N + share_N * (value_NK[row_N, right_N] - left_value_N)
    return np.round(np.where(np.isnan(at_N), np.nan, value_N), _DECIMALS)


def values_at(
    document: Mapping[str, Any], stored: Mapping[str, Any], window_end_ms: int, at_ms: int
) -> dict[str, float | None]:
    """VALUES of one profile or delta at a moment, if no event came after `window_end_ms`.

    document: the parsed JSON. stored: STORED_COLUMNS at the window's end, which a row without a
    curve keeps; it has no purchase_in_days. A moment before the window's end counts as it.
    """
    curve = document.get(KEY)
    if not curve:
        return {name: stored.get(name) for name in VALUES}
    # As `interpolate`, which costs ten times as much for one row.
    at, knots = np.log1p(max(at_ms - window_end_ms, 0) / DAY_MS), np.log1p(curve["after_days"])
    return {name: round(float(np.interp(at, knots, curve[name][0])), _DECIMALS) for name in VALUES}


def values_moment_ms(document: Mapping[str, Any], window_end_ms: int, at_ms: int) -> int:
    """The moment that `values_at` answers for: without a curve, the window's end."""
    return max(at_ms, window_end_ms) if document.get(KEY) else window_end_ms


def reading_time_ms(now_ms: int, window_end_ms: int) -> int:
    """The moment for which a reader at `now_ms` gets values: the last full hour.

    So two answers within an hour are equal, and a copy of the first is still valid.
    """
    return max(now_ms - now_ms % HOUR_MS, window_end_ms)


def _matrix(rows: Iterable[Sequence[float] | None], width: int) -> np.ndarray:
    """(N, width); a shorter row repeats its last entry, a missing one is NaN."""
    filled = []
    for row in rows:
        if row:
            missing = width - len(row)
            filled.append([*row, *itertools.repeat(row[-1], missing)])
        else:
            filled.append([np.nan] * width)
    return np.array(filled, np.float64).reshape(-1, width)
