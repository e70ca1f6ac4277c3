"""Computes the drift reference of a model's inputs and score (liveprofile.drift).

Shape suffixes: M events of a dataset, N events that the reference counts, F features, H hours, B
bins.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xgboost as xgb
from scipy.special import chdtri, ndtr

from liveprofile.drift.comparison import (
    CHANCE,
    EVENT_FIELDS,
    MIN_EVENTS,
    has_enough_for_shift,
    mean_shift,
    psi,
    psi_bound,
    shift_bound,
)
from liveprofile.drift.reference import ALERT_RATE, SCORE, DriftReference, Series, UserHourCap
from liveprofile.units import HOUR_MS
from models.fraud.datasets.event_dataset import EventDataset
from models.fraud.model import FraudModel, probability

MAX_MONITORED = 30
# Quantiles for the bin edges: equally spaced on a normal distribution, so finer in the tails.
_EDGE_SHARES = ndtr(np.arange(-3.5, 4.0, 0.5))
# These features change without drift: they follow the calendar, how long the job has run, or known
# frauds. A shop has few coupons at a time, and they change weekly.
_NOT_MONITORED = re.compile(
    r"hour|night|weekend|.*_(list_days|list_events|earlier_purchases)|.*_(fraud|risk_).*|coupon_.*"
)
# Monitored whatever their gain. If a source changes its ids, features of new entities change first.
_ALWAYS_MONITORED = (
    *EVENT_FIELDS,
    "user_new_device",
    "user_new_place",
    "user_new_shop",
    "user_new_address",
)


def monitored_features(booster: xgb.Booster, names: Sequence[str]) -> list[str]:
    """Returns the features with the highest total gain, in descending order, then those that a
    broken source changes first, whatever their gain."""
    gains = booster.get_score(importance_type="total_gain")
    # The trees may have more inputs than the features `names` (models.fraud.transitions).
    features = set(names)
    names_by_gain = sorted((name for name in gains if name in features), key=lambda n: -gains[n])
    monitored = [name for name in names_by_gain if not _NOT_MONITORED.fullmatch(name)]
    monitored = monitored[:MAX_MONITORED]
    return monitored + [
        name for name in names if name in _ALWAYS_MONITORED and name not in monitored
    ]


def drift_reference_of_dataset(
    model: FraudModel, dataset: EventDataset, alert_score: float
) -> DriftReference:
    """Builds the reference from the later half of the days, when the lists are full."""
    first, last = dataset.day_M.min(), dataset.day_M.max()
    settled_M = dataset.day_M > (first + last) // 2
    x_NF = dataset.labelled.x_NF[settled_M]
    names = monitored_features(model.booster, model.names)
    columns = [model.names.index(name) for name in names]
    hour_M = dataset.time_ms_M // HOUR_MS + dataset.shop_M * HOUR_MS
    score_N = probability(model.log_odds(x_NF))
    return build_drift_reference(
        x_NF[:, columns], names, score_N, hour_M[settled_M], dataset.user_M[settled_M], alert_score
    )


def build_drift_reference(
    x_NF: np.ndarray,
    names: Sequence[str],
    score_N: np.ndarray,
    hour_N: np.ndarray,
    user_N: np.ndarray,
    alert_score: float,
) -> DriftReference:
    """Builds the reference from events of shops whose lists are full.

    x_NF: float32 columns of `names`, all of them monitored. hour_N: hours since the epoch; other
    shops are shifted by whole days, so that no hour has events of two shops. user_N: user numbers;
    the events of a user are in order of time. alert_score: lowest score of an alert.
    """
    counted_N = np.zeros(len(hour_N), bool)
    for rows in _rows_by_hour(hour_N):
        counted_N[rows] = UserHourCap().admit(user_N[rows])
    x_NF, hour_N, scores_N = x_NF[counted_N], hour_N[counted_N], score_N[counted_N]
    scores_N = scores_N.astype(np.float32)
    alert_N = scores_N >= np.float32(alert_score)
    quiet_hours = _tested_hours(hour_N[~alert_N])
    series = [
        _series(name, values_N, _bin_edges(values_N), quiet_hours)
        for name, values_N in zip(names, x_NF[~alert_N].T, strict=True)
    ]
    quiet_N = scores_N[~alert_N]
    series.append(_series(SCORE, quiet_N, _bin_edges(quiet_N), quiet_hours))
    # A bin excludes its lower edge, so the edge is just below the lowest score of an alert.
    below = float(np.nextafter(np.float32(alert_score), np.float32(-np.inf)))
    series.append(_series(ALERT_RATE, scores_N, [below], _tested_hours(hour_N)))
    return DriftReference(len(scores_N), alert_score, tuple(series))


def _bin_edges(values_N: np.ndarray) -> list[float]:
    """Returns bin edges that are finer in the tails.

    A value that many events share has its own bin. If that value is 0 and the minimum, the other
    edges are quantiles of the values above 0.
    """
    sorted_values = np.sort(values_N[~np.isnan(values_N)])
    if not len(sorted_values):
        return [0.0]
    edges = _quantile_edges(sorted_values)
    if edges[0] == 0 and sorted_values[0] == 0:
        edges = np.append(0.0, _quantile_edges(sorted_values[sorted_values > 0]))
    # An edge at the maximum has no values above it. It stays only if there is no other edge, to
    # separate new, larger values.
    return [float(edge) for edge in edges if edge < sorted_values[-1]] or [float(sorted_values[-1])]


def _quantile_edges(sorted_values: np.ndarray) -> np.ndarray:
    """sorted_values: may be empty."""
    if not len(sorted_values):
        return sorted_values
    indices = (_EDGE_SHARES * len(sorted_values)).astype(int)
    values, counts = np.unique(sorted_values[indices], return_counts=True)
    repeated = values[counts > 1]
    first = np.searchsorted(sorted_values, repeated)
    below = sorted_values[first[first > 0] - 1]
    return np.unique(np.concatenate([values, below]))


def _series(
    name: str, values_N: np.ndarray, edges: Sequence[float], hours: list[np.ndarray]
) -> Series:
    """hours: rows of each."""
    size = len(edges) + 2
    bin_N = Series(name, tuple(edges), (0,) * size).bins(values_N)
    series = Series(name, tuple(edges), tuple(np.bincount(bin_N, minlength=size).tolist()))
    if name == ALERT_RATE:
        return replace(series, spread=_rounded(_rate_spread(series, bin_N, hours)))
    counts_HB = [np.bincount(bin_N[rows], minlength=size) for rows in hours]
    return replace(
        series,
        spread=_rounded(_spread(series, counts_HB)),
        shift_spread=_shift_spread(series, counts_HB),
    )


def _rounded(spread: float) -> float:
    return round(max(1.0, float(spread)), 3)


def _spread(series: Series, counts_HB: list[np.ndarray]) -> float:
    """Returns the overdispersion of PSI: its mean over hours to that of independent events.

    The result is larger if that would leave an hour above its bound.
    """
    degrees_of_freedom = np.count_nonzero(series.merge_bins(np.array(series.counts))) - 1
    if not degrees_of_freedom or not counts_HB:
        return 1.0
    psi_H = np.array([psi(series, counts_B) for counts_B in counts_HB])
    events_H = np.array([counts_B.sum() for counts_B in counts_HB])
    chance_H = np.array([psi_bound(series, events) for events in events_H.tolist()])
    mean_H = degrees_of_freedom * (1 / events_H + 1 / sum(series.counts))
    return float(max(np.mean(psi_H / mean_H), np.max(psi_H / chance_H)))


def _shift_spread(series: Series, counts_HB: list[np.ndarray]) -> float | None:
    """Returns the same for the squared mean shift, or None if no hour has enough events."""
    judged = [counts_B for counts_B in counts_HB if has_enough_for_shift(series, counts_B)]
    if not judged:
        return None
    square_H = np.array([mean_shift(counts_B, series) ** 2 for counts_B in judged])
    chance_H = np.array(
        [shift_bound(series, counts_B[series.value_bins].sum(), CHANCE) for counts_B in judged]
    )
    excess_H = square_H / chance_H
    return _rounded(max(excess_H.mean() * chdtri(1, CHANCE), excess_H.max()))


def _rate_spread(series: Series, bin_N: np.ndarray, hours: list[np.ndarray]) -> float:
    """Returns the variance of the number of alerts per hour to that of independent events."""
    rate = series.share_B[1]
    errors = [
        ((bin_N[rows] == 1).sum() - len(rows) * rate) ** 2 / (len(rows) * rate * (1 - rate))
        for rows in hours
    ]
    return float(np.mean(errors)) if errors else 1.0


def _tested_hours(hour_N: np.ndarray) -> list[np.ndarray]:
    """Returns the rows of each hour with at least MIN_EVENTS events."""
    return [rows for rows in _rows_by_hour(hour_N) if len(rows) >= MIN_EVENTS]


def _rows_by_hour(hour_N: np.ndarray) -> list[np.ndarray]:
    """Returns the rows of each hour, in order of rows."""
    order = np.argsort(hour_N, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(hour_N[order])) + 1)
