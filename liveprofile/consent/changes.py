"""Which purposes a user has allowed at a time, the topic user-consents and the table user_consent.

A user's consents are a list of changes. At a time, the newest change of a purpose up to that time
is in force, and the default of the settings before the first. Of two changes of one time, a
withdrawal wins.

The table has every change. Records are CloudEvents 1.0 in JSON, keyed by user_id. A record holds
the user's newest MAX_CHANGES changes, because compaction keeps one record of a key.
schemas/user-consents.schema.json is their schema.
"""

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice, repeat
from typing import Any, NamedTuple

from cassandra.cluster import Session

from liveprofile.errors import InputError
from liveprofile.identity.merges import IdentityTable
from liveprofile.rows.users import USER_CONSENT
from liveprofile.settings import MAX_TTL_S
from liveprofile.settings.sections import PURPOSES
from liveprofile.storage.cql import execute_per_key, from_ms, prepare, to_ms, write_all
from liveprofile.units import SECOND_MS
from liveprofile.wire.user_records import (
    EARLIEST_MS,
    RecordKind,
    key_of,
    read_fields,
    read_time_ms,
    to_rfc3339,
)

# A record of the topic holds this many changes of a user, the newest.
MAX_CHANGES = 200
_PURPOSE_BITS = 3
_FIELDS = frozenset({"time", "purpose", "granted", "basis", "text_version"})


class ConsentChange(NamedTuple):
    """One purpose of a user was granted or withdrawn."""

    time_ms: int
    purpose: str  # one of PURPOSES
    granted: bool
    basis: str = ""  # such as "consent" or "contract"
    text_version: str = ""  # of the text that the user has read


def in_order(changes: Iterable[ConsentChange]) -> list[ConsentChange]:
    """The changes, newest first. Of one time, withdrawals come before grants."""
    return sorted(changes, key=lambda each: (-each.time_ms, each.granted, each.purpose))


def newest(
    changes: Iterable[ConsentChange], purpose: str, at_ms: int | None = None
) -> ConsentChange | None:
    """The change that is in force at a time (None: the last of all); None: the default is."""
    found = (
        each
        for each in changes
        if each.purpose == purpose and (at_ms is None or each.time_ms <= at_ms)
    )
    return max(found, key=lambda each: (each.time_ms, not each.granted), default=None)


class ConsentTable:
    """The consents of all users, as far as they differ from the defaults.

    It keeps 8 bytes a change, of those users only who have ever withdrawn what is allowed by
    default, or granted what is not: 160 bytes for a user with two changes. `put` may be called in
    another thread than `allowed`.

    defaults: purpose to whether it is allowed without a change.
    """

    def __init__(self, defaults: Mapping[str, bool]):
        self._defaults = {purpose: defaults[purpose] for purpose in PURPOSES}
        self._users: dict[str, bytes] = {}

    def put(self, user_id: str, changes: Iterable[ConsentChange]) -> None:
        """Replaces the user's changes; none: the defaults are in force."""
        changes, defaults = list(changes), self._defaults
        if any([each.granted != defaults[each.purpose] for each in changes]):
            self._users[user_id] = array("q", map(_encode, changes)).tobytes()
        else:
            self._users.pop(user_id, None)

    def __len__(self) -> int:
        """The number of users who are kept."""
        return len(self._users)

    def __contains__(self, user_id: str) -> bool:
        """Whether the user may differ from the defaults at some time."""
        return user_id in self._users

    def allowed(self, user_id: str, purpose: str, at_ms: int) -> bool:
        """Whether the user allows the purpose at the time."""
        packed = self._users.get(user_id)
        if packed is None:
            return self._defaults[purpose]
        index, latest = PURPOSES.index(purpose), -1
        # Times are above the lower bits, so the comparison is one of times.
        bound = (at_ms + 1) << (_PURPOSE_BITS + 1)
        for code in array("q", packed):
            if code & ((1 << _PURPOSE_BITS) - 1) == index and latest < code < bound:
                latest = code
        return self._defaults[purpose] if latest < 0 else not latest >> _PURPOSE_BITS & 1

    def users(self) -> list[str]:
        """The users who are kept."""
        return list(self._users)

    def allowed_during(self, user_id: str, purpose: str, start_ms: int, end_ms: int) -> bool:
        """Whether the user allows the purpose at any time from start to end (exclusive)."""
        if self.allowed(user_id, purpose, start_ms):
            return True
        return any(
            self.allowed(user_id, purpose, time_ms)
            for time_ms in self.change_times_ms(user_id)
            if start_ms < time_ms < end_ms
        )

    def change_times_ms(self, user_id: str) -> set[int]:
        """The times at which what the user allows may change."""
        packed = array("q", self._users.get(user_id, b""))
        return {code >> (_PURPOSE_BITS + 1) for code in packed}

    def allowed_rows(
        self, user_ids: Sequence[str], purpose: str, times_ms: Sequence[int]
    ) -> list[bool]:
        """Whether the user of each row allows the purpose at the time of the row."""
        if not len(self):
            return [self._defaults[purpose]] * len(user_ids)
        return [self.allowed(*row) for row in zip(user_ids, repeat(purpose), times_ms)]

    def allowing(self, purpose: str, at_ms: int) -> Callable[[str], bool]:
        """Returns whether a user allows the purpose at the time."""
        return lambda user_id: self.allowed(user_id, purpose, at_ms)


def _encode(change: ConsentChange) -> int:
    """Time, whether it is a withdrawal, and purpose: the order of the codes of a purpose is that of
    `newest`."""
    withdrawn = change.time_ms << 1 | (not change.granted)
    return withdrawn << _PURPOSE_BITS | PURPOSES.index(change.purpose)


class PersonConsentTable(ConsentTable):
    """The consents of all users, where an id counts with the ids that are the same person then.

    Both tables may change while this one is read. For `defaults` see ConsentTable.
    """

    def __init__(
        self, consents: ConsentTable, identities: IdentityTable, defaults: Mapping[str, bool]
    ):
        super().__init__(defaults)
        self._consents, self._identities = consents, identities

    def __len__(self) -> int:
        return len(self._consents)

    def __contains__(self, user_id: str) -> bool:
        return any(each in self._consents for each in self._identities.ever_merged(user_id))

    def allowed(self, user_id: str, purpose: str, at_ms: int) -> bool:
        if user_id not in self._identities:
            return self._consents.allowed(user_id, purpose, at_ms)
        return all(
            self._consents.allowed(each, purpose, at_ms)
            for each in self._identities.ids_of(user_id, at_ms)
        )

    def users(self) -> list[str]:
        ids = self._consents.users()
        return sorted({other for each in ids for other in self._identities.ever_merged(each)})

    def change_times_ms(self, user_id: str) -> set[int]:
        times_ms: set[int] = set()
        for each in self._identities.ever_merged(user_id):
            times_ms |= self._consents.change_times_ms(each)
            for merge in self._identities.merges(each):
                times_ms |= {merge.since_ms, merge.until_ms or merge.since_ms}
        return times_ms


KIND = RecordKind(
    "liveprofile/consent",
    "liveprofile.user.consents",
    "https://liveprofile.example/schemas/user-consents.schema.json#/$defs/data",
)
MAX_TEXT = 256


class ConsentError(InputError):
    """A record or a row with a consent is invalid."""


def to_record(user_id: str, changes: Iterable[ConsentChange]) -> bytes:
    """The value of a user's record."""
    kept = in_order(changes)[:MAX_CHANGES]
    data = {"user_id": user_id, "changes": [change_json(each) for each in kept]}
    newest_ms = max((each.time_ms for each in kept), default=EARLIEST_MS)
    return KIND.value(user_id, to_rfc3339(newest_ms), data)


def read_record(key: bytes | None, value: bytes) -> tuple[str, list[ConsentChange]]:
    """The user and the changes of a record with a value. Raises ConsentError."""
    user_id, changes = read_fields(key, value, "user_id", "changes", ConsentError)
    if not isinstance(changes, list) or len(changes) > MAX_CHANGES:
        raise ConsentError(f"data.changes is no list of at most {MAX_CHANGES} changes")
    return user_id, [read_change(change) for change in changes]


def read_change(change: Any) -> ConsentChange:
    """A change from its JSON object. Raises ConsentError."""
    if not isinstance(change, dict):
        raise ConsentError("a change must be an object")
    if not change.keys() <= _FIELDS:
        unknown = change.keys() - _FIELDS
        raise ConsentError(f"unknown field {sorted(unknown)[0]!r}")
    purpose, granted = change.get("purpose"), change.get("granted")
    if purpose not in PURPOSES:
        raise ConsentError(f"purpose {purpose!r}: must be one of {', '.join(PURPOSES)}")
    if not isinstance(granted, bool):
        raise ConsentError(f"granted {granted!r}: must be true or false")
    basis, text_version = change.get("basis", ""), change.get("text_version", "")
    for name, text in (("basis", basis), ("text_version", text_version)):
        if not isinstance(text, str) or len(text) > MAX_TEXT:
            raise ConsentError(
                f"{name} {text!r:.40}: must be a text of at most {MAX_TEXT} characters"
            )
    time_ms = read_time_ms("time", change.get("time"), ConsentError)
    return ConsentChange(time_ms, purpose, granted, basis, text_version)


def change_json(change: ConsentChange) -> dict[str, Any]:
    fields = change._asdict()
    return {"time": to_rfc3339(fields.pop("time_ms")), **fields}


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
    while part := list(islice(remaining, USERS_AT_ONCE)):
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
        send([(key_of(user), to_record(user, stored[user])) for user in changed])
        sent, users = stored, changed
