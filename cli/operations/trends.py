"""`liveprofile shop trends`: counts of the shop by category, event type, hour and day."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    format_utc,
    print_fields,
    print_json,
    read_settings,
)
from cli.operations.tables import print_table
from cli.options import Commands
from cli.progress import count_bar
from cli.times import parse_duration_ms
from liveprofile.errors import InputError, ServiceError
from liveprofile.units import DAY_MS

if TYPE_CHECKING:
    from cassandra.cluster import Session

    from liveprofile.settings import Settings
    from liveprofile.trends.counts import Series
    from liveprofile.trends.points import Point

trends = Commands(
    name="trends",
    help="Count the shop's events by category, type, hour and day (docs/trends.md).",
)

MAX_LISTED = 20


class Span(StrEnum):
    HOUR = "hour"
    DAY = "day"


class MetricName(StrEnum):
    EVENTS = "events"
    USERS = "users"
    AMOUNT = "amount"


TypeOption = Annotated[
    str | None,
    typer.Option(
        "--type",
        metavar="TYPE",
        show_default=False,
        help="Event type, such as view or purchase. Default: all types; of a category: purchase.",
    ),
]
CategoryOption = Annotated[
    str | None,
    typer.Option(
        "--category",
        metavar="NAME",
        show_default=False,
        help="Only this category; empty text is the unknown one. Default: all together.",
    ),
]
MetricOption = Annotated[MetricName, typer.Option("--metric", help="What is counted.")]


@trends.command()
def update(
    skip_lost: bool = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Count the records of the input topic up to the job's last checkpoint.

    Run it on a schedule, such as every hour: it goes on where the last run ended. A run that is
    killed or repeated counts nothing twice.

    Example: liveprofile shop trends update --json

    Options:
    skip_lost: Go on with the first record that is left if records have expired uncounted.
    """
    from liveprofile.storage.connection import open_session
    from liveprofile.trends.count_store import CassandraCountStore
    from liveprofile.trends.update import KafkaInputTopic
    from liveprofile.trends.update import update as count

    settings = read_settings(config)
    with open_session(settings.cassandra) as session, count_bar("counting", 0, "records") as bar:
        report = count(
            KafkaInputTopic(settings),
            CassandraCountStore(session, settings),
            settings,
            skip_lost=skip_lost,
            progress=bar,
        )
    fields = report.counts._asdict() | {"behind": report.behind, "skipped": report.skipped}
    if json:
        print_json(fields | {"chunks": report.chunks})
    else:
        print_fields(fields)


@trends.command()
def show(
    category: CategoryOption = None,
    event_type: TypeOption = None,
    metric: MetricOption = MetricName.EVENTS,
    by: Span = Span.HOUR,
    last: str = "7d",
    categories: Annotated[int, typer.Option(min=0, max=1_000)] = 20,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show counts with the range that the weeks before let expect, and what falls outside.

    Example: liveprofile shop trends show --metric amount --type purchase --last 48h

    Options:
    by: Hours or days.
    last SPAN: How far back: 48h or 14d before the last.
    categories N: Check the N largest categories.
    """
    from liveprofile.storage.connection import open_session
    from services import trends as service

    last_ms = parse_duration_ms(last, "--last")
    series = _series(category, event_type)
    settings = read_settings(config)
    with open_session(settings.cassandra) as session:
        until_ms = service.counted_until_ms(session, settings)
        if until_ms is None:
            raise _not_counted(settings)
        since_ms = until_ms - last_ms
        span = (by, metric.value, since_ms, until_ms)
        shown = {series: service.points_between(session, settings, series, *span)}
        if category is None:
            for each in _largest(session, settings, event_type, since_ms, until_ms, categories):
                shown[each] = service.points_between(session, settings, each, *span)
    outside = sorted(
        ((each, point) for each, points in shown.items() for point in points if point.outside),
        key=lambda pair: -pair[1].excess,
    )
    if json:
        print_json(
            {
                "by": by,
                "metric": metric,
                "complete_until_ms": until_ms,
                "series": series._asdict(),
                "points": [point._asdict() for point in shown[series]],
                "outside": [each._asdict() | point._asdict() for each, point in outside],
            }
        )
        return
    if not shown[series]:
        typer.echo("no counts in this time")
        return
    _print_points(f"{_name(series)}: {metric} by {by}", shown[series])
    _print_outside(outside)


@trends.command()
def forecast(
    category: CategoryOption = None,
    event_type: TypeOption = None,
    metric: MetricOption = MetricName.EVENTS,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Forecast the hours of the day after the last complete one, with an 80 % interval.

    Exit code 1 if the series has less than 84 days.

    Example: liveprofile shop trends forecast --category beauty --type purchase
    """
    from liveprofile.storage.connection import open_session
    from liveprofile.trends.forecast import FIRST_DAYS, SCORED_DAYS
    from services import trends as service

    series = _series(category, event_type)
    settings = read_settings(config)
    with open_session(settings.cassandra) as session:
        forecast_of = service.forecast(session, settings, series, metric.value)
    if forecast_of is None:
        raise _not_counted(settings)
    day_ms, days, found = forecast_of
    if found is None:
        typer.echo(
            f"liveprofile: {_name(series)} has {days} complete days: a forecast needs"
            f" {FIRST_DAYS + SCORED_DAYS}",
            err=True,
        )
        raise typer.Exit(1)
    if json:
        result = {"day_ms": day_ms, "metric": metric, "series": series._asdict()}
        print_json(result | found._asdict())
        return
    columns = ["hour", ">forecast", ">80 %"]
    rows = [
        [f"{hour:02d}:00", f"{value:,.1f}", f"{low:,.1f} to {high:,.1f}"]
        for hour, (value, low, high) in enumerate(
            zip(found.hours, found.low, found.high, strict=True)
        )
    ]
    day_range = f"{found.total_low:,.1f} to {found.total_high:,.1f}"
    rows.append(["day", f"{found.total:,.1f}", day_range])
    print_table(f"{_name(series)}: {metric} on {format_utc(day_ms)[:10]}", columns, rows)
    typer.echo(
        f"by {found.method}; mean absolute error by hour in the last {SCORED_DAYS} days"
        f" {found.mae:,.2f}, seasonal naive {found.naive_mae:,.2f}"
    )


def _series(category: str | None, event_type: str | None) -> Series:
    """Raises InputError."""
    from liveprofile.trends.counts import ALL, CATEGORY, Series
    from liveprofile.wire.tokens import EVENT_TYPES

    if event_type is not None and event_type not in EVENT_TYPES:
        raise InputError(f"--type {event_type!r}: not one of {', '.join(EVENT_TYPES)}")
    if category is None:
        return Series(ALL, "", event_type or ALL)
    return Series(CATEGORY, category, event_type or "purchase")


def _not_counted(settings: Settings) -> ServiceError:
    return ServiceError(
        f"no records of {settings.topics.events} are counted: run `liveprofile shop trends update`"
    )


def _largest(
    session: Session,
    settings: Settings,
    event_type: str | None,
    since_ms: int,
    until_ms: int,
    count: int,
) -> list[Series]:
    """The category series with the most events in this time."""
    from liveprofile.trends.count_store import read_counts, read_series
    from liveprofile.trends.counts import ALL

    topic = settings.topics.events
    of_type = [
        series
        for series in read_series(session, topic)
        if series.scope != ALL and series.event_type == (event_type or "purchase")
    ]
    first_ms = since_ms // DAY_MS * DAY_MS
    sizes = {
        series: sum(
            day.events for day in read_counts(session, topic, "day", series, first_ms, until_ms)
        )
        for series in of_type
    }
    return sorted(of_type, key=lambda series: (-sizes[series], series))[:count]


def _name(series: Series) -> str:
    from liveprofile.trends.counts import ALL, CATEGORY

    names = {ALL: "all categories", CATEGORY: series.category or "unknown category"}
    event_type = "all types" if series.event_type == ALL else series.event_type
    return f"{names.get(series.scope, 'other categories')}, {event_type}"


def _print_points(title: str, points: list[Point]) -> None:
    columns = ["start", ">value", ">expected"]
    columns += [">range", ""]
    print_table(title, columns, [_row(point) for point in points])


def _print_outside(outside: list[tuple[Series, Point]]) -> None:
    if not outside:
        typer.echo("Nothing falls outside the expected range.")
        return
    columns = ["start", "series", ">value"]
    columns += [">expected", ">range"]
    rows = []
    for series, point in outside[:MAX_LISTED]:
        start, value, expected, span, _ = _row(point)
        rows.append([start, _name(series), value, expected, span])
    title = f"Outside the expected range: {len(outside)}"
    if len(outside) > MAX_LISTED:
        title += f", the {MAX_LISTED} furthest"
    print_table(title, columns, rows)


def _row(point: Point) -> list[str]:
    def number(value: Any) -> str:
        return "-" if value is None else f"{value:,.0f}"

    span = "-" if point.low is None else f"{number(point.low)} to {number(point.high)}"
    mark = "outside" if point.outside else ""
    return [
        format_utc(point.start_ms)[:16],
        number(point.value),
        number(point.expected),
        span,
        mark,
    ]
