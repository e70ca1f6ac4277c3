"""`liveprofile shop`: trends, funnels and retention of the whole shop."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    format_utc,
    parse_duration_ms,
    print_fields,
    print_json,
    print_table,
    read_settings,
)
from cli.options import Commands
from cli.progress import count_bar
from liveprofile.errors import InputError, ServiceError
from liveprofile.units import DAY_MS

if TYPE_CHECKING:
    from cassandra.cluster import Session

    from liveprofile.settings import Settings
    from liveprofile.trends.counts import Series
    from liveprofile.trends.funnel import Cohort, FunnelStep
    from liveprofile.trends.points import Point


def event_types(option: str, text: str, at_least: int = 1) -> list[str]:
    """Event types separated by commas. Raises InputError."""
    from liveprofile.wire.tokens import EVENT_TYPES

    names = text.split(",")
    for name in names:
        if name not in EVENT_TYPES:
            raise InputError(f"{option} {name!r}: not one of {', '.join(EVENT_TYPES)}")
    if len(names) < at_least:
        raise InputError(f"{option} {text!r}: give {at_least} or more, separated by commas")
    return names


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
    from liveprofile.trends.count_store import CountStore
    from liveprofile.trends.update import InputTopic
    from liveprofile.trends.update import update as count

    settings = read_settings(config)
    with open_session(settings.cassandra) as session, count_bar("counting", 0, "records") as bar:
        report = count(
            InputTopic(settings),
            CountStore(session, settings),
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


class GroupBy(StrEnum):
    CATEGORY = "category"
    SEGMENT = "segment"


def funnel(
    steps: str = "view,cart,purchase",
    within: str = "7d",
    last: str = "30d",
    by: GroupBy = GroupBy.SEGMENT,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 20,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Count the users who go through the steps of a funnel, from the stored deltas.

    Only first steps that are at least --within old count: later ones have had less time. A
    segment's users are those who are in it now. docs/trends.md has the definitions.

    Example: `liveprofile shop funnel --steps view,cart,purchase --within 1d --by category`

    Options:
    steps TYPES: Event types in order.
    within SPAN: Time from the first step to the last.
    last SPAN: How far back from the newest window.
    by: Groups of users.
    limit: Maximum number of groups.
    """
    from liveprofile.storage.connection import open_session
    from services.trends import stored_funnel

    names = event_types("--steps", steps, at_least=2)
    within_ms, last_ms = parse_duration_ms(within, "--within"), parse_duration_ms(last, "--last")
    if within_ms >= last_ms:
        raise InputError(f"--within {within!r}: must be less than --last {last!r}")
    settings = read_settings(config)
    with open_session(settings.cassandra) as session:
        found = stored_funnel(session, settings, names, within_ms, last_ms, by.value)
    shown = dict(list(found.groups.items())[:limit])
    if json:
        groups = {name: [step._asdict() for step in of_group] for name, of_group in shown.items()}
        print_json(found._asdict() | {"groups": groups})
        return
    if not shown:
        typer.echo("no user has taken the first step in this time")
        return
    columns = ["group", *(f">{name}" for name in names)]
    columns.append(">95 %")
    span = f"{format_utc(found.since_ms)[:16]} to {format_utc(found.until_ms)[:16]}"
    print_table(
        f"Users with a first step from {span} UTC, within {within}",
        columns,
        [_funnel_row(name, of_group) for name, of_group in shown.items()],
    )


def _funnel_row(name: str, steps: list[FunnelStep]) -> list[str]:
    cells = [f"{step.users:,} ({step.share or 0:.1%})" for step in steps]
    last = steps[-1]
    return [name, *cells, f"{last.share_low or 0:.1%} to {last.share_high or 0:.1%}"]


def retention(
    event_type: Annotated[str | None, typer.Option("--type")] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show the share of each week's new users that are active in the weeks after, from the deltas.

    Deltas live for `cassandra.delta_ttl_s` (30 days): older cohorts are incomplete.

    Example: `liveprofile shop retention --type purchase`

    Options:
    event_type TYPE: A user is active in a week with such an event. Default: any event.
    """
    from liveprofile.storage.connection import open_session
    from services.trends import stored_retention

    if event_type is not None:
        event_types("--type", event_type)
    settings = read_settings(config)
    with open_session(settings.cassandra) as session:
        cohorts = stored_retention(session, settings, event_type)
    if json:
        print_json([cohort._asdict() for cohort in cohorts])
        return
    if not cohorts:
        typer.echo("no complete week with new users")
        return
    weeks = max(len(cohort.active) for cohort in cohorts)
    columns = ["first week", ">users"]
    columns += [f">week {week}" for week in range(weeks)]
    title = f"Active users of each week's new users ({event_type or 'any event'})"
    print_table(title, columns, [_cohort_row(cohort, weeks) for cohort in cohorts])


def _cohort_row(cohort: Cohort, weeks: int) -> list[str]:
    shares = [f"{active / cohort.users:.0%}" for active in cohort.active]
    shares += [""] * (weeks - len(shares))
    return [format_utc(cohort.week_ms)[:10], f"{cohort.users:,}", *shares]
