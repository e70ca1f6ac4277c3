"""The seasonally expected range of each hour or day, from the same hours of earlier weeks.

The method is the modified z-score of Iglewicz and Hoaglin (How to Detect and Handle Outliers,
1993), applied to seasonal residuals as in Seasonal Hybrid ESD (Hochenbaum and others 2017):

- expected: the median of the same hour of the week in the weeks before;
- residual: (value - expected) / sqrt(expected), because the variance of counts grows with them;
- range: expected +- 3.5 x spread x sqrt(expected); the spread is 1.4826 x MAD of the residuals of
  the weeks before.

Where most hours have no events, the MAD is near 0. So the spread is at least the 95 % quantile of
the absolute residuals / 1.96, which is the same for a normal distribution.

The range of an hour uses earlier hours only. Medians do not follow a single unusual week.

Shapes: N consecutive hours or days.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

WEEKS = 8
MIN_WEEKS = 3
LIMIT = 3.5
_MAD_TO_SIGMA = 1.4826  # for a normal distribution
_QUANTILE, _QUANTILE_SIGMAS = 0.95, 1.96  # of absolute values of a normal distribution


class ExpectedRange(NamedTuple):
    """(N,) each; NaN where fewer than MIN_WEEKS earlier weeks are known."""

    expected: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def is_outside(self, values: np.ndarray) -> np.ndarray:
        """(N,) False where no range is known."""
        return (values < self.low) | (values > self.high)


def expected_range(
    values: np.ndarray, period: int, unit: float = 1.0, weeks: int = WEEKS
) -> ExpectedRange:
    """values: (N,) without gaps. period: steps of a week, 168 or 7.

    unit: what one event adds. The spread is at least that of independent events, whose variance is
    unit x expected (a Poisson distribution for counts).
    """
    count = len(values)
    lagged = np.full((weeks, count), np.nan)
    for week in range(1, weeks + 1):
        lag = week * period
        if lag < count:
            lagged[week - 1, lag:] = values[:-lag]
    known = np.isfinite(lagged).sum(axis=0) >= MIN_WEEKS
    expected = np.full(count, np.nan)
    expected[known] = np.nanmedian(lagged[:, known], axis=0)
    root = np.sqrt(np.maximum(np.abs(expected), unit))
    residuals = (values - expected) / root
    spread = np.full(count, np.sqrt(unit))
    for place in np.flatnonzero(known):
        before = residuals[max(0, place - weeks * period) : place]
        before = before[np.isfinite(before)]
        if len(before) >= period:
            mad = np.median(np.abs(before - np.median(before)))
            tail = np.quantile(np.abs(before), _QUANTILE) / _QUANTILE_SIGMAS
            spread[place] = max(spread[place], _MAD_TO_SIGMA * mad, tail)
    margin = LIMIT * spread * root
    lowest = 0.0 if values.min(initial=0.0) >= 0 else -np.inf
    return ExpectedRange(expected, np.maximum(expected - margin, lowest), expected + margin)
