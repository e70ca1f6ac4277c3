"""`liveprofile erase`: delete a person's rows."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from cli.common import ConfigOption, JsonOption, print_json, read_settings
from liveprofile.errors import InputError

SETTLE_S = 2.0  # until the workers know of an erasure


def erase(
    users: Annotated[
        list[str] | None, typer.Argument(metavar="USER...", help="User ids.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="User ids, one a line.")
    ] = None,
    proof: Annotated[
        Path | None,
        typer.Option("--proof", metavar="FILE", help="New file: a signed line for each user."),
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Make the job forget users, and delete all of their rows from Cassandra.

    The erasure goes to Kafka first: from then on the job neither scores nor stores what is older,
    whatever is replayed, and later events start from nothing. The state of the job, topics,
    training rows, logs and backups end later (docs/privacy.md). Exit code 1: rows are left, because
    events keep arriving or the present hour is not over. Repeat it then, and after a failure.

    Example: `liveprofile erase 42 43 --proof erased.jsonl`
    """
    from liveprofile.kafka.offsets import partition_ranges
    from liveprofile.kafka.records import send_all
    from liveprofile.privacy.erase import erase_user
    from liveprofile.privacy.erasure_proof import proof_line
    from liveprofile.privacy.erasure_records import CONTENT_TYPE, key_of, to_record
    from liveprofile.storage.connection import open_session

    ids = _user_ids(users or [], file)
    settings = read_settings(config)
    secret = settings.rules_signing_key
    if proof is not None and secret is None:
        raise InputError("--proof needs the setting rules_signing_key, which signs it")
    reports: list[dict[str, Any]] = []
    with (
        _new_file(proof) as out,
        open_session(settings.cassandra) as session,
    ):
        partition_ranges(settings, settings.topics.erasures)  # a missing topic erases nothing
        before_ms = round(time.time() * 1_000)
        records = ((key_of(user), to_record(user, before_ms), CONTENT_TYPE) for user in ids)
        send_all(settings, settings.topics.erasures, records)
        # What workers store until they know of it is deleted below.
        time.sleep(SETTLE_S)
        for user in ids:
            done = erase_user(session, user, settings.cassandra.in_flight)
            reports.append({"user_id": user, "rows": done.rows, "pending": done.pending})
            if out is not None and secret is not None:
                at_ms, keyspace = round(time.time() * 1_000), settings.cassandra.keyspace
                out.write(proof_line(secret.get_secret_value(), user, keyspace, at_ms, done))
                out.flush()  # what is done is proven, also if the next user fails
    for report in reports:
        _print(report, json)
    if any(report["pending"] for report in reports):
        raise typer.Exit(1)


@contextmanager
def _new_file(path: Path | None) -> Iterator[IO[bytes] | None]:
    """A new file that only its owner can read; none is left if nothing was written.

    Raises InputError.
    """
    if path is None:
        yield None
        return
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as error:
        raise InputError(f"--proof {path}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
    finally:
        if not path.stat().st_size:
            path.unlink()


def _print(report: dict[str, Any], json: bool) -> None:
    if json:
        print_json(report)
        return
    rows, pending = report["rows"], report["pending"]
    text = f"{sum(rows.values())} rows of {len(rows)} tables deleted"
    if pending:
        left = ", ".join(f"{name} {count}" for name, count in pending.items())
        text += f"; left: {left}: repeat it when the hour is over and no events arrive"
    typer.echo(f"{report['user_id']}: {text}")


def _user_ids(users: list[str], file: Path | None) -> list[str]:
    """Raises InputError."""
    ids = list(users)
    if file is not None:
        try:
            ids += file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--file {file}: {getattr(error, 'strerror', error)}") from None
    ids = list(dict.fromkeys(each for each in ids if each.strip()))
    if not ids:
        raise InputError("give USER or --file")
    return ids
