"""`liveprofile events rejected`: lists rejected records and sends corrected ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    SinceOption,
    format_utc,
    new_table,
    print_fields,
    print_json,
    print_tables,
    read_settings,
)
from cli.options import Commands
from liveprofile.errors import InputError

if TYPE_CHECKING:
    from liveprofile.ingest.rejected import RejectedRecord

rejected = Commands(
    name="rejected",
    help="List rejected records, show one, and send corrected ones.",
)

PAYLOAD_CHARS = 60


@rejected.command("list")
def list_records(
    reason: str | None = None,
    since: SinceOption = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 20,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List rejected records, newest first. docs/data-contract.md has the reasons.

    A record is in the topic again after a restart of the job: topic, partition and offset of the
    original record identify it.

    Example: `liveprofile events rejected list --reason BAD_NUMBER --since 2h --json`

    Options:
    reason REASON: Only of this reason.
    limit: Number of latest records.
    """
    from liveprofile.ingest.rejected import latest_records
    from liveprofile.kafka.offsets import ranges_since

    settings = read_settings(config)
    latest = latest_records(
        settings,
        ranges_since(settings, settings.topics.rejected, since),
        reason,
        limit,
        lambda fault: typer.echo(fault, err=True),
    )
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
    record_id: str,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show a rejected record with its payload. With --json, correct the payload and resend it.

    Example: `liveprofile events rejected show 0:17 --json`

    Options:
    record_id ID: Id of the record, as `rejected list` prints it.
    """
    from liveprofile.ingest.rejected import find_records, parse_id

    parse_id(record_id)
    (record,) = find_records(read_settings(config), [record_id])
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
    file: Path,
    dry_run: bool = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Send corrected records to the topic of the original ones, keyed by user; all or none.

    Headers record the position of the original: resent_topic, resent_partition, resent_offset and
    resent_reason. A record that would be rejected again, or dropped as a duplicate, is refused.
    Sending a record twice has no effect while its event_id is known (state.dedup_ttl_ms).

    Example: `liveprofile events rejected resend corrected.jsonl --dry-run`

    Options:
    file FILE: Corrected records: JSON lines with id and payload, as `rejected show --json` prints
        them; - for stdin.
    dry_run: Check the records without sending them.
    """
    from liveprofile.ingest.rejected import read_corrections
    from services import operations

    corrections = read_corrections(_read_text(file), str(file))
    settings = read_settings(config)
    records = operations.resend(None, settings, corrections, dry_run=dry_run)
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


def _position(record: RejectedRecord) -> str:
    return f"{record.topic}/{record.partition} offset {record.offset}"
