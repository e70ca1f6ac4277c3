"""`liveprofile shop retention`: which users of a first week come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import ConfigOption, JsonOption, format_utc, print_json, read_settings
from cli.operations.options import event_types
from cli.operations.tables import print_table

if TYPE_CHECKING:
    from liveprofile.trends.funnel import Cohort


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
    print_table(title, columns, [_row(cohort, weeks) for cohort in cohorts])


def _row(cohort: Cohort, weeks: int) -> list[str]:
    shares = [f"{active / cohort.users:.0%}" for active in cohort.active]
    shares += [""] * (weeks - len(shares))
    return [format_utc(cohort.week_ms)[:10], f"{cohort.users:,}", *shares]
