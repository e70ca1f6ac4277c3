"""The audit trail of writes: an entry before each write, completed after it.

So a write whose answer was lost, or a server that died in between, leaves an entry too: its outcome
stays `started`.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from cassandra.cluster import Session
from cassandra.util import datetime_from_uuid1, uuid_from_time

from liveprofile.errors import LiveprofileError, ServiceError
from liveprofile.rows.operations import API_AUDIT, AuditEntry
from liveprofile.settings import Settings
from liveprofile.storage.cql import execute, from_ms, read, to_ms


class OpenEntry:
    """The entry of a write under way; the write sets `before` and `after`."""

    def __init__(self) -> None:
        self.before: dict[str, Any] | None = None
        self.after: dict[str, Any] | None = None


@contextmanager
def audited(session: Session, settings: Settings, entry: AuditEntry | None) -> Iterator[OpenEntry]:
    """Around a write. Raises ServiceError, before the write if it cannot be recorded."""
    work = OpenEntry()
    if entry is None:
        yield work
        return
    entry_id = uuid_from_time(entry.at_ms / 1_000)
    _store(session, settings, entry_id, entry)
    outcome = "failed"
    try:
        yield work
        outcome = "done"
    except LiveprofileError as error:
        if not isinstance(error, ServiceError):
            outcome = "refused"
        raise
    finally:
        completed = entry._replace(before=work.before, after=work.after, outcome=outcome)
        _store(session, settings, entry_id, completed)


def read_trail(session: Session, settings: Settings, day_ms: int, limit: int) -> list[AuditEntry]:
    """What was written, and listed by hour, on the UTC day of the time; newest first."""
    day = from_ms(day_ms).date()
    query = f"SELECT {', '.join(API_AUDIT.names())} FROM api_audit WHERE day = %s LIMIT %s"
    entries = [_entry(row) for row in read(session, query, (day, limit))]
    query = "SELECT key_id, name, route, users, hour FROM api_listing WHERE day = %s"
    for key_id, name, route, users, hour in read(session, query, (day,)):
        about, after = (key_id, name, "users.list", route, "", {}), {"users": users}
        entries.append(AuditEntry(*about, after=after, outcome="done", at_ms=to_ms(hour)))
    return sorted(entries, key=lambda entry: -entry.at_ms)[:limit]


def _store(session: Session, settings: Settings, entry_id: uuid.UUID, entry: AuditEntry) -> None:
    """Stores an entry, or replaces the one with this id. Raises ServiceError."""
    at = from_ms(entry.at_ms)
    documents = map(_dump, (entry.requested, entry.before, entry.after))
    execute(
        session,
        API_AUDIT.insert(settings.cassandra.history_ttl_s, time="", mark="%s"),
        (at.date(), entry_id, *entry[:5], *documents, entry.outcome),
    )


def _dump(value: dict[str, Any] | None) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _load(text: str | None) -> dict[str, Any] | None:
    return None if text is None else orjson.loads(text)


def _entry(row: Any) -> AuditEntry:
    return AuditEntry(
        key_id=row.key_id,
        name=row.name,
        action=row.action,
        target=row.target,
        request_id=row.request_id,
        requested=_load(row.requested) or {},
        before=_load(row.before),
        after=_load(row.after),
        outcome=row.outcome,
        at_ms=to_ms(datetime_from_uuid1(row.entry)),
    )
