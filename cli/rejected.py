"""`liveprofile events rejected`: lists rejected records."""

from typing import Annotated

import typer

from cli.common import Call, SinceOption
from cli.options import Commands
from intake.files.rejected import find_record, latest_records
from liveprofile.kafka.offsets import ranges_since

rejected = Commands(name="rejected", help="List rejected records, and show one.")


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
    """Show a rejected record with its payload.

    Send a corrected event with `events replay`, a label with `risk feedback`.

    Example: `liveprofile events rejected show 0:17 --json`

    Options:
    record_id ID: Id of the record, as `rejected list` prints it.
    """
    call.print(find_record(call.settings, record_id).as_dict())
