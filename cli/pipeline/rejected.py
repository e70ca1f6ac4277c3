"""`liveprofile rejected`: lists rejected records and sends corrected ones."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    format_utc,
    print_fields,
    print_json,
    read_settings,
)
from cli.tables import new_table, print_tables
from cli.times import SinceOption
from liveprofile.errors import InputError

if TYPE_CHECKING:
    from liveprofile.config import Settings
    from liveprofile.ingest.rejected import RejectedRecord

rejected = typer.Typer(
    name="rejected",
    no_args_is_help=True,
    help="List rejected records, show one, and send corrected ones.",
)

PAYLOAD_CHARS = 60


@rejected.command("list")
def list_records(
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="REASON", help="Only of this reason.")
    ] = None,
    since: SinceOption = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=100_000, help="Number of latest records.")
    ] = 20,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List rejected records, newest first. docs/data-contract.md has the reasons.

    A record is in the topic again after a restart of the job: topic, partition and offset of the
    original record identify it.

    Example: `liveprofile rejected list --reason BAD_NUMBER --since 2h --json`
    """
    settings = read_settings(config)
    latest = _latest(_read(settings, since), reason, limit)
    if json:
        print_json([record.as_dict() for record in latest])
        return
    table = new_table("id", "time", "reason", "detail", "original", "payload")
    for record in latest:
        text = record.as_dict()["payload"] or ""
        table.add_row(
            record.id,
            format_utc(record.rejected_at_ms),
            record.reason,
            record.detail,
            _position(record),
            text if len(text) <= PAYLOAD_CHARS else f"{text[:PAYLOAD_CHARS]}…",
        )
    if latest:
        print_tables(table)
    else:
        typer.echo("no rejected records", err=True)


@rejected.command()
def show(
    record_id: Annotated[
        str, typer.Argument(metavar="ID", help="Id of the record, as `rejected list` prints it.")
    ],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show a rejected record with its payload. With --json, correct the payload and resend it.

    Example: `liveprofile rejected show 0:17 --json`
    """
    from liveprofile.ingest.rejected import parse_id

    parse_id(record_id)
    (record,) = _find(read_settings(config), [record_id])
    if json:
        print_json(record.as_dict())
        return
    print_fields(
        {
            "id": record.id,
            "rejected at": format_utc(record.rejected_at_ms),
            "reason": f"{record.reason} {record.detail}".strip(),
            "original": _position(record),
            "event_id": "taken: a corrected event needs another" if record.claimed else "free",
            "payload": record.as_dict()["payload"],
        }
    )
    if record.truncated:
        typer.echo("the payload is truncated; the original record has all of it", err=True)


@rejected.command()
def resend(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Corrected records: JSON lines with id and payload, as `rejected show --json`"
            " prints them; - for stdin.",
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the records without sending them.")
    ] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Send corrected records to the topic of the original ones, keyed by user; all or none.

    Headers record the position of the original: resent_topic, resent_partition, resent_offset and
    resent_reason. A record that would be rejected again, or dropped as a duplicate, is refused.
    Sending a record twice has no effect while its event_id is known (state.dedup_ttl_ms).

    Example: `liveprofile rejected resend corrected.jsonl --dry-run`
    """
    from liveprofile.ingest.rejected import correct, read_corrections
    from liveprofile.kafka.records import send_all

    corrections = read_corrections(_read_text(file), str(file))
    settings = read_settings(config)
    # An encoded record is corrected as JSON, which needs no decoder.
    instead = {settings.topics.encoded: settings.topics.events}
    corrected = [
        correct(record, corrections[record.id]) for record in _find(settings, list(corrections))
    ]
    records = [each._replace(topic=instead.get(each.topic, each.topic)) for each in corrected]
    allowed = (settings.topics.events, settings.topics.feedback)
    if others := {record.topic for record in records} - set(allowed):
        raise InputError(f"topic {min(others)} is not of this job ({', '.join(allowed)})")
    for topic in () if dry_run else allowed:
        own = [(each.key, each.value, each.headers) for each in records if each.topic == topic]
        if own:
            send_all(settings, topic, own)
    if json:
        print_json({"records": len(records), "sent": not dry_run})
    else:
        typer.echo(f"{len(records)} records {'are valid' if dry_run else 'sent'}")


def _read_text(file: Path) -> str:
    if str(file) == "-":
        return sys.stdin.read()
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: {error}") from None


def _read(settings: Settings, since_ms: int | None) -> Iterator[RejectedRecord]:
    from liveprofile.ingest.rejected import parse_record
    from liveprofile.kafka.offsets import ranges_since
    from liveprofile.kafka.records import read_topic

    topic = settings.topics.rejected
    for record in read_topic(settings, topic, ranges_since(settings, topic, since_ms)):
        try:
            yield parse_record(record)
        except InputError as error:
            typer.echo(str(error), err=True)


def _latest(
    records: Iterable[RejectedRecord], reason: str | None, limit: int
) -> list[RejectedRecord]:
    """The newest records, without holding more of them in memory."""
    wanted = (record for record in records if reason in (None, record.reason))
    return heapq.nlargest(limit, wanted, key=lambda record: (record.rejected_at_ms, record.offset))


def _find(settings: Settings, ids: list[str]) -> list[RejectedRecord]:
    """The records with these ids. Raises InputError for one that does not exist or has expired."""
    from liveprofile.ingest.rejected import parse_id, parse_record
    from liveprofile.kafka.offsets import partition_ranges
    from liveprofile.kafka.records import read_topic
    from liveprofile.kafka.topics import PartitionRange

    topic, found = settings.topics.rejected, []
    present = partition_ranges(settings, topic)
    for record_id in ids:
        partition, offset = parse_id(record_id)
        span = present.get(partition, PartitionRange(0, 0))
        if not span.first <= offset < span.end:
            raise InputError(f"no rejected record {record_id}: it does not exist or has expired")
        wanted = {partition: PartitionRange(offset, offset + 1)}
        found += [parse_record(record) for record in read_topic(settings, topic, wanted)]
    return found


def _position(record: RejectedRecord) -> str:
    return f"{record.topic}/{record.partition} offset {record.offset}"
