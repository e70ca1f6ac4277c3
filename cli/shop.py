"""`liveprofile shop`: trends and retention of the whole shop."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from cassandra.cluster import Session

from cli.common import Call, end_without_result, format_utc, parse_duration_ms, table
from cli.options import Commands
from cli.progress import count_bar
from liveprofile.errors import InputError, ServiceError
from liveprofile.settings import Settings
from liveprofile.trends.count_store import CountStore, read_counts, read_series
from liveprofile.trends.counts import ALL, CATEGORY, Series
from liveprofile.trends.points import FIRST_DAYS, SCORED_DAYS
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


LARGEST = 20  # categories whose counts are checked
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
    fields = {"behind": report.behind, "skipped": report.skipped, "chunks": report.chunks}
    call.print(report.counts._asdict() | fields)


@trends.command()
def show(
    call: Call,
    category: CategoryOption = None,
    event_type: TypeOption = None,
    metric: MetricOption = "events",
    by: Literal["hour", "day"] = "hour",
    last: str = "7d",
) -> None:
    """Show counts with the range that the weeks before let expect, and what falls outside.

    Without --category also what falls outside of the counts of the 20 largest categories.

    Example: liveprofile shop trends show --metric amount --type purchase --last 48h

    Options:
    by: Hours or days.
    last SPAN: How far back: 48h or 14d before the last.
    """
    last_ms = parse_duration_ms(last, "--last")
    series = _series(category, event_type)
    settings = call.settings
    with call.session() as session:
        until_ms = service.counted_until_ms(session, settings)
        if until_ms is None:
            raise _not_counted(settings)
        since_ms = until_ms - last_ms
        checked = [series]
        if category is None:
            checked += _largest(session, settings, event_type, since_ms, until_ms)
        found = [
            each._asdict() | point._asdict() | {"series": _name(each), "excess": point.excess}
            for each in checked
            for point in service.points_between(
                session, settings, each, by, metric, since_ms, until_ms
            )
        ]
    points = [point for point in found if point["series"] == _name(series)]
    outside = sorted(
        (point for point in found if point["outside"]), key=lambda point: -point["excess"]
    )
    report = {
        "by": by,
        "metric": metric,
        "complete_until_ms": until_ms,
        "points": points,
        "outside": outside,
    }
    if not points:
        call.print(report, "no counts in this time")
        return
    columns = "start_ms value expected low high"
    call.print(
        report,
        table(f"{_name(series)}: {metric} by {by}", points, f"{columns} outside"),
        table("Outside the expected range", outside, f"series {columns}")
        if outside
        else "Nothing falls outside the expected range.",
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
    rows = [
        {"hour": f"{hour:02d}:00", "forecast": v[0], "low": v[1], "high": v[2]}
        for hour, v in enumerate(hours)
    ]
    day = {"hour": "day", "forecast": found.total, "low": found.total_low, "high": found.total_high}
    call.print(
        {"day_ms": day_ms, "metric": metric, "series": series._asdict()} | found._asdict(),
        table(
            f"{_name(series)}: {metric} on {format_utc(day_ms)[:10]}, low to high: 80 %",
            [*rows, day],
            "hour forecast low high",
        ),
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
    return sorted(of_type, key=lambda series: (-sizes[series], series))[:LARGEST]


def _name(series: Series) -> str:
    names = {ALL: "all categories", CATEGORY: series.category or "unknown category"}
    event_type = "all types" if series.event_type == ALL else series.event_type
    return f"{names.get(series.scope, 'other categories')}, {event_type}"


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
    columns = {
        "first week": "week_ms",
        "users": "users",
        "active after weeks": lambda cohort: [
            f"{active / cohort.users:.0%}" for active in cohort.active
        ],
    }
    title = f"Active users of each week's new users ({event_type or 'any event'})"
    empty = "no complete week with new users"
    call.rows(cohorts, columns, title, empty=empty)
