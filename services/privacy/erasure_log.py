"""What was erased: the table erasure, by when each place is clear, and the signed proof of it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
from cassandra.cluster import Session

from liveprofile.privacy.places import limit_of
from liveprofile.rows.users import ERASURE
from liveprofile.settings import TOPICS, Settings
from liveprofile.storage.cql import (
    execute_per_key,
    from_ms,
    prepare,
    read_pages,
    to_ms,
    write_all,
)
from liveprofile.units import DAY_MS
from offline.erasure.erase import KEPT, Erasure

# In place of numbers of rows: the erasure was asked for and not carried out yet.
REQUESTED = {"all tables": 1}
_COLUMNS = "before, deleted_at, remaining"


class ErasureRun(NamedTuple):
    """The last run over the tables of a user."""

    before_ms: int  # the erasure that was carried out
    deleted_ms: int  # when
    remaining: dict[str, int]  # rows that could not be deleted yet, by table


def is_done(run: ErasureRun | None, before_ms: int) -> bool:
    """Whether the tables are clear of what is older than the erasure."""
    return run is not None and run.before_ms >= before_ms and not run.remaining


def write_runs(session: Session, runs: Mapping[str, ErasureRun], ttl_s: int) -> None:
    """runs: by user. Raises ServiceError."""
    insert = prepare(session, ERASURE.insert(ttl_s))
    insert.is_idempotent = True

    def values(user_id: str, run: ErasureRun) -> tuple[Any, ...]:
        times = (from_ms(run.before_ms), from_ms(run.deleted_ms))
        return user_id, *times, orjson.dumps(run.remaining).decode(), run.deleted_ms * 1_000

    write_all(session, (insert.bind(values(*each)) for each in runs.items()))


def read_runs(session: Session, user_ids: Iterable[str]) -> dict[str, ErasureRun]:
    """The last run of each user who has one. Raises ServiceError."""
    select = f"SELECT {_COLUMNS} FROM erasure WHERE user_id = ?"
    return {
        user_id: _run(row)
        for user_id, rows in execute_per_key(session, select, user_ids).items()
        for row in rows
    }


def scan_runs(session: Session) -> dict[str, ErasureRun]:
    """The last run of all users. Raises ServiceError."""
    select = prepare(session, f"SELECT {_COLUMNS}, user_id FROM erasure")
    return {row[3]: _run(row) for row in read_pages(session, select)}


def _run(row: tuple) -> ErasureRun:
    return ErasureRun(to_ms(row[0]), to_ms(row[1]), orjson.loads(row[2]))


# Kafka removes whole segments, and closes one after this time: its default `segment.ms`.
SEGMENT_MS = 7 * DAY_MS
# RocksDB drops expired state when it merges its files: at this age (flink-conf/config.yaml).
MERGE_MS = DAY_MS
# Not cleared by a time limit: docs/privacy.md names how.
BY_HAND = (
    "savepoints",
    "snapshots and backups",
    "training rows and archives",
    "plans and exports",
    "logs",
    "receivers of alerts and segment changes",
)
_KEPT_TOPICS = ("consents", "erasures")  # what proves a decision of the user


class PlaceStatus(NamedTuple):
    """Whether a place is clear of a user. `clear_ms`: by when at the latest; null: no limit."""

    place: str
    clear_ms: int | None  # when it is clear at the latest; None: no limit in time
    done: bool
    note: str


def place_statuses(
    before_ms: int, run: ErasureRun | None, settings: Settings, now_ms: int
) -> Iterator[PlaceStatus]:
    """Tables, then Flink's state, topics, and what is cleared by hand."""
    pending = "`liveprofile serve chores` goes on"
    if run is not None and is_done(run, before_ms):
        yield PlaceStatus("tables", run.deleted_ms, True, "rows are deleted")
    elif run is not None and run.before_ms >= before_ms:
        left = ", ".join(f"{name} {count}" for name, count in run.remaining.items())
        yield PlaceStatus("tables", None, False, f"left: {left}: {pending}")
    else:
        yield PlaceStatus("tables", None, False, pending)

    def until(place: str, time_ms: int, note: str) -> PlaceStatus:
        return PlaceStatus(place, time_ms, time_ms <= now_ms, note)

    window, state = settings.window, settings.state
    open_ms = before_ms + window.length_ms + window.out_of_orderness_ms
    yield until("state: open windows", open_ms, "if events arrive")
    ttl_ms = before_ms + state.user_ttl_ms + MERGE_MS
    yield until("state: histories, memory, lists, sums", ttl_ms, "if no events of the user arrive")
    for setting, topic in TOPICS.items():
        if not topic.limit:
            continue
        place = f"topic {getattr(settings.topics, setting)}"
        if setting in _KEPT_TOPICS:
            yield PlaceStatus(place, None, False, "kept as a proof")
        elif (kept_ms := limit_of(settings, f"topics.{topic.limit}")) is None:
            yield PlaceStatus(place, None, False, "unlimited by its setting")
        else:
            clear_ms = before_ms + kept_ms + SEGMENT_MS
            yield until(place, clear_ms, "retention and the age of a segment")
    for place in BY_HAND:
        yield PlaceStatus(place, None, False, "by hand: see docs/privacy.md")


NOT_REACHED = (
    "state of the job, checkpoints and savepoints",
    "topics of Kafka",
    "training rows, plans, exports and models",
    "logs, backups and receivers",
)
FORMAT = "liveprofile-erasure-1"


def user_digest(key: str, user_id: str) -> str:
    """HMAC-SHA256 of the id (RFC 2104): only who has the key can test whether it is a user's."""
    return _mac(key, b"user\x00" + user_id.encode("utf-8", "surrogatepass"))


def proof_line(key: str, user_id: str, keyspace: str, at_ms: int, done: Erasure) -> bytes:
    """A line of JSON with a signature over all other fields."""
    fields = {
        "format": FORMAT,
        "user": user_digest(key, user_id),
        "erased_at": datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="milliseconds"),
        "keyspace": keyspace,
        "rows": done.rows,
        "pending": done.pending,
        "kept": KEPT,
        "not_reached": NOT_REACHED,
    }
    return orjson.dumps(fields | {"signature": _signature(key, fields)}) + b"\n"


def _signature(key: str, fields: dict[str, object]) -> str:
    return _mac(key, FORMAT.encode() + orjson.dumps(fields, option=orjson.OPT_SORT_KEYS))


def _mac(key: str, text: bytes) -> str:
    return hmac.new(key.encode(), text, hashlib.sha256).hexdigest()
