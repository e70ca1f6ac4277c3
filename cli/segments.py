"""`liveprofile segments`: checks, applies, lists and previews segment definitions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    format_utc,
    parse_since_ms,
    print_json,
    read_settings,
)
from cli.definitions import (
    ByOption,
    DryRunOption,
    apply_file,
    check_file,
    print_in_force,
    read_with_attributes,
)
from cli.options import Commands

if TYPE_CHECKING:
    from liveprofile.segments.definitions import SegmentSet
    from liveprofile.settings import Settings
    from offline.sweep_store import SweepState

segments = Commands(
    name="segments",
    help="Check, preview and apply segment definitions, list the current ones. docs/segments.md"
    " describes the format.",
)

SegmentArgument = Annotated[str, typer.Argument(metavar="SEGMENT", help="Segment id.")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Segments file (TOML).")]


def _parse_at_ms(text: str) -> int:
    return parse_since_ms(text, "--at")


AtOption = Annotated[
    int | None,
    typer.Option(
        "--at",
        metavar="TIME",
        parser=_parse_at_ms,
        show_default=False,
        help="Evaluate at this time (UTC) instead of now, such as 2026-11-26T01:00, epoch"
        " milliseconds, or 2h ago. For replayed events.",
    ),
]


@segments.command()
def check(file: FileArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Check a segments file without connecting to Kafka. Exit code 2 if it has errors.

    Each error is one line. With --json an error has file, line, segment, key, column (in a
    condition) and reason.

    Example: `liveprofile segments check segments.toml`
    """
    from liveprofile.segments.definitions import read_segments

    read = read_with_attributes(read_segments, "segment", lambda: read_settings(config))
    check_file(file, "segment", read, json)


@segments.command()
def apply(
    file: FileArgument,
    dry_run: DryRunOption = False,
    by: ByOption = "unknown",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Apply a segments file: running jobs use it within seconds.

    A changed definition is written to the topic segment-definitions with the next version; a
    definition that the file lacks is removed from the topic. If the file has an error, nothing is
    written. From then on jobs use the definitions of the topic instead of the file in their
    settings. The records are signed if the setting rules_signing_key is set.

    Example: `liveprofile segments apply segments.toml --by anna`
    """
    from liveprofile.segments.definitions import read_segments

    settings = read_settings(config)
    found = read_with_attributes(read_segments, "segment", lambda: settings)(file)
    apply_file(
        settings,
        "segment",
        found.segments,
        file,
        dry_run=dry_run,
        by=by,
        json=json,
    )


@segments.command(name="list")
def list_segments(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List the current segments: those of the topic, or of the file while the topic has none.

    Example: `liveprofile segments list --json`
    """
    source, found = current_segments(read_settings(config))
    print_in_force(source, found, "segment", json)


@segments.command()
def sizes(
    limit: Annotated[int, typer.Option(min=1, max=1_000)] = 5,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show the size of each segment at the latest sweeps, and its overlaps with others.

    Example: `liveprofile segments sizes --limit 30`

    Options:
    limit: Sweeps per segment.
    """
    from liveprofile.segments.members import sizes as stored_sizes
    from liveprofile.storage.connection import open_session

    settings = read_settings(config)
    _, found = current_segments(settings)
    with open_session(settings.cassandra) as session:
        listed = {
            segment.id: stored_sizes(session, segment.id, limit) for segment in found.segments
        }
    if json:
        print_json({name: [size._asdict() for size in rows] for name, rows in listed.items()})
        return
    for name, rows in listed.items():
        typer.echo(name if rows else f"{name}: no sweep yet (`liveprofile segments sweep`)")
        for size in rows:
            share = size.members / size.users if size.users else 0.0
            typer.echo(f"  {format_utc(size.time_ms)}  {size.members:>9}  {share:>6.1%} of users")
        overlaps = rows[0].overlaps if rows else {}
        for other, count in sorted(overlaps.items(), key=lambda pair: -pair[1]):
            if count:
                typer.echo(f"  {count:>9} of them are in {other}")


@segments.command()
def members(
    segment: SegmentArgument,
    limit: Annotated[int, typer.Option(min=1)] = 100,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List members of a segment with the time since when. Exit code 1 if there are none.

    Example: `liveprofile segments members loyal --limit 1000 --json`

    Options:
    limit: Maximum number of users.
    """
    from itertools import islice

    from liveprofile.segments.members import members as stored_members
    from liveprofile.storage.connection import open_session

    settings = read_settings(config)
    with open_session(settings.cassandra) as session:
        found = list(islice(stored_members(session, segment), limit))
    if json:
        print_json([member._asdict() for member in found])
    else:
        for member in found:
            typer.echo(f"{format_utc(member.since_ms)}  {member.user_id}")
    if not found:
        typer.echo(f"liveprofile: segment {segment!r} has no members", err=True)
        raise typer.Exit(1)


@segments.command()
def expand(
    segment: SegmentArgument,
    count: Annotated[int, typer.Option(min=1, max=1_000)] = 100,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Find users outside a segment who resemble its members, best first.

    Exit code 1 if there are none.

    Example: `liveprofile segments expand big_spender --count 500`

    Options:
    count: Number of users to find.
    """
    from liveprofile.segments.members import look_alikes
    from liveprofile.storage.connection import open_session

    settings = read_settings(config)
    with open_session(settings.cassandra) as session:
        found = look_alikes(session, segment, count)
    if json:
        print_json([user._asdict() for user in found])
    else:
        for user in found:
            typer.echo(f"{user.cosine:.3f}  {user.user_id}")
    if not found:
        typer.echo(f"liveprofile: nobody resembles the members of segment {segment!r}", err=True)
        raise typer.Exit(1)


@segments.command()
def sweep(at: AtOption = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Evaluate the segments of all users now, beside the running job.

    Users leave and enter by the passage of time, and new or changed definitions apply to all users
    at once. Changes are stored and sent like those of the job. A sweep that was killed is
    continued, at its own time. Run it after `segments apply`, and at least daily.

    Example: `liveprofile segments sweep`
    """
    from cli.progress import progress
    from liveprofile.storage.connection import open_session
    from liveprofile.storage.cql import now_ms
    from liveprofile.storage.queries import TOKEN_MAX, TOKEN_MIN
    from offline.sweep import run_sweep

    time_ms = now_ms() if at is None else at
    settings = read_settings(config)
    entered = left = 0
    with open_session(settings.cassandra) as session, progress() as on_progress:

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
    if json:
        fields = {"users": result.counts.users, "entered": entered, "left": left}
        print_json(fields | {"at_ms": result.state.time_ms, "seconds": round(result.seconds, 1)})
        return
    typer.echo(
        f"{result.counts.users} users at {format_utc(result.state.time_ms)}:"
        f" {entered} entered, {left} left ({result.seconds:.0f} s)"
    )


@segments.command()
def preview(
    file: FileArgument,
    at: AtOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a segments file would change: how many users, who enters, who leaves.

    Evaluates the current definitions and those of the file for all stored profiles. Changes
    nothing.

    Example: `liveprofile segments preview segments.toml`
    """
    from liveprofile.attributes.table import AttributeTable
    from liveprofile.segments.definitions import read_segments
    from liveprofile.segments.preview import preview as evaluate_both
    from liveprofile.segments.stored_profiles import scan_profiles, with_attributes
    from liveprofile.storage.connection import open_session
    from liveprofile.storage.cql import now_ms

    settings = read_settings(config)
    then = read_with_attributes(read_segments, "segment", lambda: settings)(file)
    time_ms = now_ms() if at is None else at
    _, now = current_segments(settings)
    with open_session(settings.cassandra) as session:
        pages = scan_profiles(session)
        if now.reads_attributes or then.reads_attributes:
            pages = with_attributes(pages, AttributeTable(session, settings.cassandra))
        users, found = evaluate_both(pages, now, then, time_ms, settings.state.decay_days)
    if json:
        print_json({"users": users, "segments": [one._asdict() for one in found]})
        return
    typer.echo(f"{users} users")
    width = max((len(one.segment_id) for one in found), default=7)
    typer.echo(f"{'segment':<{width}}  {'now':>9}  {'then':>9}  {'enter':>9}  {'leave':>9}")
    for one in found:
        typer.echo(
            f"{one.segment_id:<{width}}  {one.users_now:>9}  {one.users_then:>9}"
            f"  {one.enter:>9}  {one.leave:>9}"
        )
    for one in found:
        for what, user_ids in (("enter", one.entering), ("leave", one.leaving)):
            if user_ids:
                typer.echo(f"{one.segment_id}, users who {what}: {', '.join(user_ids)}")


def current_segments(settings: Settings) -> tuple[str, SegmentSet]:
    """Returns the source of the definitions that jobs use, and their set.

    Raises ServiceError and SegmentsError.
    """
    from services.definitions import read_kind

    source, found, _ = read_kind(settings, "segments")
    return source, found
