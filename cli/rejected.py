"""`liveprofile events rejected`: lists rejected records and sends corrected ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.common import Call, SinceOption
from cli.options import Commands
from liveprofile.errors import InputError
from liveprofile.ingest.rejected import (
    find_records,
    latest_records,
    parse_id,
    read_corrections,
)
from liveprofile.kafka.offsets import ranges_since
from services import operations

rejected = Commands(
    name="rejected", help="List rejected records, show one, and send corrected ones."
)


@rejected.command("list")
def list_records(
    call: Call,
    reason: str | None = None,
    since: SinceOption = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 20,
) -> None:
    """List rejected records, newest first. docs/data-contract.md has the reasons.

    A record is in the topic again after a restart of the job: topic, partition and offset of the
    original record identify it.

    Example: `liveprofile events rejected list --reason BAD_NUMBER --since 2h --json`

    Options:
    reason REASON: Only of this reason.
    limit: Number of latest records.
    """
    settings = call.settings
    latest = latest_records(
        settings,
        ranges_since(settings, settings.topics.rejected, since),
        reason,
        limit,
        lambda fault: typer.echo(fault, err=True),
    )
    columns = "id rejected_at_ms reason detail topic partition offset payload"
    call.rows([each.as_dict() for each in latest], columns, empty="no rejected records")


@rejected.command()
def show(call: Call, record_id: str) -> None:
    """Show a rejected record with its payload. With --json, correct the payload and resend it.

    Example: `liveprofile events rejected show 0:17 --json`

    Options:
    record_id ID: Id of the record, as `rejected list` prints it.
    """
    parse_id(record_id)
    (record,) = find_records(call.settings, [record_id])
    call.print(record.as_dict())


@rejected.command()
def resend(call: Call, file: Path, dry_run: bool = False) -> None:
    """Send corrected records to the topic of the original ones, keyed by user; all or none.

    A record that would be rejected again, or dropped as a duplicate, is refused. Sending a record
    twice has no effect while its event_id is known (state.dedup_ttl_ms).

    Example: `liveprofile events rejected resend corrected.jsonl --dry-run`

    Options:
    file FILE: Corrected records: JSON lines with id and payload, as `rejected show --json` prints
        them; - for stdin.
    dry_run: Check the records without sending them.
    """
    corrections = read_corrections(_read_text(file), str(file))
    records = operations.resend(call.settings, corrections, dry_run=dry_run)
    call.print({"records": len(records), "sent": not dry_run})


def _read_text(file: Path) -> str:
    if str(file) == "-":
        return sys.stdin.read()
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: {error}") from None
