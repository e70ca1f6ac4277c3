"""`liveprofile profile explain`: which events of a window moved the profile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import (
    Call,
    MappingOption,
    UserArgument,
    end_without_result,
    format_utc,
    parse_since_ms,
    table,
)
from cli.progress import print_line

if TYPE_CHECKING:
    from rich.table import Table

    from offline.occlusion import EventEffect, WindowEffects

CauseOption = Annotated[
    int, typer.Option("--limit", min=1, max=100, help="Maximum number of events for each value.")
]


def explain(
    call: Call,
    user: UserArgument,
    files: Annotated[list[Path] | None, typer.Argument()] = None,
    mapping: MappingOption = None,
    at: Annotated[
        int | None, typer.Option(parser=lambda text: parse_since_ms(text, "--at"))
    ] = None,
    limit: CauseOption = 3,
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
    from offline.explanation.run import as_document, explain, model_version, stored_delta
    from offline.late_windows.run import check_arguments

    check_arguments(files or [], mapping, None)
    settings = call.settings
    version = model_version(settings)
    delta = stored_delta(settings, user, at)
    if delta is None:
        end_without_result(f"no window of user {user!r}")
    effects = explain(settings, call.file, version, delta, files or [], mapping, print_line)
    call.print(
        as_document(effects, delta), *cause_tables(effects, user, delta.window_end_ms, limit)
    )


def cause_tables(
    effects: WindowEffects, user: str, window_end_ms: int, limit: int
) -> Iterable[Table]:
    """A table for each value: the events that move it most."""
    end, served = format_utc(window_end_ms), effects.served
    values: dict[str, tuple[str, str | Callable[[EventEffect], str]]] = {
        "churn": (
            f"Churn of user {user} after the window to {end}: {served.churn:.1%}",
            lambda effect: f"{100 * effect.churn:+.1f} points",
        ),
        "expected_spend": (
            f"Expected spend: {served.expected_spend:.2f}",
            "{.expected_spend:+.2f}",
        ),
    }
    if served.interests:
        values["interests"] = "Interests", _moved
    for name, (title, moved) in values.items():
        columns = {
            "time": lambda effect: format_utc(effect.time_ms),
            "event": "{.event_id}",
            "type": "{.event_type}",
            "item": "{.item}",
            "category": "{.category}",
            ">amount": "{.amount:.2f}",
            "because of it": moved,
        }
        yield table(title, effects.strongest(name, limit), columns)


def _moved(effect: EventEffect) -> str:
    return ", ".join(
        f"{category} {without:.1%} to {stored:.1%}"
        for category, without, stored in effect.moved_interests
    )
