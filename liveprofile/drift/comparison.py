"""Whether counts of a period differ from the reference by more than chance and usual variation.

Of a distribution there are two tests, as one sees what the other doesn't:

- The population stability index (PSI; Siddiqi 2006, "Credit Risk Scorecards", chapter 10), the sum
  over bins of (p - q) ln(p / q) for shares p of the period and q of the reference; above 0.25 is
  taken for a shift, below 0.1 for none. It sees any change, and needs many events to. Without any
  the PSI of n against N events in B bins is about (1/n + 1/N) times chi-squared with B - 1 degrees
  of freedom, so that its mean is (B - 1)(1/n + 1/N) (Yurdakul and Naranjo 2020, "Statistical
  properties of the population stability index", Journal of Risk Model Validation 14(4)).
- The shift: how far the values that are there (Series.ordered) lie above or below the usual ones,
  as the mean of their normal scores (van der Waerden 1952, "Order tests for the two-sample problem
  and their power", Indagationes Mathematicae 14), in standard deviations. Among tests by rank it
  has the most power if a transformation makes the values normal and all move alike (Chernoff and
  Savage 1958, Annals of Mathematical Statistics 29(4)), as amounts do that are k times as high.
  Its square compares with a PSI, which is d squared for two normal distributions d apart; without
  any shift it is (1/n + 1/N) times the scores' variance times chi-squared with one degree.

Both hold for independent events; those of a period are not, so the bound is multiplied by how much
more the reference's own hours or days vary (the first order correction of Rao and Scott 1984, "On
chi-squared tests for multiway contingency tables", Annals of Statistics 12(1)).

Of the alert rate, which is so small that its PSI is too: the ratio to the usual, and the number of
standard errors, with the same correction.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy.special import chdtri

from liveprofile.drift.reference import ALERT_RATE, SCORE, Reference, Series

# The PSI from where on a change matters, and up to where there is none; of the shift its square.
PSI_LIMITS, SHIFT_LIMITS = (0.25, 0.1), (0.1, 0.05)
# Of one distribution in one period. A month has 24,000 of these, so that one period alone doesn't
# start drift unless it is far above the limit (udfs.scoring.drift_monitor).
CHANCE = 1e-4
# Of the shift of what the events themselves bring: what a broken source changes first is believed
# sooner than each of many features that follow from it (a weighted procedure; Genovese, Roeder and
# Wasserman 2006, "False discovery control with p-value weighting", Biometrika 93(3)).
OWN_CHANCE = 7e-3
OWN = frozenset({"amount"})
RATE_RATIO, RATE_ERRORS = 2.0, 6.0
LEAST_EVENTS = 50  # of a period that is judged
# Of a distribution whose shift is judged; and so many of them expected outside its largest bin, as
# chi-squared says nothing of fewer (Cochran 1954, Biometrics 10(4)).
LEAST_VALUES, LEAST_ELSEWHERE = 30, 5.0
# Expected, each as independent as the spread says: a ring of frauds makes more than 100 in a day.
LEAST_ALERTS = 20.0
MOST_ALERTS = 0.5  # share of the events that is no wave of frauds, however few are expected
MOST_REASONS = 10


class Distance(NamedTuple):
    """How far one series is from usual: drifted above `limit`, calm up to `calm`."""

    name: str
    value: float  # PSI, or shift squared; of the alert rate its ratio to the usual or the inverse
    limit: float
    calm: float

    @property
    def drifted(self) -> bool:
        return self.value > self.limit

    @property
    def of_limit(self) -> float:
        return self.value / self.limit


class Verdict(NamedTuple):
    events: int
    distances: tuple[Distance, ...]  # of each series, by the test that it is furthest in
    reasons: tuple[dict[str, Any], ...]  # of what drifted, furthest first
    calm: bool  # in every test

    @property
    def drifted(self) -> set[str]:
        """Names of what is above its limit."""
        return {one.name for one in self.distances if one.drifted}

    def above(self, times: float) -> bool:
        """Whether anything is above so many times its limit."""
        return any(one.of_limit > times for one in self.distances)


def psi(counts_B: np.ndarray, share_B: np.ndarray) -> np.ndarray:
    """(B,) what each bin adds to the PSI of counts against the shares of a reference.

    Half an event a bin, shared out as in the reference, is added: no share is 0, and bins that are
    all but empty in the reference add nothing by themselves.
    """
    more = 0.5 * len(share_B)
    found_B = (counts_B + more * share_B) / (counts_B.sum() + more)
    return (found_B - share_B) * np.log(found_B / share_B)


def psi_of(series: Series, counts_B: np.ndarray) -> float:
    return float(psi(series.runs(counts_B), series.runs(series.share_B)).sum())


def shift(counts_B: np.ndarray, series: Series) -> float:
    """Mean normal score of the values that are there: 0 if they are as usual, 1 if they lie one
    standard deviation higher. At least one is there."""
    counts_K = counts_B[series.ordered]
    return float(counts_K @ series.score_K / counts_K.sum())


def tells_shift(series: Series, counts_B: np.ndarray) -> bool:
    """Whether there are enough values for their shift to say something."""
    values, usual_K = counts_B[series.ordered].sum(), series.counts[series.ordered]
    elsewhere = values * (1 - max(usual_K) / max(sum(usual_K), 1))
    return bool(values >= LEAST_VALUES and elsewhere >= LEAST_ELSEWHERE)


def psi_bound(series: Series, events: int) -> float:
    """The PSI that chance exceeds once in 1 / CHANCE periods of so many events."""
    bins = np.count_nonzero(series.runs(np.array(series.counts)))
    pairs = 1 / events + 1 / sum(series.counts)
    return series.spread * _quantile(max(bins - 1, 1), CHANCE) * pairs


def shift_bound(series: Series, values: int, chance: float) -> float:
    """The square of the shift that chance exceeds once in 1 / chance periods of so many values."""
    counts_K = np.array(series.counts[series.ordered])
    usual = counts_K.sum()
    variance = counts_K @ series.score_K**2 / usual
    spread = series.shift_spread or 1.0
    return float(spread * _quantile(1, chance) * variance * (1 / values + 1 / usual))


def judge(reference: Reference, counts_SW: np.ndarray) -> Verdict | None:
    """counts_SW: (S, W) events by series and bin (liveprofile.drift.histograms). None: too few."""
    events = int(counts_SW[-1].sum())
    if events < LEAST_EVENTS:
        return None
    distances, found, calm = [], [], True
    for series, counts_W in zip(reference.series, counts_SW, strict=True):
        counts_B = counts_W[: len(series.counts)]
        rate = series.name == ALERT_RATE
        tests = [_rate(reference, counts_B)] if rate else _distribution(series, counts_B)
        one = max(tests, key=lambda test: test.of_limit)
        calm = calm and all(test.value <= test.calm for test in tests)
        distances.append(one)
        if one.drifted:
            found.append((one.of_limit, _reason(reference, series, counts_B)))
    found.sort(key=lambda pair: -pair[0])
    reasons = tuple(reason for _, reason in found[:MOST_REASONS])
    return Verdict(events, tuple(distances), reasons, calm)


def _distribution(series: Series, counts_B: np.ndarray) -> list[Distance]:
    events = int(counts_B.sum())
    if events < LEAST_EVENTS:  # the others are alerts, as their rate tells
        return [Distance(series.name, 0.0, *PSI_LIMITS)]
    chance = psi_bound(series, events)
    found = psi_of(series, counts_B)
    tests = [Distance(series.name, found, *(max(limit, chance) for limit in PSI_LIMITS))]
    if tells_shift(series, counts_B) and series.shift_spread is not None:
        values = int(counts_B[series.ordered].sum())
        chance = shift_bound(series, values, OWN_CHANCE if series.name in OWN else CHANCE)
        found = shift(counts_B, series) ** 2
        tests.append(Distance(series.name, found, *(max(limit, chance) for limit in SHIFT_LIMITS)))
    return tests


def _rate(reference: Reference, counts_B: np.ndarray) -> Distance:
    series = reference.series[-1]
    events, alerts = counts_B.sum(), counts_B[1]
    usual = series.share_B[1]
    expected = events * usual
    ratio = (alerts + 0.5) / (expected + 0.5)
    errors = abs(alerts - expected) / np.sqrt(
        series.spread * expected * (1 - usual) * (1 + events / reference.events)
    )
    enough = expected >= LEAST_ALERTS * series.spread or alerts > MOST_ALERTS * events
    known = enough and errors > RATE_ERRORS
    limit = RATE_RATIO if known else np.inf
    return Distance(ALERT_RATE, float(max(ratio, 1 / ratio)), limit, limit)


def _reason(reference: Reference, series: Series, counts_B: np.ndarray) -> dict[str, Any]:
    """By the bin that moved most: its share now and usually."""
    distance, moved = None, None
    if series.name == ALERT_RATE:
        place, code, what = 1, "DRIFT_ALERT_RATE", f"score at least {reference.alert_score:.3g}"
    else:
        distance = psi_of(series, counts_B)
        place = int(np.argmax(psi(counts_B, series.share_B)))
        moved = shift(counts_B, series) if tells_shift(series, counts_B) else None
        code, what = _bin(series, place)
    value, usual = float(counts_B[place] / counts_B.sum()), float(series.share_B[place])
    return {
        "code": code,
        "name": series.name,
        "value": value,
        "usual": usual,
        "psi": distance,
        "shift": moved,
        "sentence": f"{value:.1%} of events have {what}; usually {usual:.1%}",
    }


def _bin(series: Series, place: int) -> tuple[str, str]:
    name, edges = series.name, series.edges
    code = "DRIFT_SCORE" if name == SCORE else "DRIFT_FEATURE"
    if place == len(edges) + 1:
        return "DRIFT_MISSING", f"no {name}"
    if place == 0:
        return code, f"{name} up to {edges[0]:.4g}"
    if place == len(edges):
        return code, f"{name} above {edges[-1]:.4g}"
    return code, f"{name} above {edges[place - 1]:.4g}, up to {edges[place]:.4g}"


@lru_cache
def _quantile(degrees: int, chance: float) -> float:
    return float(chdtri(degrees, chance))
