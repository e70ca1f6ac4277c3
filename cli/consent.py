"""`liveprofile privacy consent`: what users have allowed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import orjson
import typer
from typer.models import OptionInfo

from cli.common import Call, UserArgument, table
from cli.options import Commands
from cli.progress import progress
from liveprofile.consent.changes import (
    ConsentChange,
    change_json,
    read_change,
)
from liveprofile.errors import InputError
from liveprofile.kafka.offsets import partition_ranges
from liveprofile.settings import Settings
from liveprofile.storage.cql import now_ms
from liveprofile.wire.user_records import to_rfc3339
from services.privacy.consents import ConsentState, change_consents, consents
from services.privacy.withdrawals import LOOK_BACK_DAYS, forbidden_rows


def backwards(
    call: Call,
    users: Annotated[list[str] | None, typer.Argument()] = None,
    delete: bool = False,
    days: Annotated[int, typer.Option(min=0)] = LOOK_BACK_DAYS,
) -> None:
    """Find rows that consents forbid, because a change came after they were stored.

    --delete rejects their events with NO_CONSENT, so that the audit accounts for them, and deletes
    the rows. Rows older than --days stay until they expire. Exit code 1: rows were found, and are
    not deleted.

    Example: `liveprofile privacy consent backwards 42 --delete`

    Options:
    users USER...: User ids. Default: all with a change.
    delete: Delete what is found.
    days: Age up to which rows are looked at.
    """
    with call.session() as session, progress() as show:
        found = forbidden_rows(call.settings, session, users, days, delete=delete, progress=show)
    for user, rows in found.items():
        counts = dict(Counter(row.table for row in rows))
        call.print({"user_id": user, "rows": counts, "deleted": delete})
    if not found and not call.json:
        typer.echo("consents forbid no stored row")
    if found and not delete:
        raise typer.Exit(1)


consent = Commands(
    name="consent",
    help="What a user has allowed, by purpose (docs/privacy.md)."
    "\n\nExample: `liveprofile privacy consent set 42 --withdraw marketing`",
)


def _purposes(name: str, verb: str) -> OptionInfo:
    return typer.Option(name, metavar="PURPOSE", help=f"{verb} this purpose; may be repeated.")


@consent.command(name="set")
def set_consent(
    call: Call,
    user: Annotated[str | None, typer.Argument()] = None,
    grant: Annotated[list[str] | None, _purposes("--grant", "Allow")] = None,
    withdraw: Annotated[list[str] | None, _purposes("--withdraw", "No longer allow")] = None,
    basis: str = "",
    text_version: str = "",
    at: Annotated[str | None, typer.Option("--time")] = None,
    file: Path | None = None,
) -> None:
    """Grant or withdraw purposes: profiling, recommendation, marketing, risk, training.

    It is stored first, then sent to the topic that the job reads. After a failure repeat it with
    the same --time: repeating changes nothing.

    Example: `liveprofile privacy consent set 42 --grant profiling --withdraw marketing`

    Options:
    user USER: User id.
    basis: Legal basis, such as consent or contract.
    text_version: Version of the text that the user has read.
    at TIME: From when on it counts: epoch milliseconds or ISO 8601 with an offset. Default: now.
    file FILE: Changes of many users: JSON lines with user_id, purpose, granted, time and, if known,
        basis and text_version.
    """
    if (user is None) == (file is None):
        raise InputError("give either USER or --file")
    if file is not None and (grant or withdraw or basis or text_version or at):
        raise InputError("--file holds all values: give no other option with it")
    settings = call.settings
    if file is None:
        granted = dict.fromkeys(grant or (), True) | dict.fromkeys(withdraw or (), False)
        if not granted:
            raise InputError("give --grant or --withdraw")
        if both := set(grant or ()) & set(withdraw or ()):
            raise InputError(f"{min(both)}: --grant or --withdraw, not both")
        since = int(at) if at and at.isascii() and at.isdigit() else at
        fields = {"time": now_ms() if since is None else since, "basis": basis}
        fields |= {"text_version": text_version}
        changes = [
            _checked(settings, user or "", read_change(fields | {"purpose": name, "granted": yes}))
            for name, yes in granted.items()
        ]
    else:
        changes = list(_changes_of_file(settings, file))

    partition_ranges(settings, settings.topics.consents)  # a missing topic stores nothing
    with call.session() as session:
        count = change_consents(session, settings, changes)
    users = len({user_id for user_id, _ in changes})
    call.print({"changes": count, "users": users})


@consent.command()
def show(call: Call, user: UserArgument) -> None:
    """Show what a user allows now, purpose by purpose.

    Example: `liveprofile privacy consent show 42`
    """
    rows = _stored(call, user).purposes(now_ms())
    shown = [{"purpose": purpose} | row for purpose, row in rows.items()]
    columns = "purpose allowed since_ms basis text_version"
    call.print(rows, table(f"Consents of user {user}", shown, columns))


@consent.command()
def history(call: Call, user: UserArgument) -> None:
    """Show a user's newest 200 changes, newest first. Exit code 1 if there is none.

    Example: `liveprofile privacy consent history 42 --json`
    """
    changes = [change_json(each) for each in _stored(call, user).changes]
    columns = "time purpose granted basis text_version"
    call.rows(changes, columns, missing=f"user {user!r} has changed no consent")


consent.command()(backwards)


def _changes_of_file(settings: Settings, file: Path) -> Iterator[tuple[str, ConsentChange]]:
    """Raises InputError with the line of the first error: then nothing is stored."""
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    fields = orjson.loads(line)
                    user_id = fields.pop("user_id", None)
                    if not isinstance(user_id, str):
                        raise InputError(f"user_id {user_id!r}: must be a text")
                    yield _checked(settings, user_id, read_change(fields))
                except (orjson.JSONDecodeError, AttributeError) as error:
                    raise InputError(f"{file} line {number}: no JSON object: {error}") from None
                except InputError as error:
                    raise InputError(f"{file} line {number}: {error}") from None
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None


def _checked(settings: Settings, user: str, change: ConsentChange) -> tuple[str, ConsentChange]:
    """Raises InputError."""
    if not user.strip() or len(user) > 256:
        raise InputError(f"user id {user!r:.40}: must have 1 to 256 characters")
    if change.time_ms > now_ms() + settings.limits.max_clock_skew_ms:
        raise InputError(f"time {to_rfc3339(change.time_ms)} is in the future")
    return user, change


def _stored(call: Call, user: str) -> ConsentState:
    with call.session() as session:
        return consents(session, call.settings, user)
