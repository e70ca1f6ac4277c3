"""The table user_consent: every change of every user, and the records that result from it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from cassandra.cluster import Session

from liveprofile.consent.changes import MAX_CHANGES, ConsentChange, to_record
from liveprofile.rows.users import USER_CONSENT
from liveprofile.settings import MAX_TTL_S
from liveprofile.storage.cql import execute_per_key, from_ms, prepare, to_ms, write_all
from liveprofile.units import SECOND_MS
from liveprofile.wire.user_records import key_of

USERS_AT_ONCE = 1_000
MAX_ROUNDS = 10  # a user whose consents change this often while they are sent is sent next time
_SELECT = (
    f"SELECT {', '.join(USER_CONSENT.names(['user_id']))} FROM user_consent WHERE user_id = ?"
    f" LIMIT {MAX_CHANGES}"
)

Record = tuple[bytes, bytes]  # key and value
Send = Callable[[Sequence[Record]], object]  # returns when Kafka has acknowledged the records


def ttl_s(retention_ms: int) -> int:
    """How long a change is kept: as long as the topic keeps it; -1: as long as Cassandra can."""
    return MAX_TTL_S if retention_ms < 0 else max(1, min(retention_ms // SECOND_MS, MAX_TTL_S))


def read_changes(session: Session, user_ids: Iterable[str]) -> dict[str, list[ConsentChange]]:
    """The newest MAX_CHANGES changes of each user, newest first. Raises ServiceError."""
    return {
        user_id: [ConsentChange(to_ms(row[0]), *row[1:]) for row in rows]
        for user_id, rows in execute_per_key(session, _SELECT, user_ids).items()
    }


def apply_changes(
    session: Session,
    changes: Iterable[tuple[str, ConsentChange]],
    send: Send,
    *,
    ttl_s: int,
) -> int:
    """Stores the changes of users and sends each user's record; returns the number of changes.

    Repeating it changes nothing. Two processes may change one user: the later one to read sends the
    changes of both, and whoever has sent reads again. Raises ServiceError; then repeat it.
    """
    insert = prepare(session, USER_CONSENT.insert(ttl_s))
    insert.is_idempotent = True
    remaining, count = iter(changes), 0
    while part := list(itertools.islice(remaining, USERS_AT_ONCE)):
        statements = (
            insert.bind((user_id, from_ms(each.time_ms), *each[1:], write_time_us(each)))
            for user_id, each in part
        )
        count += write_all(session, statements)
        users = list(dict.fromkeys(user_id for user_id, _ in part))
        send_users(lambda ids: read_changes(session, ids), users, send)
    return count


def write_time_us(change: ConsentChange) -> int:
    """USING TIMESTAMP: of two changes of a purpose at one time, the withdrawal stays."""
    return change.time_ms * 1_000 + (not change.granted)


def send_users(
    read: Callable[[Sequence[str]], Mapping[str, list[ConsentChange]]],
    users: Sequence[str],
    send: Send,
) -> None:
    """Sends the users' records until what is sent is what is stored."""
    sent: Mapping[str, list[ConsentChange]] = {}
    for _ in range(MAX_ROUNDS):
        stored = read(users)
        changed = [user for user in users if stored[user] != sent.get(user)]
        if not changed:
            return
        send(list(_records(stored, changed)))
        sent, users = stored, changed


def _records(stored: Mapping[str, list[ConsentChange]], users: Iterable[str]) -> Iterator[Record]:
    for user in users:
        yield key_of(user), to_record(user, stored[user])
