"""`liveprofile segments`: checks, applies, lists and previews segment definitions."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import AtOption, ByOption, Call, end_without_result, format_utc, table
from cli.definitions import apply_file, check_file, print_in_force
from cli.options import Commands
from cli.progress import progress
from liveprofile.attributes.table import AttributeTable
from liveprofile.segments.definitions import SegmentSet
from liveprofile.segments.evaluation import preview as evaluate_both
from liveprofile.segments.members import look_alikes
from liveprofile.segments.members import members as stored_members
from liveprofile.segments.members import sizes as stored_sizes
from liveprofile.segments.stored_profiles import scan_profiles, with_attributes
from liveprofile.settings import Settings
from liveprofile.storage.cql import now_ms
from liveprofile.storage.queries import TOKEN_MAX, TOKEN_MIN
from services.definitions import read_definitions, read_kind

if TYPE_CHECKING:
    from offline.sweep_store import SweepState

segments = Commands()

SegmentArgument = Annotated[str, typer.Argument(metavar="SEGMENT", help="Segment id.")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Segments file (TOML).")]


@segments.command()
def check(call: Call, file: FileArgument) -> None:
    """Check a segments file without connecting to Kafka. Exit code 2 if it has errors.

    Each error is one line. With --json an error has file, line, segment, key, column (in a
    condition) and reason.

    Example: `liveprofile segments check segments.toml`
    """
    check_file(
        call,
        file,
        "segments",
        lambda path: read_definitions("segments", path, lambda: call.settings),
    )


@segments.command()
def apply(call: Call, file: FileArgument, dry_run: bool = False, by: ByOption = "unknown") -> None:
    """Apply a segments file: running jobs use it within seconds.

    A changed definition is written to the topic segment-definitions with the next version; a
    definition that the file lacks is removed from the topic. If the file has an error, nothing is
    written. From then on jobs use the definitions of the topic instead of the file in their
    settings. The records are signed if the setting rules_signing_key is set.

    Example: `liveprofile segments apply segments.toml --by anna`

    Options:
    dry_run: Print the changes without applying them.
    """
    found = read_definitions("segments", file, lambda: call.settings)
    apply_file(call, "segments", found.segments, file, dry_run, by)


@segments.command(name="list")
def list_segments(call: Call) -> None:
    """List the current segments: those of the topic, or of the file while the topic has none.

    Example: `liveprofile segments list --json`
    """
    source, found = current_segments(call.settings)
    print_in_force(call, source, found, "segments")


@segments.command()
def sizes(call: Call, limit: Annotated[int, typer.Option(min=1, max=1_000)] = 5) -> None:
    """Show the size of each segment at the latest sweeps, and its overlaps with others.

    Example: `liveprofile segments sizes --limit 30`

    Options:
    limit: Sweeps per segment.
    """
    _, found = current_segments(call.settings)
    with call.session() as session:
        listed = {
            segment.id: stored_sizes(session, segment.id, limit) for segment in found.segments
        }
    shown = []
    for name, rows in listed.items():
        shown.append(name if rows else f"{name}: no sweep yet (`liveprofile segments sweep`)")
        for size in rows:
            share = size.members / size.users if size.users else 0.0
            shown.append(f"  {format_utc(size.time_ms)}  {size.members:>9}  {share:>6.1%} of users")
        overlaps = rows[0].overlaps if rows else {}
        shown += [
            f"  {count:>9} of them are in {other}"
            for other, count in sorted(overlaps.items(), key=lambda pair: -pair[1])
            if count
        ]
    call.print({name: [each._asdict() for each in rows] for name, rows in listed.items()}, *shown)


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
    if found or call.json:
        lines = (f"{format_utc(member.since_ms)}  {member.user_id}" for member in found)
        call.print([member._asdict() for member in found], *lines)
    if not found:
        end_without_result(f"segment {segment!r} has no members")


@segments.command()
def expand(
    call: Call,
    segment: SegmentArgument,
    count: Annotated[int, typer.Option(min=1, max=1_000)] = 100,
) -> None:
    """Find users outside a segment who resemble its members, best first.

    Exit code 1 if there are none.

    Example: `liveprofile segments expand big_spender --count 500`

    Options:
    count: Number of users to find.
    """
    with call.session() as session:
        found = look_alikes(session, segment, count)
    if found or call.json:
        lines = (f"{user.cosine:.3f}  {user.user_id}" for user in found)
        call.print([user._asdict() for user in found], *lines)
    if not found:
        end_without_result(f"nobody resembles the members of segment {segment!r}")


@segments.command()
def sweep(call: Call, at: AtOption = None) -> None:
    """Evaluate the segments of all users now, beside the running job.

    Users leave and enter by the passage of time, and new or changed definitions apply to all users
    at once. Changes are stored and sent like those of the job. A sweep that was killed is
    continued, at its own time. Run it after `segments apply`, and at least daily.

    Example: `liveprofile segments sweep`

    Options:
    at TIME: Evaluate at this time (UTC) instead of now, such as 2026-11-26T01:00, epoch
        milliseconds, or 2h ago. For replayed events.
    """
    from offline.sweep import run_sweep

    time_ms = now_ms() if at is None else at
    settings = call.settings
    entered = left = 0
    with call.session() as session, progress() as on_progress:

        def on_page(state: SweepState) -> None:
            percent = 100 * (state.position - TOKEN_MIN) // (TOKEN_MAX - TOKEN_MIN)
            on_progress("sweep, % of all users", percent, 100)

        while True:
            _, found = current_segments(settings)
            result = run_sweep(settings, session, found, time_ms, on_page=on_page)
            entered, left = entered + result.entered, left + result.left
            if current_segments(settings)[1].version == result.state.version:
                break
            typer.echo("the definitions have changed since the sweep began: once more", err=True)
    users, at_ms = result.counts.users, result.state.time_ms
    seconds = round(result.seconds, 1)
    call.print(
        {"users": users, "entered": entered, "left": left, "at_ms": at_ms, "seconds": seconds},
        f"{users} users at {format_utc(at_ms)}: {entered} entered, {left} left"
        f" ({result.seconds:.0f} s)",
    )


@segments.command()
def preview(call: Call, file: FileArgument, at: AtOption = None) -> None:
    """Show what a segments file would change: how many users, who enters, who leaves.

    Evaluates the current definitions and those of the file for all stored profiles. Changes
    nothing.

    Example: `liveprofile segments preview segments.toml`

    Options:
    at TIME: Evaluate at this time (UTC) instead of now, such as 2026-11-26T01:00, epoch
        milliseconds, or 2h ago. For replayed events.
    """
    settings = call.settings
    then = read_definitions("segments", file, lambda: call.settings)
    time_ms = now_ms() if at is None else at
    _, now = current_segments(settings)
    with call.session() as session:
        pages = scan_profiles(session)
        if now.reads_attributes or then.reads_attributes:
            pages = with_attributes(pages, AttributeTable(session, settings.cassandra))
        users, found = evaluate_both(pages, now, then, time_ms, settings.state.decay_days)
    columns = {
        "segment": "{.segment_id}",
        ">now": "{.users_now}",
        ">then": "{.users_then}",
        ">enter": "{.enter}",
        ">leave": "{.leave}",
    }
    moved = [
        f"{one.segment_id}, users who {what}: {', '.join(user_ids)}"
        for one in found
        for what, user_ids in (("enter", one.entering), ("leave", one.leaving))
        if user_ids
    ]
    call.print(
        {"users": users, "segments": [one._asdict() for one in found]},
        f"{users} users",
        table(None, found, columns),
        *moved,
    )


def current_segments(settings: Settings) -> tuple[str, SegmentSet]:
    """Returns the source of the definitions that jobs use, and their set.

    Raises ServiceError and SegmentsError.
    """
    source, found, _ = read_kind(settings, "segments")
    return source, found
