"""Whether counts of a period differ from the reference by more than chance and usual variation.

Of a distribution: the population stability index (PSI; Siddiqi 2006, "Credit Risk Scorecards",
chapter 10), sum over bins of (p - q) ln(p / q) for shares p of the period and q of the reference;
above 0.25 is taken for a shift, below 0.1 for none. Without any shift the PSI of n against N events
in B bins is about (1/n + 1/N) times chi-squared with B - 1 degrees of freedom, so that its mean is
(B - 1)(1/n + 1/N) (Yurdakul and Naranjo 2020, "Statistical properties of the population stability
index", Journal of Risk Model Validation 14(4)). That holds for independent events; those of an hour
are not, so the bound is multiplied by how much more the reference's own hours vary (the first order
correction of Rao and Scott 1984, "On chi-squared tests for multiway contingency tables", Annals of
Statistics 12(1)).

Of the alert rate, which is so small that its PSI is too: the ratio to the usual, and the number of
standard errors, with the same correction.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy.special import chdtri

from udfs.drift.reference import ALERT_RATE, SCORE, Reference, Series

SHIFT, NO_SHIFT = 0.25, 0.1  # PSI
# Of one distribution in one period. A month has 24,000 of these, so that one period alone doesn't
# start drift unless it is far above the limit (udfs.drift.monitor).
CHANCE = 1e-4
RATE_RATIO, RATE_ERRORS = 2.0, 6.0
LEAST_EVENTS = 50  # of a period that is judged
LEAST_ALERTS = 5.0  # expected, each as independent as the spread says; fewer say nothing
MOST_REASONS = 10


class Distance(NamedTuple):
    """How far one series is from usual: drifted above `limit`, calm up to `calm`."""

    name: str
    value: float  # PSI; of the alert rate its ratio to the usual, or the inverse if that is larger
    limit: float
    calm: float

    @property
    def drifted(self) -> bool:
        return self.value > self.limit


class Verdict(NamedTuple):
    events: int
    distances: tuple[Distance, ...]
    reasons: tuple[dict[str, Any], ...]  # of what drifted, furthest first

    @property
    def drifted(self) -> set[str]:
        """Names of what is above its limit."""
        return {one.name for one in self.distances if one.drifted}

    def above(self, times: float) -> bool:
        """Whether anything is above so many times its limit."""
        return any(one.value > times * one.limit for one in self.distances)

    @property
    def calm(self) -> bool:
        return all(one.value <= one.calm for one in self.distances)


def psi(counts_B: np.ndarray, share_B: np.ndarray) -> np.ndarray:
    """(B,) what each bin adds to the PSI of counts against the shares of a reference.

    Half an event a bin, shared out as in the reference, is added: no share is 0, and bins that are
    all but empty in the reference add nothing by themselves.
    """
    more = 0.5 * len(share_B)
    found_B = (counts_B + more * share_B) / (counts_B.sum() + more)
    return (found_B - share_B) * np.log(found_B / share_B)


def bound(series: Series, events: int, usual_events: int) -> float:
    """The PSI that chance exceeds once in 1 / CHANCE periods of so many events."""
    bins = sum(count > 0 for count in series.counts)
    return series.spread * _quantile(max(bins - 1, 1)) * (1 / events + 1 / usual_events)


def judge(reference: Reference, counts_SW: np.ndarray) -> Verdict | None:
    """counts_SW: (S, W) events by series and bin (udfs.drift.histograms). None: too few."""
    events = int(counts_SW[-1].sum())
    if events < LEAST_EVENTS:
        return None
    distances, found = [], []
    for series, counts_W in zip(reference.series, counts_SW, strict=True):
        counts_B = counts_W[: len(series.counts)]
        rate = series.name == ALERT_RATE
        one = _rate(reference, counts_B) if rate else _distribution(series, counts_B)
        distances.append(one)
        if one.drifted:
            found.append((one.value / one.limit, _reason(reference, series, counts_B, one)))
    found.sort(key=lambda pair: -pair[0])
    return Verdict(events, tuple(distances), tuple(reason for _, reason in found[:MOST_REASONS]))


def _distribution(series: Series, counts_B: np.ndarray) -> Distance:
    events = int(counts_B.sum())
    if events < LEAST_EVENTS:  # nearly all are alerts, as the score tells
        return Distance(series.name, 0.0, SHIFT, NO_SHIFT)
    chance = bound(series, events, sum(series.counts))
    value = float(psi(counts_B, series.share_B).sum())
    return Distance(series.name, value, max(SHIFT, chance), max(NO_SHIFT, chance))


def _rate(reference: Reference, counts_B: np.ndarray) -> Distance:
    series = reference.series[-1]
    events, alerts = counts_B.sum(), counts_B[1]
    usual = series.share_B[1]
    expected = events * usual
    ratio = (alerts + 0.5) / (expected + 0.5)
    errors = abs(alerts - expected) / np.sqrt(
        series.spread * expected * (1 - usual) * (1 + events / reference.events)
    )
    known = expected >= LEAST_ALERTS * series.spread and errors > RATE_ERRORS
    limit = RATE_RATIO if known else np.inf
    return Distance(ALERT_RATE, float(max(ratio, 1 / ratio)), limit, limit)


def _reason(
    reference: Reference, series: Series, counts_B: np.ndarray, distance: Distance
) -> dict[str, Any]:
    """By the bin that moved most: its share now and usually."""
    if series.name == ALERT_RATE:
        place, code, what = 1, "DRIFT_ALERT_RATE", f"score at least {reference.alert_score:.3g}"
    else:
        place = int(np.argmax(psi(counts_B, series.share_B)))
        code, what = _bin(series, place)
    value, usual = float(counts_B[place] / counts_B.sum()), float(series.share_B[place])
    return {
        "code": code,
        "name": series.name,
        "value": value,
        "usual": usual,
        "psi": None if series.name == ALERT_RATE else distance.value,
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
def _quantile(degrees: int) -> float:
    return float(chdtri(degrees, CHANCE))
