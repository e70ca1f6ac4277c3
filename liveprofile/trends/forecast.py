"""Forecasts the hours of the next day, with an interval, backtested against seasonal naive.

Candidates are seasonal naive (the same hour a week ago) and multiplicative exponential smoothing
with a season of a week and without trend (Winters, Management Science 1960; N-M in the taxonomy of
Hyndman and Athanasopoulos): a level, and a share of each hour of the week. Of all candidates the
one with the least absolute error on the last SCORED_DAYS days makes the forecast, so seasonal naive
is used where it is better. Each day is scored by the forecast of the day before.

The interval is split conformal (Papadopoulos and others 2002; Lei and others 2018): quantiles of
the last errors, relative to the root of the forecast, because the variance of counts grows with
them.

Shapes: D days, C candidates, H = 24 hours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

WEEK_DAYS, HOURS = 7, 24
FIRST_DAYS = 28  # needed for the first level and shares
SCORED_DAYS = 56
COVERAGE = 0.8
# Level and season follow new days by these shares. The last row is seasonal naive.
_SMOOTHING = [(level, season) for level in (0.02, 0.05, 0.1, 0.2) for season in (0.05, 0.1, 0.2)]
METHODS = (*(f"smoothing {level} {season}" for level, season in _SMOOTHING), "seasonal naive")
NAIVE = len(METHODS) - 1
# Hours with fewer events than this are quiet: their errors do not tell about the others'.
_QUIET = 0.5


class Backtest(NamedTuple):
    """What would have been forecast for each day, from the days before it."""

    forecast: np.ndarray  # (D, H); NaN in the first FIRST_DAYS
    low: np.ndarray  # (D, H); NaN until there are errors of SCORED_DAYS
    high: np.ndarray  # (D, H)
    method: np.ndarray  # (D,) index into METHODS
    total_low: np.ndarray  # (D,) of the day's sum
    total_high: np.ndarray  # (D,)


class DayForecast(NamedTuple):
    """The forecast of one day."""

    method: str
    hours: np.ndarray  # (H,)
    low: np.ndarray  # (H,)
    high: np.ndarray  # (H,)
    total: float
    total_low: float
    total_high: float
    # Mean absolute errors of the last SCORED_DAYS days, by hour: of what was forecast and of naive.
    mae: float
    naive_mae: float


def forecast_next_day(values: np.ndarray, unit: float = 1.0) -> DayForecast | None:
    """Forecasts the day after the last; None with fewer than FIRST_DAYS + SCORED_DAYS days.

    values: (D, H) from midnight on; days follow each other. unit: what one event adds.
    """
    days = len(values)
    if days < FIRST_DAYS + SCORED_DAYS:
        return None
    # The last row is the day to forecast. No forecast reads the values of its own day.
    extended = np.concatenate([values, np.zeros((1, HOURS))])
    result = backtest(extended, unit)
    scored = slice(days - SCORED_DAYS, days)
    naive = values[days - SCORED_DAYS - WEEK_DAYS : days - WEEK_DAYS]
    return DayForecast(
        METHODS[result.method[days]],
        result.forecast[days],
        result.low[days],
        result.high[days],
        float(result.forecast[days].sum()),
        float(result.total_low[days]),
        float(result.total_high[days]),
        float(np.abs(result.forecast[scored] - values[scored]).mean()),
        float(np.abs(naive - values[scored]).mean()),
    )


def backtest(values: np.ndarray, unit: float = 1.0) -> Backtest:
    """values: (D, H). unit: what one event adds."""
    days = len(values)
    candidates = _candidates(values)
    errors = np.abs(candidates - values[:, None]).mean(axis=2)  # (D, C)
    method = np.full(days, NAIVE)
    for day in range(FIRST_DAYS + 1, days):
        known = errors[max(FIRST_DAYS, day - SCORED_DAYS) : day]
        method[day] = np.argmin(known.mean(axis=0))
    forecast = candidates[np.arange(days), method]
    low, high = _interval(values, forecast, unit)
    total_low, total_high = _interval(
        values.sum(axis=1, keepdims=True), forecast.sum(axis=1, keepdims=True), unit
    )
    return Backtest(forecast, low, high, method, total_low[:, 0], total_high[:, 0])


def _candidates(values: np.ndarray) -> np.ndarray:
    """(D, C, H) what each candidate forecasts for each day."""
    days = len(values)
    result = np.full((days, len(METHODS), HOURS), np.nan)
    if days <= FIRST_DAYS:
        return result
    result[FIRST_DAYS:, NAIVE] = values[FIRST_DAYS - WEEK_DAYS : days - WEEK_DAYS]
    by_weekday = values[:FIRST_DAYS].reshape(-1, WEEK_DAYS, HOURS).mean(axis=0)
    levels = np.full(len(_SMOOTHING), by_weekday.mean())  # (C - 1,)
    smallest = 1e-9
    shares = np.repeat(by_weekday[None] / max(by_weekday.mean(), smallest), len(levels), axis=0)
    of_level, of_share = (np.array(each) for each in zip(*_SMOOTHING, strict=True))
    for day in range(FIRST_DAYS, days):
        share = shares[:, day % WEEK_DAYS]
        result[day, :NAIVE] = levels[:, None] * share
        mean_share = share.mean(axis=1)
        # A day with a small share, such as a closed Saturday, says little about the level.
        seen = values[day].mean() / np.maximum(mean_share, smallest)
        levels = levels + of_level * np.where(
            mean_share > 0.05, (seen - levels) * np.minimum(mean_share, 1), 0
        )
        new = values[day] / np.maximum(np.abs(levels), smallest)[:, None]
        shares[:, day % WEEK_DAYS] = share + of_share[:, None] * (new - share)
    return result


def _interval(
    values: np.ndarray, forecast: np.ndarray, unit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bounds of each (D, K) forecast, from the SCORED_DAYS days before it."""
    root = np.sqrt(np.maximum(np.abs(forecast), unit))
    scaled = (values - forecast) / root
    is_quiet = np.abs(forecast) < _QUIET * unit
    low, high = np.full(forecast.shape, np.nan), np.full(forecast.shape, np.nan)
    for day in range(FIRST_DAYS + SCORED_DAYS, len(values)):
        before = slice(day - SCORED_DAYS, day)
        for kind in (False, True):
            place = is_quiet[day] == kind
            known = scaled[before][is_quiet[before] == kind]
            if not len(known):
                known = scaled[before].ravel()
            tail = (1 - COVERAGE) / 2
            # The quantile of n values that a further one exceeds with the wanted probability.
            upper = min(1.0, (1 - tail) * (len(known) + 1) / len(known))
            below, above = np.quantile(known, [1 - upper, upper])
            low[day, place] = (forecast[day] + below * root[day])[place]
            high[day, place] = (forecast[day] + above * root[day])[place]
    if values.min(initial=0.0) >= 0:
        low, high = np.maximum(low, 0), np.maximum(high, 0)
    return low, high
