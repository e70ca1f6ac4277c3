"""`liveprofile shop`: trends of the whole shop."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal, TypeVar

import typer

from cli.common import Call, end_without_result, format_utc, option, parse_duration_ms, table
from cli.options import Commands
from cli.progress import count_bar
from liveprofile.errors import InputError, ServiceError
from liveprofile.settings import Settings
from liveprofile.wire.tokens import EVENT_TYPES
from services.trends import trends as service
from services.trends.count_store import ALL, CATEGORY, SPANS_MS, CountStore, Series
from services.trends.points import FIRST_DAYS
from services.trends.update import update as count


def check_event_type(name: str | None) -> str | None:
    """Callback of the option --type. Raises InputError for another name than an event type's."""
    if name is not None and name not in EVENT_TYPES:
        raise InputError(f"--type {name!r}: not one of {', '.join(EVENT_TYPES)}")
    return name


trends = Commands(
    name="trends", help="Count the shop's events by category, type, hour and day (docs/trends.md)."
)


Metric = Literal["events", "users", "amount"]
TYPE_HELP = "Event type, such as view or purchase. Default: all types; of a category: purchase."
TypeOption = Annotated[str | None, option("--type", "TYPE", TYPE_HELP, callback=check_event_type)]
CATEGORY_HELP = "Only this category; empty text is the unknown one. Default: all together."
CategoryOption = Annotated[str | None, option("--category", "NAME", CATEGORY_HELP)]
MetricOption = Annotated[Metric, typer.Option("--metric", help="What is counted.")]


@trends.command()
def update(call: Call) -> None:
    """Count the records of the input topic up to the job's last checkpoint.

    `serve chores` runs it every hour. It goes on where the last run ended. A run that is
    killed or repeated counts nothing twice. Exit code 1 if records had expired uncounted: it has
    gone on with the first one that is left.

    Example: liveprofile shop trends update --json
    """
    settings = call.settings
    with call.session() as session, count_bar("counting", 0, "records") as bar:
        store = CountStore(session, settings)
        report = count(store, settings, progress=bar)
    call.print(asdict(report))
    if report.lost:
        end_without_result(f"{report.lost} records expired uncounted, or the topic was made anew")


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

    Example: liveprofile shop trends show --metric amount --type purchase --last 48h

    Options:
    by: Hours or days.
    last SPAN: How far back: 48h or 14d before the last.
    """
    count = max(1, parse_duration_ms(last, "--last") // SPANS_MS[by])
    series = Series.of(category, event_type)
    with call.session() as session:
        trend = service.trend(session, call.settings, series, by, metric, count)
    until_ms, points = _counted(call.settings, trend)
    report = {"by": by, "metric": metric, "series": series._asdict()}
    report |= {"complete_until_ms": until_ms, "points": [point._asdict() for point in points]}
    title = f"{_name(series)}: {metric} by {by}"
    call.print(report, table(title, points, "start_ms value expected low high outside"))


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
    series = Series.of(category, event_type)
    with call.session() as session:
        found = service.forecast(session, call.settings, series, metric)
    day_ms, days, day = _counted(call.settings, found)
    if day is None:
        end_without_result(
            f"{_name(series)} has {days} complete days: a forecast needs {FIRST_DAYS}"
        )
    hours = zip(day.hours, day.low, day.high, strict=True)
    rows = [(f"{hour:02d}:00", *values) for hour, values in enumerate(hours)]
    rows.append(("day", day.total, day.total_low, day.total_high))
    names = ("hour", "forecast", "low", "high")
    call.print(
        {"day_ms": day_ms, "metric": metric, "series": series._asdict()} | day._asdict(),
        table(
            f"{_name(series)}: {metric} on {format_utc(day_ms)[:10]}",
            [dict(zip(names, row, strict=True)) for row in rows],
            " ".join(names),
        ),
    )


Value = TypeVar("Value")


def _counted(settings: Settings, found: Value | None) -> Value:
    """Raises ServiceError for None: nothing has been counted."""
    if found is None:
        raise ServiceError(
            f"no records of {settings.topics.events} are counted: run `liveprofile shop trends"
            " update`"
        )
    return found


def _name(series: Series) -> str:
    names = {ALL: "all categories", CATEGORY: series.category or "unknown category"}
    event_type = "all types" if series.event_type == ALL else series.event_type
    return f"{names.get(series.scope, 'other categories')}, {event_type}"
