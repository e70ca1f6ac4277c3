"""`liveprofile segments`: checks, applies, lists and previews segment definitions."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import Call, format_utc, table, time_option
from cli.options import Commands
from cli.progress import print_line, progress
from cli.rules_and_segments import FileArgument, add_commands
from liveprofile.storage.cql import now_ms
from liveprofile.storage.queries import TOKEN_MAX, TOKEN_MIN
from services.definitions import preview_segments, read_definitions, read_kind
from services.segments import members as stored_members
from services.segments import sizes as stored_sizes
from services.segments import sweep_all

if TYPE_CHECKING:
    from offline.sweep_store import SweepState

segments = Commands()

add_commands(segments, "segments", "segments", "id version state when")

SegmentArgument = Annotated[str, typer.Argument(metavar="SEGMENT", help="Segment id.")]
MomentOption = Annotated[
    int | None,
    time_option(
        "--at",
        "Evaluate at this time (UTC) instead of now, such as 2026-11-26T01:00 or 2h ago. For"
        " replayed events.",
    ),
]


@segments.command()
def sizes(call: Call, limit: Annotated[int, typer.Option(min=1, max=1_000)] = 5) -> None:
    """Show the size of each segment at the latest sweeps.

    Example: `liveprofile segments sizes --limit 30`

    Options:
    limit: Sweeps per segment.
    """
    found = read_kind(call.settings, "segments").definitions
    with call.session() as session:
        listed = {
            segment.id: stored_sizes(session, segment.id, limit) for segment in found.segments
        }
    columns = {
        "segment": lambda row: row[0],
        "time": lambda row: format_utc(row[1].time_ms),
        "members": lambda row: row[1].members,
        "of users": lambda row: row[1].members / row[1].users if row[1].users else 0.0,
    }
    rows = [(name, size) for name, sizes in listed.items() for size in sizes]
    call.print(
        {name: [each._asdict() for each in sizes] for name, sizes in listed.items()},
        table(None, rows, columns) if rows else "no sweep yet (`liveprofile segments sweep`)",
    )


@segments.command()
def members(
    call: Call, segment: SegmentArgument, limit: Annotated[int, typer.Option(min=1)] = 100
) -> None:
    """List members of a segment with the time since when. Exit code 1 if there are none.

    Example: `liveprofile segments members loyal --limit 1000 --json`

    Options:
    limit: Maximum number of users.
    """
    with call.session() as session:
        found = list(islice(stored_members(session, segment), limit))
    missing = f"segment {segment!r} has no members"
    call.rows(found, "user_id since_ms", missing=missing)


@segments.command()
def sweep(call: Call, at: MomentOption = None) -> None:
    """Evaluate the segments of all users now, beside the running job.

    Changes are stored and sent like those of the job. A sweep that was killed is continued, at its
    own time. Run it after `segments apply`; `serve chores` runs it daily.

    Example: `liveprofile segments sweep`
    """
    time_ms = now_ms() if at is None else at
    with call.session() as session, progress() as on_progress:

        def on_page(state: SweepState) -> None:
            percent = 100 * (state.position - TOKEN_MIN) // (TOKEN_MAX - TOKEN_MIN)
            on_progress("sweep, % of all users", percent, 100)

        result = sweep_all(call.settings, session, time_ms, on_page, print_line)
    call.print(
        {
            "users": result.state.users,
            "entered": result.entered,
            "left": result.left,
            "at_ms": result.state.time_ms,
            "seconds": round(result.seconds, 1),
        }
    )


@segments.command()
def preview(call: Call, file: FileArgument, at: MomentOption = None) -> None:
    """Show what a segments file would change: how many users, who enters, who leaves.

    Evaluates the current definitions and those of the file for all stored profiles. Changes
    nothing.

    Example: `liveprofile segments preview segments.toml`
    """
    settings = call.settings
    then = read_definitions("segments", file, lambda: call.settings)
    time_ms = now_ms() if at is None else at
    now = read_kind(settings, "segments").definitions
    with call.session() as session:
        users, found = preview_segments(session, settings, now, then.segments, time_ms)
    call.print(
        {"users": users, "segments": [one._asdict() for one in found]},
        f"{users} users",
        table(None, found, "segment_id users_now users_then enter leave entering leaving"),
    )
