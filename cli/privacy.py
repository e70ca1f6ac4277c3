"""`liveprofile privacy`: erasure, export, and where data is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Any

import orjson
import typer

from cli.common import (
    Call,
    UserArgument,
    end_without_result,
    print_json,
    print_table,
    read_user_ids,
    table,
)
from cli.progress import progress
from liveprofile.errors import InputError
from liveprofile.feeds.users import read_erasures, read_merges
from liveprofile.identity.merges import of_persons
from liveprofile.kafka.records import read_topic
from liveprofile.privacy.places import TABLES, read_user_keys, retention, unlimited
from liveprofile.settings import TOPICS, Settings
from liveprofile.storage.cql import now_ms
from liveprofile.units import DAY_MS
from liveprofile.wire.tokens import ID_CHARS
from models.trained_users import FALSE_POSITIVE_RATE, erase_rows, find_checkpoints
from services.privacy.erasure_log import (
    is_done,
    place_statuses,
    proof_line,
    read_runs,
    scan_runs,
)
from services.privacy.erasures import (
    ErasedUser,
    PendingErasures,
    carry_out,
    request_persons,
)
from services.privacy.export import as_json, private_file, table_rows, user_records


def erase(
    call: Call,
    users: Annotated[list[str] | None, typer.Argument()] = None,
    file: Path | None = None,
    pending: bool = False,
    status: bool = False,
    rows: Path | None = None,
    checkpoints: Path | None = None,
    proof: Path | None = None,
) -> None:
    """Make the job forget users, and delete all of their rows from Cassandra.

    The erasure goes to Kafka first: from then on the job neither scores nor stores what is older.
    All ids of a person are erased. State, topics, training rows, logs and backups end later
    (--status, docs/privacy.md). After a kill or a failure run --pending. Exit code 1: rows are
    left; for --checkpoints, a model was trained on an erased user, or its users are unknown.

    Example: `liveprofile privacy erase 42 43 --proof erased.jsonl`

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
    settings = call.settings
    others = {
        "--pending": pending,
        "--status": status,
        "--rows": rows is not None,
        "--checkpoints": checkpoints is not None,
    }
    named = [name for name, given in others.items() if given]
    if not ids and not named:
        raise InputError("give USER, --file, --pending, --status, --rows or --checkpoints")
    if len(named) > 1 or (ids and named not in ([], ["--status"])):
        raise InputError(f"{named[0]} is about all erasures: give nothing else with it")
    if proof is not None and named not in ([], ["--pending"]):
        raise InputError(f"{named[0]} deletes no rows of tables: give no --proof with it")
    if proof is not None and settings.rules_signing_key is None:
        raise InputError("--proof needs the setting rules_signing_key, which signs it")
    for folder in (rows, checkpoints):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: no folder")
    if status:
        _show_status(call, ids)
    elif rows is not None:
        _erase_rows(call, rows)
    elif checkpoints is not None:
        _list_checkpoints(call, checkpoints)
    else:
        _carry_out(call, ids, proof)


def _carry_out(call: Call, ids: list[str], proof: Path | None) -> None:
    """Erases users, or without ids goes on with all pending erasures."""
    settings = call.settings
    with _new_file(proof) as out, call.session() as session:
        if ids:
            todo, former_ids = request_persons(session, settings, ids)
        else:
            todo, former_ids = PendingErasures(settings).find(session), []
        for other in former_ids:
            typer.echo(
                f"{other} was merged with these users and split: its profile may have events of"
                " theirs, and is not erased",
                err=True,
            )
        rows_left = False
        with progress() as show:
            for number, each in enumerate(carry_out(session, settings, todo), 1):
                if out is not None:
                    _prove(settings, each, out)
                if len(todo) > 1:
                    show("erasing", number, len(todo))
                rows, pending = each.erasure
                call.print({"user_id": each.user_id, "rows": rows, "pending": pending})
                rows_left |= bool(pending)
    if not todo and not call.json:
        typer.echo("no erasure is pending")
    if rows_left:
        typer.echo("run `liveprofile privacy erase --pending` when the hour is over", err=True)
        raise typer.Exit(1)


def _prove(settings: Settings, each: ErasedUser, out: IO[bytes]) -> None:
    """Writes the signed line of a user. `erase` has checked that there is a key."""
    secret = settings.rules_signing_key
    assert secret is not None
    keyspace = settings.cassandra.keyspace
    key, user_id = secret.get_secret_value(), each.user_id
    out.write(proof_line(key, user_id, keyspace, each.done_ms, each.erasure))
    out.flush()  # what is done is proven, also if the next user fails


def _erase_rows(call: Call, folder: Path) -> None:
    """Rewrites training rows without the erased users."""
    found = list(erase_rows(folder, read_erasures(call.settings).users()))
    call.print(
        {
            "files": len(found),
            "rewritten": sum(each.erased > 0 for each in found),
            "rows": sum(each.kept for each in found),
            "erased": sum(each.erased for each in found),
        }
    )


def _list_checkpoints(call: Call, folder: Path) -> None:
    """Prints the model checkpoints of a folder; exits with 1 unless all are clean."""
    erased = read_erasures(call.settings).users()
    found = list(find_checkpoints(folder, sorted(erased)))
    listed = [
        {
            "checkpoint": str(each.folder),
            "version": each.version,
            "trained_users": each.trained and each.trained.users,
            "erased_users": None if each.trained is None else each.erased,
            "expected_false": len(erased)
            * FALSE_POSITIVE_RATE
            * len(each.trained.filters if each.trained else ()),
        }
        for each in found
    ]
    for each in listed if call.json else ():
        print_json(each)
    if not call.json:
        print_table(table(f"{len(erased)} erased users", listed, " ".join(listed[0])))
    if not all(each.is_clean for each in found):
        typer.echo("train these again: liveprofile model train --without-erased", err=True)
        raise typer.Exit(1)


def _show_status(call: Call, ids: list[str]) -> None:
    """Prints when each place is clear; without ids, whether the tables are, of every erasure."""
    erased = read_erasures(call.settings).users()
    if missing := [user for user in ids if user not in erased]:
        raise InputError(f"user {missing[0]!r} was never erased")
    with call.session() as session:
        runs = read_runs(session, ids) if ids else scan_runs(session)
    shown = ids or sorted(erased, key=lambda user: (erased[user], user))
    not_done = [user for user in shown if not is_done(runs.get(user), erased[user])]
    for user in shown if ids or call.json else ():
        places = list(place_statuses(erased[user], runs.get(user), call.settings, now_ms()))
        fields = {"user_id": user, "before_ms": erased[user], "done": user not in not_done}
        call.print(
            fields | {"places": [place._asdict() for place in places]},
            fields,
            table(None, places, "place done clear_ms note"),
        )
    if not ids and not call.json:
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
    call: Call, user: UserArgument, out: Annotated[Path, typer.Option()], topics: bool = False
) -> None:
    """Write all that is stored about a user to one JSON file, which only its owner can read.

    Each table has its limit in time. The file is about all ids of the person. Exit code 1, and no
    file, if nothing is stored.

    Example: `liveprofile privacy export 42 --out 42.json`

    Options:
    out FILE: New file (JSON).
    topics: Also the records in Kafka. Reads whole topics.
    """
    settings = call.settings
    ids = of_persons(read_merges(settings), [user])
    with private_file(out) as file, call.session() as session:
        stored: dict[str, Any] = {}
        keys = [read_user_keys(session, each) for each in ids]
        for name, declared in TABLES.items():
            limits = {"what": declared.holds, "limit": declared.limit}
            rows = [row for each in keys for row in table_rows(session, declared, each)]
            stored[name] = limits | {"rows": rows}
        for setting, topic in TOPICS.items() if topics else ():
            name = getattr(settings.topics, setting)
            if not topic.limit:
                continue
            records = list(user_records(read_topic(settings, name), ids))
            limits = {"what": topic.holds, "limit": f"topics.{topic.limit}"}
            stored[name] = limits | {"records": records}
        found = {name: each.get("rows", each.get("records")) for name, each in stored.items()}
        counts = {name: len(items) for name, items in found.items() if items}
        if not counts:
            end_without_result(f"nothing is stored about user {user!r}")
        about = {
            "user_id": user,
            "ids": ids,
            "exported_at": as_json(datetime.now(UTC)),
            "keyspace": settings.cassandra.keyspace,
            "topics_included": topics,
            "stored": stored,
        }
        file.write(orjson.dumps(about, option=orjson.OPT_INDENT_2))
    call.print({"file": str(out), "bytes": out.stat().st_size, "stored": counts})


def data_inventory(call: Call) -> None:
    """List all tables, topics and states with the time after which what they keep is gone.

    The times are those of the settings: what exists keeps those that it was made with.
    docs/privacy.md has the places that Liveprofile does not clear, such as savepoints and backups.
    Exit code 1: a place with data about users has no limit.

    Example: `liveprofile privacy data-inventory --json`
    """
    kept = [
        each._asdict() | {"days": each.limit_ms and each.limit_ms / DAY_MS}
        for each in retention(call.settings)
    ]
    for each in kept if call.json else ():
        print_json(each)
    if not call.json:
        print_table(table(None, kept, "place kind what has_users days setting"))
    if found := unlimited(call.settings):
        names = ", ".join(f"{each.place} ({each.setting})" for each in found)
        typer.echo(f"no limit: {names}", err=True)
        raise typer.Exit(1)
