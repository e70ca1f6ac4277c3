"""The reference of a model's inputs and score, which drift is measured against (udfs.drift)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xgboost as xgb

from models.fraud.event_model import EventModel, probability
from models.fraud.event_seen import SHOP_BITS, Seen
from udfs.drift.histograms import HOUR_MS
from udfs.drift.judge import LEAST_EVENTS, bound, psi
from udfs.drift.reference import ALERT_RATE, SCORE, Reference, Series

WATCHED = 30
BINS = 10
# They follow the calendar or how long the job has run, not what people do.
_NOT_WATCHED = ("hour", "night", "weekend")
_NOT_WATCHED_ENDS = ("_list_days", "_list_events", "_earlier_purchases")
# Of the event itself: what a broken source changes first, however little the trees use it.
_ALWAYS = ("amount",)


def watched(booster: xgb.Booster, names: Sequence[str], count: int = WATCHED) -> list[str]:
    """The features of the highest total gain in the trees, the first the most, and `amount`."""
    gains = booster.get_score(importance_type="total_gain")
    by_gain = sorted(gains, key=lambda name: -gains[name])
    chosen = [
        name
        for name in by_gain
        if name not in _NOT_WATCHED and not name.endswith(_NOT_WATCHED_ENDS)
    ][:count]
    return chosen + [name for name in _ALWAYS if name in names and name not in chosen]


def of_seen(model: EventModel, seen: Seen, alert_score: float) -> Reference:
    """The model's reference by the later half of the days: the lists are full by then."""
    first, last = seen.day_M.min(), seen.day_M.max()
    settled_M = seen.day_M > (first + last) // 2
    x_NF = seen.part.x_NF[settled_M]
    names = watched(model.booster, model.names)
    columns = [model.names.index(name) for name in names]
    shop_N = seen.user_M[settled_M] >> SHOP_BITS
    hour_N = seen.time_ms_M[settled_M] // HOUR_MS + shop_N * HOUR_MS
    return of(x_NF[:, columns], names, probability(model.log_odds(x_NF)), hour_N, alert_score)


def of(
    x_NF: np.ndarray, names: Sequence[str], score_N: np.ndarray, hour_N: np.ndarray,
    alert_score: float,
) -> Reference:  # fmt: skip
    """The reference of N events of a settled shop.

    x_NF: float32 columns of `names`, all of which are watched. hour_N: any number that events of
    the same hour of the same shop, and no others, share. alert_score: from where on a score counts
    as an alert.
    """
    scores_N = score_N.astype(np.float32)
    alert_N = scores_N >= np.float32(alert_score)
    quiet, all_hours = _groups(hour_N[~alert_N]), _groups(hour_N)
    series = [
        _series(name, values_N, _edges(values_N), quiet)
        for name, values_N in zip(names, x_NF[~alert_N].T, strict=True)
    ]
    series.append(_series(SCORE, scores_N, _edges(scores_N), all_hours))
    # A bin holds what is above its lower edge: the score itself counts.
    below = float(np.nextafter(np.float32(alert_score), np.float32(-np.inf)))
    series.append(_series(ALERT_RATE, scores_N, [below], all_hours))
    return Reference(len(score_N), alert_score, tuple(series))


def _edges(values_N: np.ndarray) -> list[float]:
    """Deciles; a value that many events share has a bin of its own."""
    known = np.sort(values_N[~np.isnan(values_N)])
    if not len(known):
        return [0.0]
    places = np.arange(1, BINS) * len(known) // BINS
    deciles, times = np.unique(known[places], return_counts=True)
    often = deciles[times > 1]
    first = np.searchsorted(known, often)
    below = known[first[first > 0] - 1]
    edges = np.unique(np.concatenate([deciles, below]))
    # An edge that nothing is above parts nothing, but for values that are new.
    return [float(edge) for edge in edges if edge < known[-1]] or [float(known[-1])]


def _series(
    name: str, values_N: np.ndarray, edges: Sequence[float], groups: list[np.ndarray]
) -> Series:
    series = Series(name, tuple(edges), (0,) * (len(edges) + 2))
    bin_N = series.bins(values_N)
    counts_B = np.bincount(bin_N, minlength=len(edges) + 2)
    whole = Series(name, series.edges, tuple(counts_B.tolist()))
    spread = _rate_spread if name == ALERT_RATE else _spread
    return Series(name, whole.edges, whole.counts, round(max(1.0, spread(whole, bin_N, groups)), 3))


def _spread(series: Series, bin_N: np.ndarray, groups: list[np.ndarray]) -> float:
    """Mean PSI of the hours over what independent events would have; more if the bound, too, would
    be too low for one of them."""
    freedom = sum(count > 0 for count in series.counts) - 1
    if not freedom or not groups:
        return 1.0
    size = len(series.counts)
    psi_H = np.array(
        [psi(np.bincount(bin_N[rows], minlength=size), series.share_B).sum() for rows in groups]
    )
    chance_H = np.array([bound(series, len(rows), len(bin_N)) for rows in groups])
    mean_H = np.array([freedom * (1 / len(rows) + 1 / len(bin_N)) for rows in groups])
    return float(max(np.mean(psi_H / mean_H), np.max(psi_H / chance_H)))


def _rate_spread(series: Series, bin_N: np.ndarray, groups: list[np.ndarray]) -> float:
    """Variance of an hour's alerts over that of independent events."""
    rate = series.share_B[1]
    errors = [
        ((bin_N[rows] == 1).sum() - len(rows) * rate) ** 2 / (len(rows) * rate * (1 - rate))
        for rows in groups
    ]
    return float(np.mean(errors)) if errors else 1.0


def _groups(hour_N: np.ndarray) -> list[np.ndarray]:
    """The rows of each hour that has enough to be judged."""
    order = np.argsort(hour_N, kind="stable")
    starts = np.flatnonzero(np.diff(hour_N[order])) + 1
    return [rows for rows in np.split(order, starts) if len(rows) >= LEAST_EVENTS]
