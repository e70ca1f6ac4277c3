"""`liveprofile shop funnel`: how many users go from one type of event to the next."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import ConfigOption, JsonOption, format_utc, print_json, read_settings
from cli.operations.options import event_types
from cli.operations.tables import print_table
from cli.times import parse_duration_ms
from liveprofile.errors import InputError

if TYPE_CHECKING:
    from liveprofile.trends.funnel import FunnelStep


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
        [_row(name, of_group) for name, of_group in shown.items()],
    )


def _row(name: str, steps: list[FunnelStep]) -> list[str]:
    cells = [f"{step.users:,} ({step.share or 0:.1%})" for step in steps]
    last = steps[-1]
    return [name, *cells, f"{last.share_low or 0:.1%} to {last.share_high or 0:.1%}"]
