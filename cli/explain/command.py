"""`liveprofile profile explain`: which events of a window moved the profile."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    MappingOption,
    UserArgument,
    config_file,
    format_utc,
    new_table,
    parse_since_ms,
    print_json,
    print_tables,
    read_settings,
)
from cli.progress import print_line

if TYPE_CHECKING:
    from rich.table import Table

    from offline.occlusion import EventEffect, WindowEffects

CauseOption = Annotated[
    int, typer.Option("--limit", min=1, max=100, help="Maximum number of events for each value.")
]


def explain(
    user: UserArgument,
    files: Annotated[list[Path] | None, typer.Argument()] = None,
    mapping: MappingOption = None,
    at: Annotated[
        int | None, typer.Option(parser=lambda text: parse_since_ms(text, "--at"))
    ] = None,
    limit: CauseOption = 3,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show which events of a window moved churn, expected spend and interests most.

    Runs the job's views over the user's events and then the model, once for each event of the
    window without that event: what is shown is how much the stored value differs from the one
    without it. Takes about a minute. Exit code 1 if there is no such window.

    Example: `liveprofile profile explain 42` or
    `liveprofile profile explain 42 --at 2026-11-26 --json`

    Options:
    files [FILE]...: Archives of events from before the first record of the input topic, as for
        `recompute-late`. Default: the topic has all of the user's events.
    at TIME: The last window that ended by then: 7d ago, or a time such as 2026-11-26. Default: the
        newest.
    """
    from cli.explain.run import as_document, explain, model_version, stored_delta
    from offline.late_windows.run import check_arguments

    check_arguments(files or [], mapping, None)
    settings = read_settings(config)
    version = model_version(settings)
    delta = stored_delta(settings, user, at)
    if delta is None:
        typer.echo(f"liveprofile: no window of user {user!r}", err=True)
        raise typer.Exit(1)
    effects = explain(
        settings, config_file(config), version, delta, files or [], mapping, print_line
    )
    if json:
        print_json(as_document(effects, delta))
    else:
        print_tables(*cause_tables(effects, user, delta.window_end_ms, limit))


def cause_tables(
    effects: WindowEffects, user: str, window_end_ms: int, limit: int
) -> Iterable[Table]:
    """A table for each value: the events that move it most."""
    end = format_utc(window_end_ms)
    yield _cause_table(
        f"Churn of user {user} after the window to {end}: {effects.served.churn:.1%}",
        [
            (effect, f"{100 * effect.churn:+.1f} points")
            for effect in effects.strongest("churn", limit)
        ],
    )
    yield _cause_table(
        f"Expected spend: {effects.served.expected_spend:.2f}",
        [
            (effect, f"{effect.expected_spend:+.2f}")
            for effect in effects.strongest("expected_spend", limit)
        ],
    )
    if effects.served.interests:
        yield _cause_table(
            "Interests",
            [(effect, _moved(effect)) for effect in effects.strongest("interests", limit)],
        )


def _cause_table(title: str, rows: Iterable[tuple[EventEffect, str]]) -> Table:
    table = new_table(
        "time", "event", "type", "item", "category", ">amount", "because of it", title=title
    )
    for effect, moved in rows:
        table.add_row(
            format_utc(effect.time_ms),
            effect.event_id,
            effect.event_type,
            effect.item,
            effect.category,
            f"{effect.amount:.2f}",
            moved,
        )
    return table


def _moved(effect: EventEffect) -> str:
    return ", ".join(
        f"{category} {without:.1%} to {stored:.1%}"
        for category, without, stored in effect.moved_interests
    )
