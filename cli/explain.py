"""`liveprofile profile explain`: which events of a window moved the profile."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import (
    Call,
    UserArgument,
    end_without_result,
    table,
    time_option,
)
from cli.progress import print_line

if TYPE_CHECKING:
    from rich.table import Table

    from offline.occlusion import WindowEffects


def explain(
    call: Call,
    user: UserArgument,
    at: Annotated[int | None, time_option("--at")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 3,
) -> None:
    """Show which events of a window moved churn, expected spend and interests most.

    Runs the job's views over the user's events and then the model, once for each event of the
    window without that event: what is shown is how much the stored value differs from the one
    without it. Takes about a minute. Exit code 1 if there is no such window.

    Example: `liveprofile profile explain 42` or
    `liveprofile profile explain 42 --at 2026-11-26 --json`

    Options:
    at TIME: The last window that ended by then: 7d ago, or a time such as 2026-11-26. Default: the
        newest.
    limit: Maximum number of events for each value.
    """
    from offline.explanation.run import as_document, explain, model_version, stored_delta

    settings = call.settings
    version = model_version(settings)
    delta = stored_delta(settings, user, at)
    if delta is None:
        end_without_result(f"no window of user {user!r}")
    effects = explain(settings, call.file, version, delta, print_line)
    window = {"user": user, "window_end_ms": delta.window_end_ms}
    call.print(as_document(effects, delta), window, *cause_tables(effects, limit))


def cause_tables(effects: WindowEffects, limit: int) -> Iterable[Table]:
    """A table for each value: the events that move it most, and by how much."""
    served = effects.served
    titles = {
        "churn": f"Churn: {served.churn:.1%}",
        "expected_spend": f"Expected spend: {served.expected_spend:.2f}",
        "interests": "Interests: without and with it",
    }
    for name, title in titles.items():
        if name != "interests" or served.interests:
            moved = "moved_interests" if name == "interests" else name
            yield table(title, effects.strongest(name, limit), f"{EVENT} {moved}")


EVENT = "time_ms event_id event_type item category amount"
