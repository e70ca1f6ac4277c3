"""The reference of a model's inputs and score, which drift is measured against (liveprofile.drift)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import xgboost as xgb
from scipy.special import chdtri, ndtr

from liveprofile.drift.comparison import (
    CHANCE,
    LEAST_EVENTS,
    OWN,
    psi_bound,
    psi_of,
    shift,
    shift_bound,
    tells_shift,
)
from liveprofile.drift.histograms import UsersOfHour
from liveprofile.drift.reference import ALERT_RATE, SCORE, Reference, Series
from liveprofile.units import HOUR_MS
from models.fraud.datasets.simulated import SHOP_BITS, Seen
from models.fraud.model import EventModel, probability

WATCHED = 30
# Shares of the values below the edges: normal scores of equal distance, finer in the tails.
_EDGE_SHARES = ndtr(np.arange(-3.5, 4.0, 0.5))
# They follow the calendar or how long the job has run, not what people do; what is known of frauds
# nearby follows the frauds; and of coupons a shop has few at a time, and others next week.
_NOT_WATCHED = re.compile(
    r"hour|night|weekend|.*_(list_days|list_events|earlier_purchases)|.*_(fraud|risk_).*|coupon_.*"
)
# Whatever the trees use: new ones of an entity are what a change of its names shows as first.
_ALWAYS_WATCHED = (*OWN, "user_new_device", "user_new_place", "user_new_shop", "user_new_address")


def watched(booster: xgb.Booster, names: Sequence[str], count: int = WATCHED) -> list[str]:
    """The features of the highest total gain in the trees, the first the most, and what a broken
    source changes first, however little the trees use it."""
    gains = booster.get_score(importance_type="total_gain")
    by_gain = sorted(gains, key=lambda name: -gains[name])
    chosen = [name for name in by_gain if not _NOT_WATCHED.fullmatch(name)][:count]
    return chosen + [name for name in names if name in _ALWAYS_WATCHED and name not in chosen]


def of_seen(model: EventModel, seen: Seen, alert_score: float) -> Reference:
    """The model's reference by the later half of the days: the lists are full by then."""
    first, last = seen.day_M.min(), seen.day_M.max()
    settled_M = seen.day_M > (first + last) // 2
    x_NF = seen.part.x_NF[settled_M]
    names = watched(model.booster, model.names)
    columns = [model.names.index(name) for name in names]
    shop_N = seen.user_M[settled_M] >> SHOP_BITS
    hour_N = seen.time_ms_M[settled_M] // HOUR_MS + shop_N * HOUR_MS
    score_N = probability(model.log_odds(x_NF))
    return of(x_NF[:, columns], names, score_N, hour_N, seen.user_M[settled_M], alert_score)


def of(
    x_NF: np.ndarray, names: Sequence[str], score_N: np.ndarray, hour_N: np.ndarray,
    user_N: np.ndarray, alert_score: float,
) -> Reference:  # fmt: skip
    """The reference of N events of a settled shop.

    x_NF: float32 columns of `names`, all of which are watched. hour_N: hours since the epoch; of
    another shop whole days later, so that no hour is two shops'. user_N: numbers of users; the
    events of each in order of time. alert_score: from where on a score counts as an alert.
    """
    counted_N = _first_few(hour_N, user_N)
    x_NF, hour_N, scores_N = x_NF[counted_N], hour_N[counted_N], score_N[counted_N]
    scores_N = scores_N.astype(np.float32)
    alert_N = scores_N >= np.float32(alert_score)
    quiet, everything = _Periods.of(hour_N[~alert_N]), _Periods.of(hour_N)
    series = [
        _series(name, values_N, _edges(values_N), quiet)
        for name, values_N in zip(names, x_NF[~alert_N].T, strict=True)
    ]
    quiet_N = scores_N[~alert_N]
    series.append(_series(SCORE, quiet_N, _edges(quiet_N), quiet))
    # A bin holds what is above its lower edge: the score itself counts.
    below = float(np.nextafter(np.float32(alert_score), np.float32(-np.inf)))
    series.append(_series(ALERT_RATE, scores_N, [below], everything))
    return Reference(len(scores_N), alert_score, tuple(series))


def _first_few(hour_N: np.ndarray, user_N: np.ndarray) -> np.ndarray:
    """(N,) which events count, as in the job."""
    counted_N = np.zeros(len(hour_N), bool)
    for rows in _together(hour_N):
        counted_N[rows] = UsersOfHour().first_few(user_N[rows])
    return counted_N


def _edges(values_N: np.ndarray) -> list[float]:
    """Of bins that are finer in the tails; a value that many events share has a bin of its own,
    and where that is 0 and the least, the bins above are of the other values alone."""
    known = np.sort(values_N[~np.isnan(values_N)])
    if not len(known):
        return [0.0]
    edges = _quantiles(known)
    if edges[0] == 0 and known[0] == 0:
        edges = np.append(0.0, _quantiles(known[known > 0]))
    # An edge that nothing is above parts nothing, but for values that are new.
    return [float(edge) for edge in edges if edge < known[-1]] or [float(known[-1])]


def _quantiles(known: np.ndarray) -> np.ndarray:
    """known: sorted; may be empty."""
    if not len(known):
        return known
    places = (_EDGE_SHARES * len(known)).astype(int)
    found, times = np.unique(known[places], return_counts=True)
    often = found[times > 1]
    first = np.searchsorted(known, often)
    below = known[first[first > 0] - 1]
    return np.unique(np.concatenate([found, below]))


def _series(name: str, values_N: np.ndarray, edges: Sequence[float], periods: _Periods) -> Series:
    size = len(edges) + 2
    bin_N = Series(name, tuple(edges), (0,) * size).bins(values_N)
    whole = Series(name, tuple(edges), tuple(np.bincount(bin_N, minlength=size).tolist()))
    if name == ALERT_RATE:
        hour, day = (_rounded(_rate_spread(whole, bin_N, groups)) for groups in periods)
        return replace(whole, spread=hour, day_spread=day)
    counts_HB, counts_DB = (
        [np.bincount(bin_N[rows], minlength=size) for rows in groups] for groups in periods
    )
    return replace(
        whole,
        spread=_rounded(_spread(whole, counts_HB)),
        shift_spread=_shift_spread(whole, counts_HB),
        day_spread=_rounded(_spread(whole, counts_DB)),
        day_shift_spread=_shift_spread(whole, counts_DB),
    )


def _rounded(spread: float) -> float:
    return round(max(1.0, float(spread)), 3)


def _spread(series: Series, counts_PB: list[np.ndarray]) -> float:
    """Mean PSI of the periods over what independent events would have; more if the bound, too,
    would be too low for one of them."""
    freedom = np.count_nonzero(series.runs(np.array(series.counts))) - 1
    if not freedom or not counts_PB:
        return 1.0
    psi_P = np.array([psi_of(series, counts_B) for counts_B in counts_PB])
    events_P = np.array([counts_B.sum() for counts_B in counts_PB])
    chance_P = np.array([psi_bound(series, events) for events in events_P.tolist()])
    mean_P = freedom * (1 / events_P + 1 / sum(series.counts))
    return float(max(np.mean(psi_P / mean_P), np.max(psi_P / chance_P)))


def _shift_spread(series: Series, counts_PB: list[np.ndarray]) -> float | None:
    """The same of the square of the shift; None if no period tells."""
    some = [counts_B for counts_B in counts_PB if tells_shift(series, counts_B)]
    if not some:
        return None
    square_P = np.array([shift(counts_B, series) ** 2 for counts_B in some])
    chance_P = np.array(
        [shift_bound(series, counts_B[series.ordered].sum(), CHANCE) for counts_B in some]
    )
    of_chance_P = square_P / chance_P
    return _rounded(max(of_chance_P.mean() * chdtri(1, CHANCE), of_chance_P.max()))


def _rate_spread(series: Series, bin_N: np.ndarray, groups: list[np.ndarray]) -> float:
    """Variance of a period's alerts over that of independent events."""
    rate = series.share_B[1]
    errors = [
        ((bin_N[rows] == 1).sum() - len(rows) * rate) ** 2 / (len(rows) * rate * (1 - rate))
        for rows in groups
    ]
    return float(np.mean(errors)) if errors else 1.0


class _Periods(NamedTuple):
    """The rows of each hour, and of each day, that has enough to be judged."""

    hours: list[np.ndarray]
    days: list[np.ndarray]

    @classmethod
    def of(cls, hour_N: np.ndarray) -> _Periods:
        return cls(
            *(
                [rows for rows in _together(period_N) if len(rows) >= LEAST_EVENTS]
                for period_N in (hour_N, hour_N // 24)
            )
        )


def _together(period_N: np.ndarray) -> list[np.ndarray]:
    """The rows of each period, in their order."""
    order = np.argsort(period_N, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(period_N[order])) + 1)
