"""`liveprofile shop`: trends and retention of the whole shop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import typer
from cassandra.cluster import Session
from rich.table import Table

from cli.common import Call, end_without_result, format_utc, parse_duration_ms, table
from cli.options import Commands
from cli.progress import count_bar
from liveprofile.errors import InputError, ServiceError
from liveprofile.settings import Settings
from liveprofile.trends.count_store import CountStore, read_counts, read_series
from liveprofile.trends.counts import ALL, CATEGORY, Series
from liveprofile.trends.points import FIRST_DAYS, SCORED_DAYS, Point
from liveprofile.trends.retention import Cohort
from liveprofile.trends.update import InputTopic
from liveprofile.trends.update import update as count
from liveprofile.units import DAY_MS
from liveprofile.wire.tokens import EVENT_TYPES
from services import trends as service
from services.trends import stored_retention


def _event_type(name: str) -> str:
    """Raises InputError for another name than an event type's."""
    if name not in EVENT_TYPES:
        raise InputError(f"--type {name!r}: not one of {', '.join(EVENT_TYPES)}")
    return name


trends = Commands(
    name="trends", help="Count the shop's events by category, type, hour and day (docs/trends.md)."
)


MAX_LISTED = 20


Metric = Literal["events", "users", "amount"]
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


MetricOption = Annotated[Metric, typer.Option("--metric", help="What is counted.")]


@trends.command()
def update(call: Call, skip_lost: bool = False) -> None:
    """Count the records of the input topic up to the job's last checkpoint.

    Run it on a schedule, such as every hour: it goes on where the last run ended. A run that is
    killed or repeated counts nothing twice.

    Example: liveprofile shop trends update --json

    Options:
    skip_lost: Go on with the first record that is left if records have expired uncounted.
    """
    settings = call.settings
    with call.session() as session, count_bar("counting", 0, "records") as bar:
        report = count(
            InputTopic(settings),
            CountStore(session, settings),
            settings,
            skip_lost=skip_lost,
            progress=bar,
        )
    fields = report.counts._asdict() | {"behind": report.behind, "skipped": report.skipped}
    call.print(fields | {"chunks": report.chunks}, fields)


@trends.command()
def show(
    call: Call,
    category: CategoryOption = None,
    event_type: TypeOption = None,
    metric: MetricOption = "events",
    by: Literal["hour", "day"] = "hour",
    last: str = "7d",
    categories: Annotated[int, typer.Option(min=0, max=1_000)] = 20,
) -> None:
    """Show counts with the range that the weeks before let expect, and what falls outside.

    Example: liveprofile shop trends show --metric amount --type purchase --last 48h

    Options:
    by: Hours or days.
    last SPAN: How far back: 48h or 14d before the last.
    categories N: Check the N largest categories.
    """
    last_ms = parse_duration_ms(last, "--last")
    series = _series(category, event_type)
    settings = call.settings
    with call.session() as session:
        until_ms = service.counted_until_ms(session, settings)
        if until_ms is None:
            raise _not_counted(settings)
        since_ms = until_ms - last_ms
        span = (by, metric, since_ms, until_ms)
        shown = {series: service.points_between(session, settings, series, *span)}
        if category is None:
            for each in _largest(session, settings, event_type, since_ms, until_ms, categories):
                shown[each] = service.points_between(session, settings, each, *span)
    outside = sorted(
        ((each, point) for each, points in shown.items() for point in points if point.outside),
        key=lambda pair: -pair[1].excess,
    )
    report = {
        "by": by,
        "metric": metric,
        "complete_until_ms": until_ms,
        "series": series._asdict(),
        "points": [point._asdict() for point in shown[series]],
        "outside": [each._asdict() | point._asdict() for each, point in outside],
    }
    if not shown[series]:
        call.print(report, "no counts in this time")
        return
    call.print(
        report,
        table(f"{_name(series)}: {metric} by {by}", shown[series], POINT),
        _outside_table(outside) if outside else "Nothing falls outside the expected range.",
    )


@trends.command()
def forecast(
    call: Call,
    category: CategoryOption = None,
    event_type: TypeOption = None,
    metric: MetricOption = "events",
) -> None:
    """Forecast the hours of the day after the last complete one, with an 80 % interval.

    Exit code 1 if the series has less than 28 days.

    Example: liveprofile shop trends forecast --category beauty --type purchase
    """
    series = _series(category, event_type)
    with call.session() as session:
        forecast_of = service.forecast(session, call.settings, series, metric)
    if forecast_of is None:
        raise _not_counted(call.settings)
    day_ms, days, found = forecast_of
    if found is None:
        end_without_result(
            f"{_name(series)} has {days} complete days: a forecast needs {FIRST_DAYS}"
        )
    hours = zip(found.hours, found.low, found.high, strict=True)
    rows = [(f"{hour:02d}:00", *values) for hour, values in enumerate(hours)]
    rows.append(("day", found.total, found.total_low, found.total_high))
    columns = {
        "hour": "{[0]}",
        ">forecast": "{[1]:,.1f}",
        ">80 %": lambda row: f"{row[2]:,.1f} to {row[3]:,.1f}",
    }
    call.print(
        {"day_ms": day_ms, "metric": metric, "series": series._asdict()} | found._asdict(),
        table(f"{_name(series)}: {metric} on {format_utc(day_ms)[:10]}", rows, columns),
        f"Mean absolute error by hour in the last {SCORED_DAYS} days"
        f" {found.mae:,.2f}, seasonal naive {found.naive_mae:,.2f}",
    )


def _series(category: str | None, event_type: str | None) -> Series:
    """Raises InputError."""
    if event_type is not None:
        _event_type(event_type)
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
    names = {ALL: "all categories", CATEGORY: series.category or "unknown category"}
    event_type = "all types" if series.event_type == ALL else series.event_type
    return f"{names.get(series.scope, 'other categories')}, {event_type}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


POINT: dict[str, Callable[[Point], str]] = {
    "start": lambda point: format_utc(point.start_ms)[:16],
    ">value": lambda point: _number(point.value),
    ">expected": lambda point: _number(point.expected),
    ">range": lambda point: (
        "-" if point.low is None else f"{_number(point.low)} to {_number(point.high)}"
    ),
    "": lambda point: "outside" if point.outside else "",
}


def _outside_table(outside: list[tuple[Series, Point]]) -> Table:
    def of_point(name: str) -> Callable[[tuple[Series, Point]], str]:
        return lambda pair: POINT[name](pair[1])

    columns = {
        "start": of_point("start"),
        "series": lambda pair: _name(pair[0]),
        **{name: of_point(name) for name in (">value", ">expected", ">range")},
    }
    title = f"Outside the expected range: {len(outside)}"
    if len(outside) > MAX_LISTED:
        title += f", the {MAX_LISTED} furthest"
    return table(title, outside[:MAX_LISTED], columns)


def retention(call: Call, event_type: Annotated[str | None, typer.Option("--type")] = None) -> None:
    """Show the share of each week's new users that are active in the weeks after, from the deltas.

    Deltas live for `cassandra.delta_ttl_s` (30 days): older cohorts are incomplete.

    Example: `liveprofile shop retention --type purchase`

    Options:
    event_type TYPE: A user is active in a week with such an event. Default: any event.
    """
    if event_type is not None:
        _event_type(event_type)
    with call.session() as session:
        cohorts = stored_retention(session, call.settings, event_type)
    title = f"Active users of each week's new users ({event_type or 'any event'})"
    call.print(
        [cohort._asdict() for cohort in cohorts],
        table(title, cohorts, _cohort_columns(max(len(each.active) for each in cohorts)))
        if cohorts
        else "no complete week with new users",
    )


def _cohort_columns(weeks: int) -> dict[str, str | Callable[[Cohort], str]]:
    def share(week: int) -> Callable[[Cohort], str]:
        return lambda cohort: (
            f"{cohort.active[week] / cohort.users:.0%}" if week < len(cohort.active) else ""
        )

    return {
        "first week": lambda cohort: format_utc(cohort.week_ms)[:10],
        ">users": "{.users:,}",
        **{f">week {week}": share(week) for week in range(weeks)},
    }
