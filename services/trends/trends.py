"""Counts of the input topic with expected ranges, and forecasts."""

from typing import NamedTuple

from cassandra.cluster import Session

from liveprofile.settings import Settings
from services.trends.count_store import SPANS_MS, Series, read_counts, read_last_chunk
from services.trends.points import (
    HISTORY_MS,
    DayForecast,
    Metric,
    Point,
    forecast_next_day,
    hours_by_day,
    points,
    unit_of,
)


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
    topic = settings.topics.events
    counts = read_counts(session, topic, span, series, since_ms - HISTORY_MS, until_ms)
    return TrendPoints(until_ms, points(counts, span, metric, since_ms, until_ms))


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
