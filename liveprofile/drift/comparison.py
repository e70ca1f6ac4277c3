"""Tests whether the counts of an hour differ from the drift reference by more than chance.

Two complementary tests compare each distribution:

- The population stability index (PSI; Siddiqi 2006, "Credit Risk Scorecards", chapter 10): the sum
  over bins of (p - q) ln(p / q) for shares p of the period and q of the reference. It detects any
  change but needs many events. Without a change, the PSI of n against N events in B bins is about
  (1/n + 1/N) times chi-squared with B - 1 degrees of freedom (Yurdakul and Naranjo 2020, Journal of
  Risk Model Validation 14(4)).
- The mean shift: the mean normal score of the values (van der Waerden 1952, Indagationes
  Mathematicae 14), how many standard deviations they lie above or below the reference. It has the
  most power if all values move alike, as amounts do that are all k times as high. Its square is
  comparable to a PSI; without a shift it is (1/n + 1/N) times the variance of the scores times
  chi-squared with one degree.

Both assume independent events, so the bounds are multiplied by how much more the reference's own
hours vary (Rao and Scott 1984, Annals of Statistics 12(1)). The PSI of the alert rate is tiny
because the rate is. Its test uses the ratio to the reference and the number of standard
errors, with the same correction.

Array suffixes: S series, W bins of the widest series, B bins of a series, K value bins of a series.
"""

from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.special import chdtri

from liveprofile.drift.reference import ALERT_RATE, SCORE, DriftReference, Series


class Limits(NamedTuple):
    """A distance above `drift` is drift; one up to `calm` ends it."""

    drift: float
    calm: float

    def at_least(self, bound: float) -> Self:
        """The limits, none of them below what chance explains."""
        return self._replace(drift=max(self.drift, bound), calm=max(self.calm, bound))


PSI_LIMITS = Limits(0.25, 0.1)
SHIFT_LIMITS = Limits(0.1, 0.05)  # of the squared mean shift
# False-alarm probability of one distribution in one period. A month has 24,000 such tests, so one
# period alone starts drift only far above the limit (udfs.scoring.drift_monitor).
CHANCE = 1e-4
# The higher false-alarm probability for shifts of EVENT_FIELDS, which events carry directly. A
# broken source changes these first, and many features follow from them (a weighted procedure;
# Genovese, Roeder and Wasserman 2006, "False discovery control with p-value weighting",
# Biometrika 93(3)).
EVENT_FIELD_CHANCE = 7e-3
EVENT_FIELDS = frozenset({"amount"})
RATE_RATIO, RATE_ERRORS = 2.0, 6.0
MIN_EVENTS = 50  # in a period, to test it
# Minimum values to test a mean shift, in all and expected outside the largest bin: the chi-squared
# approximation fails for fewer (Cochran 1954, Biometrics 10(4)).
MIN_VALUES, MIN_OUTSIDE_LARGEST_BIN = 30, 5.0
# Minimum expected alerts, times the spread: one fraud ring makes more than 100 alerts in a day.
MIN_EXPECTED_ALERTS = 20.0
# A larger share of events with alerts is drift even where few alerts are expected.
ALERT_SHARE_LIMIT = 0.5
MAX_REASONS = 10


class Distance(NamedTuple):
    """The distance of one series from the reference: drifted above `limit`."""

    name: str
    # PSI or squared mean shift; for the alert rate the ratio to the reference, inverted below 1.
    value: float
    limit: float
    calm_limit: float  # the series is calm up to this value

    @property
    def drifted(self) -> bool:
        return self.value > self.limit

    @property
    def limit_ratio(self) -> float:
        return self.value / self.limit


class DriftVerdict(NamedTuple):
    events: int
    distances: tuple[Distance, ...]  # one per series, from the test with the largest limit_ratio
    reasons: tuple[dict[str, Any], ...]  # of the drifted series, largest limit_ratio first
    calm: bool  # whether every test is at or below its calm_limit

    @property
    def drifted(self) -> set[str]:
        """Names of the series above their limits."""
        return {distance.name for distance in self.distances if distance.drifted}

    def exceeds(self, factor: float) -> bool:
        """Whether any series is above `factor` times its limit."""
        return any(distance.limit_ratio > factor for distance in self.distances)


def psi_per_bin(counts_B: np.ndarray, share_B: np.ndarray) -> np.ndarray:
    """(B,) the contribution of each bin to the PSI of counts against reference shares.

    Half an event per bin is added, distributed as in the reference: no share is 0, and bins that
    are almost empty in the reference contribute nothing by themselves.
    """
    prior = 0.5 * len(share_B)
    period_share_B = (counts_B + prior * share_B) / (counts_B.sum() + prior)
    return (period_share_B - share_B) * np.log(period_share_B / share_B)


def psi(series: Series, counts_B: np.ndarray) -> float:
    return float(psi_per_bin(series.merge_bins(counts_B), series.merge_bins(series.share_B)).sum())


def mean_shift(counts_B: np.ndarray, series: Series) -> float:
    """The mean normal score of the values: 0 if they match the reference, 1 if they lie one
    standard deviation higher. Needs at least one value."""
    counts_K = counts_B[series.value_bins]
    return float(counts_K @ series.normal_score_K / counts_K.sum())


def has_enough_for_shift(series: Series, counts_B: np.ndarray) -> bool:
    """Whether there are enough values to test their mean shift."""
    values, reference_K = counts_B[series.value_bins].sum(), series.counts[series.value_bins]
    outside = values * (1 - max(reference_K) / max(sum(reference_K), 1))
    return bool(values >= MIN_VALUES and outside >= MIN_OUTSIDE_LARGEST_BIN)


def psi_bound(series: Series, events: int) -> float:
    """The PSI that chance exceeds once in 1 / CHANCE periods of this many events."""
    bins = np.count_nonzero(series.merge_bins(np.array(series.counts)))
    inverse_counts = 1 / events + 1 / sum(series.counts)
    return series.spread * _chi2_quantile(max(bins - 1, 1), CHANCE) * inverse_counts


def shift_bound(series: Series, values: int, chance: float) -> float:
    """The squared mean shift that chance exceeds once in 1 / chance periods of this many values."""
    counts_K = np.array(series.counts[series.value_bins])
    total = counts_K.sum()
    variance = counts_K @ series.normal_score_K**2 / total
    spread = series.shift_spread or 1.0
    return float(spread * _chi2_quantile(1, chance) * variance * (1 / values + 1 / total))


def assess_drift(reference: DriftReference, counts_SW: np.ndarray) -> DriftVerdict | None:
    """Compares a period with the reference. Returns None for fewer than MIN_EVENTS events.

    counts_SW: events by series and bin (liveprofile.drift.reference).
    """
    events = int(counts_SW[-1].sum())
    if events < MIN_EVENTS:
        return None
    distances, ranked_reasons, calm = [], [], True
    for series, counts_W in zip(reference.series, counts_SW, strict=True):
        counts_B = counts_W[: len(series.counts)]
        if series.name == ALERT_RATE:
            tests = [_test_alert_rate(reference, counts_B)]
        else:
            tests = _test_distribution(series, counts_B)
        largest = max(tests, key=lambda test: test.limit_ratio)
        calm = calm and all(test.value <= test.calm_limit for test in tests)
        distances.append(largest)
        if largest.drifted:
            ranked_reasons.append((largest.limit_ratio, _reason(reference, series, counts_B)))
    ranked_reasons.sort(key=lambda pair: -pair[0])
    reasons = tuple(reason for _, reason in ranked_reasons[:MAX_REASONS])
    return DriftVerdict(events, tuple(distances), reasons, calm)


def _test_distribution(series: Series, counts_B: np.ndarray) -> list[Distance]:
    events = int(counts_B.sum())
    if events < MIN_EVENTS:  # the other events are alerts, which the alert rate tests
        return [Distance(series.name, 0.0, PSI_LIMITS.drift, PSI_LIMITS.calm)]
    bound = psi_bound(series, events)
    limits = PSI_LIMITS.at_least(bound)
    tests = [Distance(series.name, psi(series, counts_B), limits.drift, limits.calm)]
    if has_enough_for_shift(series, counts_B) and series.shift_spread is not None:
        values = int(counts_B[series.value_bins].sum())
        chance = EVENT_FIELD_CHANCE if series.name in EVENT_FIELDS else CHANCE
        bound = shift_bound(series, values, chance)
        value = mean_shift(counts_B, series) ** 2
        limits = SHIFT_LIMITS.at_least(bound)
        tests.append(Distance(series.name, value, limits.drift, limits.calm))
    return tests


def _test_alert_rate(reference: DriftReference, counts_B: np.ndarray) -> Distance:
    series = reference.series[-1]
    events, alerts = counts_B.sum(), counts_B[1]
    usual = series.share_B[1]
    expected = events * usual
    ratio = (alerts + 0.5) / (expected + 0.5)
    standard_errors = abs(alerts - expected) / np.sqrt(
        series.spread * expected * (1 - usual) * (1 + events / reference.events)
    )
    enough = expected >= MIN_EXPECTED_ALERTS * series.spread or alerts > ALERT_SHARE_LIMIT * events
    significant = enough and standard_errors > RATE_ERRORS
    limit = RATE_RATIO if significant else np.inf
    return Distance(ALERT_RATE, float(max(ratio, 1 / ratio)), limit, limit)


def _reason(reference: DriftReference, series: Series, counts_B: np.ndarray) -> dict[str, Any]:
    """Describes the drift by the bin that changed most: its share now and in the reference."""
    distance, shift = None, None
    if series.name == ALERT_RATE:
        bin_index, code = 1, "DRIFT_ALERT_RATE"
        description = f"score at least {reference.alert_score:.3g}"
    else:
        distance = psi(series, counts_B)
        bin_index = int(np.argmax(psi_per_bin(counts_B, series.share_B)))
        shift = mean_shift(counts_B, series) if has_enough_for_shift(series, counts_B) else None
        code, description = _describe_bin(series, bin_index)
    value = float(counts_B[bin_index] / counts_B.sum())
    usual = float(series.share_B[bin_index])
    return {
        "code": code,
        "name": series.name,
        "value": value,
        "usual": usual,
        "psi": distance,
        "shift": shift,
        "sentence": f"{value:.1%} of events have {description}; usually {usual:.1%}",
    }


def _describe_bin(series: Series, bin_index: int) -> tuple[str, str]:
    """Returns (reason code, description) of a bin."""
    name, edges = series.name, series.edges
    code = "DRIFT_SCORE" if name == SCORE else "DRIFT_FEATURE"
    if bin_index == len(edges) + 1:
        return "DRIFT_MISSING", f"no {name}"
    if bin_index == 0:
        return code, f"{name} up to {edges[0]:.4g}"
    if bin_index == len(edges):
        return code, f"{name} above {edges[-1]:.4g}"
    return code, f"{name} above {edges[bin_index - 1]:.4g}, up to {edges[bin_index]:.4g}"


@lru_cache
def _chi2_quantile(degrees: int, chance: float) -> float:
    return float(chdtri(degrees, chance))
