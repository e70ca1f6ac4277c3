"""Counts of the input topic with expected ranges, forecasts, funnels and retention."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, TypeVar

from cassandra.cluster import Session

from liveprofile.settings import Settings
from liveprofile.storage.queries import scan_changes, scan_users
from liveprofile.trends.count_store import read_counts, read_last_chunk
from liveprofile.trends.counts import SPANS_MS, Series
from liveprofile.trends.forecast import DayForecast, forecast_next_day
from liveprofile.trends.funnel import Cohort, FunnelStep, funnel, retention, user_windows
from liveprofile.trends.points import HISTORY_MS, Metric, Point, hours_by_day, points, unit_of

Row = TypeVar("Row")
# Passes the rows of a scan on, and may end it with an exception.
Watch = Callable[[Iterable[Row]], Iterable[Row]]


class StoredFunnel(NamedTuple):
    since_ms: int  # of first steps
    until_ms: int
    within_ms: int
    groups: dict[str, list[FunnelStep]]


class TrendPoints(NamedTuple):
    complete_until_ms: int
    points: list[Point]


class StoredForecast(NamedTuple):
    day_ms: int
    days: int  # complete days of the series
    forecast: DayForecast | None  # None: too few days


def counted_until_ms(session: Session, settings: Settings) -> int | None:
    """The event time before which everything is counted. None if nothing has been counted."""
    chunk = read_last_chunk(session, settings.topics.events)
    return chunk and chunk.complete_until_ms(settings.window.out_of_orderness_ms)


def trend(
    session: Session, settings: Settings, series: Series, span: str, metric: Metric, count: int
) -> TrendPoints | None:
    """The last `count` complete hours or days, oldest first. None: nothing has been counted."""
    until_ms = counted_until_ms(session, settings)
    if until_ms is None:
        return None
    span_ms = SPANS_MS[span]
    since_ms = until_ms // span_ms * span_ms - count * span_ms
    found = points_between(session, settings, series, span, metric, since_ms, until_ms)
    return TrendPoints(until_ms, found)


def points_between(
    session: Session,
    settings: Settings,
    series: Series,
    span: str,
    metric: Metric,
    since_ms: int,
    until_ms: int,
) -> list[Point]:
    topic = settings.topics.events
    counts = read_counts(session, topic, span, series, since_ms - HISTORY_MS, until_ms)
    return points(counts, span, metric, since_ms, until_ms)


def forecast(
    session: Session, settings: Settings, series: Series, metric: Metric
) -> StoredForecast | None:
    """Of the hours of the day after the last complete one. None: nothing has been counted."""
    until_ms = counted_until_ms(session, settings)
    if until_ms is None:
        return None
    counts = read_counts(session, settings.topics.events, "hour", series, 0, until_ms)
    values, day_ms = hours_by_day(counts, metric, until_ms)
    return StoredForecast(day_ms, len(values), forecast_next_day(values, unit_of(counts, metric)))


def stored_funnel(
    session: Session,
    settings: Settings,
    steps: Sequence[str],
    within_ms: int,
    last_ms: int,
    by: Literal["segment", "category"],
    *,
    watch: Watch = iter,
) -> StoredFunnel:
    """The funnel of the deltas of the last `last_ms` before the newest window of all users.

    First steps count that are at least `within_ms` older than that. A segment's users are those who
    are in it now.
    """
    users = {user.user_id: user for user in watch(scan_users(session))}
    until_ms = max((user.window_end_ms for user in users.values()), default=0)
    since_ms = until_ms - last_ms

    def segments(user_id: str) -> list[str]:
        known = users.get(user_id)
        return [f"segment {name}" for name in known.segments] if known else []

    groups = funnel(
        user_windows(watch(scan_changes(session, since_ms, until_ms))),
        steps,
        within_ms,
        since_ms,
        until_ms - within_ms,
        segments if by == "segment" else None,
    )
    return StoredFunnel(since_ms, until_ms - within_ms, within_ms, groups)


def stored_retention(
    session: Session, settings: Settings, event_type: str | None, *, watch: Watch = iter
) -> list[Cohort]:
    """The cohorts of all stored deltas, oldest first."""
    users = watch(scan_users(session))
    until_ms = max((user.window_end_ms for user in users), default=0)
    changes = watch(scan_changes(session, 0, until_ms))
    return retention(user_windows(changes), event_type, until_ms)
