"""Finds and deletes stored rows that consents forbid, and rejects their events."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from cassandra.cluster import Session

from liveprofile.feeds.users import read_consents, read_merges
from liveprofile.identity.merges import IdentityTable
from liveprofile.kafka import offsets
from liveprofile.kafka.records import Record, read_topic, send_all
from liveprofile.progress import Progress
from liveprofile.settings import Settings
from liveprofile.storage.cql import now_ms
from liveprofile.units import DAY_MS
from offline.erasure.withdrawals import DELTAS, StoredRow, delete_rows, find_rows, read_digests
from services.event_audit.rows import EVENT, parse_event

SETTLE_S = 2.0  # until the workers know of a change
USERS_AT_ONCE = 8
LOOK_BACK_DAYS = 30

Used = tuple[str, bytes]  # a user and the digest of an event
Outgoing = tuple[bytes | None, bytes | None, dict[str, str]]  # key, value and headers


def forbidden_rows(
    settings: Settings,
    session: Session,
    users: Sequence[str] | None = None,
    days: int = LOOK_BACK_DAYS,
    *,
    delete: bool,
    progress: Progress,
) -> dict[str, list[StoredRow]]:
    """The rows by user that consents forbid; all users with a change by default.

    days: age up to which rows are looked at. delete: rejects their events with NO_CONSENT, so that
    the audit accounts for them, and deletes the rows. Raises ServiceError.
    """
    consents = read_consents(settings)
    ids = list(dict.fromkeys(users)) if users else sorted(consents.users())
    since_ms = now_ms() - days * DAY_MS
    if delete:
        time.sleep(SETTLE_S)

    def find(user: str) -> list[StoredRow]:
        allowed = partial(consents.allowed_during, user)
        return find_rows(session, user, allowed, settings.window, since_ms)

    found: dict[str, list[StoredRow]] = {}
    pool = ThreadPoolExecutor(USERS_AT_ONCE)
    try:
        for number, (user, rows) in enumerate(zip(ids, pool.map(find, ids), strict=True), 1):
            progress("users", number, len(ids))
            if rows:
                found[user] = rows
    finally:
        pool.shutdown(cancel_futures=True)
    if delete:
        _delete(settings, session, found)
    return found


def _delete(settings: Settings, session: Session, found: Mapping[str, list[StoredRow]]) -> None:
    """Rejects the events of the rows, and deletes the rows. Raises ServiceError."""
    used: set[Used] = set()
    starts_ms: list[int] = []
    for user, rows in found.items():
        ends_ms = [row.time_ms for row in rows if row.table == DELTAS]
        if ends_ms:
            starts_ms += [end_ms - settings.window.length_ms for end_ms in ends_ms]
            used |= {(user, digest) for digest in read_digests(session, user, ends_ms)}
    # Rejected first: after a kill in between, the rows still tell which events they used.
    _reject(settings, used, starts_ms, read_merges(settings))
    for rows in found.values():
        delete_rows(session, rows)


def _reject(
    settings: Settings, used: Collection[Used], starts_ms: list[int], merges: IdentityTable
) -> None:
    """Sends the events of deleted windows to the rejected topic. Raises ServiceError."""
    if not used:
        return
    topic = settings.topics.events
    # A record arrives at most the allowed skew before its event's time.
    first_ms = min(starts_ms) - settings.limits.max_clock_skew_ms
    records = read_topic(settings, topic, offsets.ranges_since(settings, topic, first_ms))
    send_all(settings, settings.topics.rejected, rejections(records, used, topic, merges))


def rejections(
    records: Iterable[Record], used: Collection[Used], topic: str, merges: IdentityTable
) -> Iterator[Outgoing]:
    """What the job sends of an event without consent, of each record that was used."""
    for record in records:
        kind, _, digest, user_id = parse_event(record.value)
        if kind == EVENT and any((each, digest) in used for each in merges.ever_merged(user_id)):
            headers = {
                "reason": "NO_CONSENT",
                "detail": "profiling",
                "topic": topic,
                "partition": str(record.partition),
                "offset": str(record.offset),
            }
            yield user_id.encode("utf-8", "surrogatepass"), b"", headers
