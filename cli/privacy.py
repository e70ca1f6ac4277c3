"""`liveprofile privacy`: erasure, export, and where data is kept."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    UserArgument,
    format_utc,
    print_fields,
    print_json,
    print_table,
    read_settings,
    read_user_ids,
)
from cli.progress import progress
from liveprofile.errors import InputError
from liveprofile.wire.tokens import ID_CHARS

if TYPE_CHECKING:
    from cassandra.cluster import Session

    from liveprofile.privacy.trained_users import TrainedCheckpoint
    from liveprofile.settings import Settings


def list_checkpoints(settings: Settings, folder: Path, json: bool) -> None:
    """Prints the model checkpoints of a folder; exits with 1 unless all are clean."""
    from liveprofile.feeds.users import read_erasures
    from liveprofile.privacy.trained_users import FALSE_POSITIVE_RATE, find_checkpoints

    if not folder.is_dir():
        raise InputError(f"--checkpoints {folder}: no folder")
    erased = read_erasures(settings).users()
    found = list(find_checkpoints(folder, sorted(erased)))
    if json:
        for each in found:
            filters = each.trained.filters if each.trained else ()
            print_json(
                {
                    "checkpoint": str(each.folder),
                    "version": each.version,
                    "trained_users": each.trained and each.trained.users,
                    "erased_users": None if each.trained is None else each.erased,
                    "expected_false": len(erased) * len(filters) * FALSE_POSITIVE_RATE,
                }
            )
    else:
        print_table(
            f"{len(erased)} erased users",
            ("checkpoint", "version", "users", "erased", ""),
            table_rows(found),
        )
    if not all(each.is_clean for each in found):
        raise typer.Exit(1)


def table_rows(found: Iterable[TrainedCheckpoint]) -> list[tuple[str, ...]]:
    """A row for each checkpoint."""
    return [
        (
            str(each.folder),
            each.version,
            str(each.trained.users) if each.trained else "unknown",
            str(len(each.erased)) if each.trained else "unknown",
            "" if each.is_clean else "train it again: liveprofile model train --without-erased",
        )
        for each in found
    ]


PART_USERS = 500  # tables without a key of the user are read once or twice for so many


SETTLE_S = 2.0  # until the workers know of an erasure


def erase(
    users: Annotated[list[str] | None, typer.Argument()] = None,
    file: Path | None = None,
    pending: bool = False,
    status: bool = False,
    rows: Path | None = None,
    checkpoints: Path | None = None,
    proof: Path | None = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Make the job forget users, and delete all of their rows from Cassandra.

    The erasure goes to Kafka first: from then on the job neither scores nor stores what is older,
    whatever is replayed, and later events start from nothing. All ids of a person are erased
    (`liveprofile identity merge`). The state of the job, topics,
    training rows, logs and backups end later (--status, docs/privacy.md). After a kill or a failure
    run --pending. Exit code 1: rows are left, because the present hour is not over or the command
    was not run to its end; for --status, an erasure is not done in the tables; for --checkpoints,
    a model was trained on an erased user, or its users are unknown.

    Example: `liveprofile privacy erase 42 43 --proof erased.jsonl`,
    `liveprofile privacy erase --file users.txt`, `liveprofile privacy erase --pending` or
    `liveprofile privacy erase 42 --status`

    Options:
    users USER...: User ids.
    file FILE: User ids, one a line.
    pending: Go on with all erasures whose rows are not deleted yet.
    status: Erase nothing: show when each place is clear.
    rows FOLDER: Take all erased users out of the training rows of `backfill` in FOLDER.
    checkpoints FOLDER: Erase nothing: list the model checkpoints in FOLDER and below, with the
        erased users that each was trained on.
    proof FILE: New file: a signed line for each user.
    """
    ids = _user_ids(users or [], file)
    if pending and (ids or status):
        raise InputError("--pending is about all erasures: give no user and no --status with it")
    if status and proof is not None:
        raise InputError("--status erases nothing: give no --proof with it")
    if rows is not None and (ids or pending or status or proof):
        raise InputError("--rows is about all erasures: give nothing else with it")
    if checkpoints is not None and (ids or pending or status or rows or proof):
        raise InputError("--checkpoints is about all erasures: give nothing else with it")
    if not (ids or pending or status or rows or checkpoints):
        raise InputError("give USER, --file, --pending, --status, --rows or --checkpoints")
    settings = read_settings(config)
    if proof is not None and settings.rules_signing_key is None:
        raise InputError("--proof needs the setting rules_signing_key, which signs it")
    if status:
        _show_status(settings, ids, json)
        return
    if rows is not None:
        _erase_rows(settings, rows, json)
        return
    if checkpoints is not None:
        list_checkpoints(settings, checkpoints, json)
        return
    from liveprofile.storage.connection import open_session

    with _new_file(proof) as out, open_session(settings.cassandra) as session:
        todo = _pending(settings, session) if pending else _send(settings, ids)
        rows_left = False
        for report in _delete(settings, session, todo, out):
            _print(report, json)
            rows_left |= bool(report["pending"])
    if not todo and not json:
        typer.echo("no erasure is pending")
    if rows_left:
        raise typer.Exit(1)


def _send(settings: Settings, ids: list[str]) -> dict[str, int]:
    """Tells the workers; returns the time of each user's erasure. Raises ServiceError."""
    from liveprofile.feeds.users import read_merges
    from liveprofile.identity.forgotten import former_ids, of_persons
    from liveprofile.kafka.offsets import partition_ranges
    from liveprofile.kafka.records import send_all
    from liveprofile.privacy.erasures import to_record
    from liveprofile.wire.user_records import CONTENT_TYPE, key_of
    from services.privacy import forget_merges

    partition_ranges(settings, settings.topics.erasures)  # a missing topic erases nothing
    before_ms, book = round(time.time() * 1_000), read_merges(settings)
    ids = of_persons(book, ids)
    for other in former_ids(book, ids):
        typer.echo(
            f"{other} was merged with these users and split: its profile may have events of theirs,"
            " and is not erased",
            err=True,
        )
    records = ((key_of(user), to_record(user, before_ms), CONTENT_TYPE) for user in ids)
    send_all(settings, settings.topics.erasures, records)
    # Last: until then a repetition finds all ids of a person.
    forget_merges(settings, book, ids)
    time.sleep(SETTLE_S)
    return dict.fromkeys(ids, before_ms)


def _pending(settings: Settings, session: Session) -> dict[str, int]:
    """The users whose rows are not deleted yet. Raises ServiceError."""
    from liveprofile.feeds.users import read_erasures, read_merges
    from liveprofile.privacy.erasure_log import is_done, scan_deletions
    from services.privacy import erase_other_ids, forget_merges

    erased, deletions = read_erasures(settings).users(), scan_deletions(session)
    book = read_merges(settings)
    erased |= erase_other_ids(settings, book, erased)
    forget_merges(settings, book, erased)
    todo = {
        user: before_ms
        for user, before_ms in erased.items()
        if not is_done(deletions.get(user), before_ms)
    }
    if todo and max(todo.values()) > (time.time() - SETTLE_S) * 1_000:
        time.sleep(SETTLE_S)
    return todo


def _delete(
    settings: Settings, session: Session, todo: Mapping[str, int], out: IO[bytes] | None
) -> Iterator[dict[str, Any]]:
    """Deletes the rows of users; yields a report of each. Raises ServiceError."""
    from liveprofile.consent.store import ttl_s
    from liveprofile.privacy.erase import Cut, erase_users
    from liveprofile.privacy.erasure_log import Deletion, proof_line, write_deletion

    keep_s = ttl_s(settings.topics.decisions_retention_ms)
    secret = settings.rules_signing_key
    cuts = {user: Cut.of(user, before_ms, settings.window) for user, before_ms in todo.items()}
    remaining, number = iter(cuts.items()), 0
    with progress() as show:
        while part := dict(itertools.islice(remaining, PART_USERS)):
            for user, done in erase_users(session, part):
                now_ms, number = round(time.time() * 1_000), number + 1
                write_deletion(session, user, Deletion(todo[user], now_ms, done.pending), keep_s)
                if out is not None and secret is not None:
                    keyspace = settings.cassandra.keyspace
                    out.write(proof_line(secret.get_secret_value(), user, keyspace, now_ms, done))
                    out.flush()  # what is done is proven, also if the next user fails
                if len(todo) > 1:
                    show("erasing", number, len(todo))
                yield {"user_id": user, "rows": done.rows, "pending": done.pending}


def _erase_rows(settings: Settings, folder: Path, json: bool) -> None:
    """Rewrites training rows without the erased users."""
    from liveprofile.feeds.users import read_erasures
    from liveprofile.privacy.trained_users import erase_rows

    if not folder.is_dir():
        raise InputError(f"{folder}: no folder")
    found = list(erase_rows(folder, read_erasures(settings).users()))
    counts = {
        "files": len(found),
        "rewritten": sum(each.erased > 0 for each in found),
        "rows": sum(each.kept for each in found),
        "erased": sum(each.erased for each in found),
    }
    if json:
        print_json(counts)
    else:
        print_fields(counts)


def _show_status(settings: Settings, ids: list[str], json: bool) -> None:
    """Prints when each place is clear; without ids, whether the tables are, of every erasure."""
    from liveprofile.feeds.users import read_erasures
    from liveprofile.privacy.erasure_log import (
        is_done,
        place_statuses,
        read_deletions,
        scan_deletions,
    )
    from liveprofile.storage.connection import open_session

    erased, now_ms = read_erasures(settings).users(), round(time.time() * 1_000)
    if missing := [user for user in ids if user not in erased]:
        raise InputError(f"user {missing[0]!r} was never erased")
    with open_session(settings.cassandra) as session:
        deletions = read_deletions(session, ids) if ids else scan_deletions(session)
    shown = ids or sorted(erased, key=lambda user: (erased[user], user))
    not_done = [user for user in shown if not is_done(deletions.get(user), erased[user])]
    for user in shown:
        places = list(place_statuses(erased[user], deletions.get(user), settings, now_ms))
        if json:
            fields = {"user_id": user, "before_ms": erased[user], "done": user not in not_done}
            print_json(fields | {"places": [place._asdict() for place in places]})
        elif ids:
            print_table(
                f"{user}: everything before {format_utc(erased[user])}",
                ("place", "clear", "by", ""),
                [
                    (
                        each.place,
                        "yes" if each.done else "no",
                        "" if each.clear_ms is None else format_utc(each.clear_ms),
                        each.note,
                    )
                    for each in places
                ],
            )
    if not ids and not json:
        typer.echo(f"{len(shown)} users are erased; of {len(not_done)} rows are left")
    if not_done:
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
        text += f"; left: {left}: run `liveprofile privacy erase --pending` when the hour is over"
    typer.echo(f"{report['user_id']}: {text}")


def _user_ids(users: list[str], file: Path | None) -> list[str]:
    """The ids of arguments and file, without repetitions. Raises InputError."""
    ids = list(users)
    if file is not None:
        ids += read_user_ids(file, "--file")
    for user in ids:
        if len(user) > ID_CHARS:
            raise InputError(f"user {user[:40]!r}...: an id has at most {ID_CHARS} characters")
    return list(dict.fromkeys(each for each in ids if each.strip()))


def export(
    user: UserArgument,
    out: Annotated[Path, typer.Option()],
    topics: bool = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Write all that is stored about a user to one JSON file, which only its owner can read.

    Each row has its table, its write time and its expiry. The file is about all ids of the person
    (`liveprofile identity merge`). Exit code 1, and no file, if nothing is stored.

    Example: `liveprofile privacy export 42 --out 42.json`

    Options:
    out FILE: New file (JSON).
    topics: Also the records in Kafka. Reads whole topics.
    """
    from datetime import UTC, datetime

    from liveprofile.feeds.users import read_merges
    from liveprofile.identity.forgotten import of_persons
    from liveprofile.kafka.records import read_topic
    from liveprofile.privacy.export import (
        ExportFile,
        as_json,
        private_file,
        table_rows,
        user_records,
    )
    from liveprofile.privacy.places import TABLES, TOPICS, read_user_keys
    from liveprofile.storage.connection import open_session

    settings = read_settings(config)
    ids = of_persons(read_merges(settings), [user])
    now = datetime.now(UTC)
    with private_file(out) as file, open_session(settings.cassandra) as session:
        about = {
            "user_id": user,
            "ids": ids,
            "exported_at": as_json(now),
            "keyspace": settings.cassandra.keyspace,
            "topics_included": topics,
        }
        result = ExportFile(file, about)
        keys = [read_user_keys(session, each) for each in ids]
        for name, table in TABLES.items():
            limits = {"what": table.holds, "limit": table.limit}
            rows = (row for each in keys for row in table_rows(session, table, each, now))
            result.add(name, limits, (row._asdict() for row in rows), "rows")
        for setting, (what, limit) in TOPICS.items() if topics else ():
            name = getattr(settings.topics, setting)
            records = user_records(read_topic(settings, name), ids)
            result.add(name, {"what": what, "limit": limit}, records, "records")
        result.end()
        if not any(result.counts.values()):
            typer.echo(f"liveprofile: nothing is stored about user {user!r}", err=True)
            raise typer.Exit(1)
    counts = {name: count for name, count in result.counts.items() if count}
    if json:
        print_json({"file": str(out), "bytes": out.stat().st_size, "stored": counts})
    else:
        print_fields(counts | {"file": out})


def data_inventory(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List all tables, topics and states with the time after which what they keep is gone.

    The times are those of the settings: a topic that exists keeps what it was created with
    (`kafka-configs`), a row the TTL that it was written with. docs/privacy.md has the places that
    Liveprofile does not clear, such as savepoints and backups. Exit code 1: a place with data about
    users has no limit.

    Example: `liveprofile privacy data-inventory` or `liveprofile privacy data-inventory --json`
    """
    from liveprofile.privacy.places import retention, unlimited
    from liveprofile.units import DAY_MS

    settings = read_settings(config)
    kept = list(retention(settings))
    if json:
        for each in kept:
            print_json(each._asdict())
    else:
        print_table(
            "What is kept, and how long",
            ("kind", "place", "what", "users", "days", "by"),
            [
                (
                    each.kind,
                    each.place,
                    each.what,
                    "yes" if each.has_users else "no",
                    "no limit" if each.limit_ms is None else f"{each.limit_ms / DAY_MS:,.4g}",
                    each.setting,
                )
                for each in kept
            ],
        )
    if found := unlimited(settings):
        names = ", ".join(f"{each.place} ({each.setting})" for each in found)
        typer.echo(f"no limit: {names}", err=True)
        raise typer.Exit(1)
