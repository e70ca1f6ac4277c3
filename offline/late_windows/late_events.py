"""Which late events are used in a correction, and the records of their users.

Events of an id that has become another user's alias are used like late ones: the job has stored
them in the alias's own profile, and they come into the windows of the person.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from liveprofile.consent.changes import ConsentTable
from liveprofile.errors import InputError, ServiceError
from liveprofile.events.validation import event_time_ms
from liveprofile.identity.merges import END_OF_TIME_MS as NOW
from liveprofile.identity.merges import IdentityTable
from liveprofile.kafka.records import Record
from liveprofile.settings import LimitSettings, WindowSettings
from liveprofile.wire.window_events import InvalidEventError, as_id, load

NO_TIME = -(2**63)
ARCHIVE = -1  # the partition of records from files
END_OF_TIME_MS = 253_402_300_799_000  # their record time: none of them is in the future
Position = tuple[int, int]  # partition and offset in the input topic


class LateEvent(NamedTuple):
    position: Position
    user_id: str
    event_id: str
    time_ms: int
    lateness_ms: int


def read_late_events(records: Iterable[Record], topic: str) -> Iterator[LateEvent]:
    """The events of the late topic that came from `topic`. Raises ServiceError."""
    for record in records:
        headers = record.headers
        try:
            source, partition, offset, lateness = (
                headers[name].decode() for name in ("topic", "partition", "offset", "lateness_ms")
            )
            event = load(record.value or b"")
            late = LateEvent(
                (int(partition), int(offset)),
                as_id(event["user_id"]),
                as_id(event["event_id"]),
                event_time_ms(event["event_time"]) or 0,
                int(lateness),
            )
        except (KeyError, ValueError):
            raise ServiceError(
                f"{record.topic}/{record.partition} offset {record.offset} is no late event with"
                f" its source, only headers {sorted(headers)}: did another program write it?"
            ) from None
        if source == topic:
            yield late


class MovedEvents(NamedTuple):
    """The events of a profile that has become part of another one."""

    used: set[Position]
    not_allowed_ms: list[int]  # times of those that the profile's consents forbid


@dataclass
class LateTable:
    """The late events of a correction, by user, and those of users who were merged.

    `used` come into their windows. `left_out` stay outside: they are too old, or not allowed.
    `moved` are in `used`, too: by person and the user in whose profile they were stored.
    """

    used: dict[str, set[Position]] = field(default_factory=dict)
    moved: dict[str, dict[str, MovedEvents]] = field(default_factory=dict)
    left_out: dict[str, set[Position]] = field(default_factory=dict)
    event_ids: set[tuple[str, str]] = field(default_factory=set)  # user and event of both
    too_old: int = 0
    no_consent: int = 0
    erased: int = 0


def choose_late_events(
    events: Iterable[LateEvent],
    limit_ms: float,
    consents: ConsentTable,
    erased: Container[str],
    now_ms: int,
    merges: IdentityTable | None = None,
) -> LateTable:
    """Uses events that were late by at most `limit_ms`, of users who allow profiles.

    They must allow them now and at the time of the event. Events of users who were erased at any
    time are not used. The late topic may hold a record twice. merges: those that the job follows;
    all persons with several ids are in the table.
    """
    table, merges = LateTable(), merges or IdentityTable()
    for alias_id in merges.aliases():
        if (person := merges.resolve(alias_id, NOW)) != alias_id:
            table.used.setdefault(person, set())
            table.moved.setdefault(person, {})[alias_id] = MovedEvents(set(), [])
    for event in {event.position: event for event in events}.values():
        user_id, chosen = merges.owner(event.user_id, event.time_ms), table.left_out
        if user_id in erased:
            table.erased += 1
        elif event.lateness_ms > limit_ms:
            table.too_old += 1
        elif not all(
            consents.allowed(each, "profiling", at_ms)
            for each in {user_id, event.user_id}
            for at_ms in (event.time_ms, now_ms)
        ):
            table.no_consent += 1
        else:
            chosen = table.used
        chosen.setdefault(user_id, set()).add(event.position)
        table.event_ids.add((user_id, event.event_id))
    return table


class SpooledRecord(NamedTuple):
    """A line of the file that jobs.sql.tables.record_file reads."""

    payload: str
    record_topic: str
    record_partition: int
    record_offset: int
    record_ms: int
    number: int  # in order of arrival


class RecordSelection:
    """Selects the records of users with late events that are used, and keeps the watermark."""

    def __init__(
        self,
        table: LateTable,
        window: WindowSettings,
        limits: LimitSettings,
        partitions: Iterable[int] = (),
        merges: IdentityTable | None = None,
        consents: ConsentTable | None = None,
    ):
        """merges: those that the job follows. consents: of the users who were merged."""
        self._merges, self._consents = merges or IdentityTable(), consents
        self._table, self._window, self._limits = table, window, limits
        self._clocks_ms = dict.fromkeys(partitions, NO_TIME)
        self._left_out_events: set[tuple[str, str]] = set()
        self._number = 0

    def select(self, records: Iterable[Record]) -> Iterator[SpooledRecord]:
        """Yields the records that the views shall read, in the order of `records`.

        A late event that is left out has claimed its event_id: later copies are left out, too. Of
        late events that an archive has, too, the record of the topic counts.
        """
        for record in records:
            try:
                event = load(record.value or b"")
            except InvalidEventError:
                continue
            self._advance_clock(record, event)
            own_id, event_id = as_id(event.get("user_id")), as_id(event.get("event_id"))
            time_ms = event_time_ms(event.get("event_time")) or 0
            user_id = self._merges.owner(own_id, time_ms)
            if user_id not in self._table.used:
                continue
            if record.partition == ARCHIVE and (user_id, event_id) in self._table.event_ids:
                continue
            if (record.partition, record.offset) in self._table.left_out.get(user_id, ()):
                self._left_out_events.add((user_id, event_id))
            if (user_id, event_id) in self._left_out_events:
                continue
            try:
                payload = (record.value or b"").decode()
            except UnicodeDecodeError:  # rejected
                continue
            if user_id != own_id:
                payload = orjson.dumps({**event, "user_id": user_id}).decode()
            if not self._moves(own_id, user_id, time_ms, (record.partition, record.offset)):
                continue
            self._number += 1
            yield SpooledRecord(
                payload,
                record.topic,
                record.partition,
                record.offset,
                record.timestamp_ms,
                self._number,
            )

    def _moves(self, own_id: str, person: str, time_ms: int, position: Position) -> bool:
        """Notes an event that was stored in another profile; whether its consents allow it."""
        before = self._merges.resolve(own_id, time_ms)
        if before == person or position in self._table.used[person]:
            return True
        moved = self._table.moved[person][before]
        if self._consents and not self._consents.allowed(before, "profiling", time_ms):
            moved.not_allowed_ms.append(time_ms)
            return False
        moved.used.add(position)
        self._table.used[person].add(position)
        return True

    def _advance_clock(self, record: Record, event: Mapping[str, object]) -> None:
        time_ms = event_time_ms(event.get("event_time"))
        if (
            time_ms is None
            or record.partition not in self._clocks_ms
            or time_ms > record.timestamp_ms + self._limits.max_clock_skew_ms
        ):
            return
        clock_ms = min(time_ms, record.timestamp_ms)
        self._clocks_ms[record.partition] = max(self._clocks_ms[record.partition], clock_ms)

    @property
    def closed_ms(self) -> int:
        """The watermark after the records: windows that end by it plus 1 ms are closed."""
        slowest_ms = min(self._clocks_ms.values(), default=NO_TIME)
        return (
            slowest_ms if slowest_ms == NO_TIME else slowest_ms - self._window.out_of_orderness_ms
        )


def write_records(path: Path, records: Iterable[SpooledRecord]) -> int:
    """Writes a file for jobs.sql.tables.record_file, and returns the number of records.

    Raises InputError if the disk is full.
    """
    count = 0
    try:
        with path.open("wb") as file:
            for record in records:
                file.write(orjson.dumps(record._asdict(), option=orjson.OPT_APPEND_NEWLINE))
                count += 1
    except OSError as error:
        raise InputError(
            f"{path}: records of users with late events cannot be written: {error.strerror}. Set"
            " TMPDIR to a folder with more space"
        ) from None
    return count


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows in the order in which the job has written them, from files of a single task."""
    for path in sorted(folder.rglob("part-*"), key=_number_of_file):
        with path.open("rb") as file:
            yield from map(orjson.loads, file)


def _number_of_file(path: Path) -> int:
    return int(re.findall(r"\d+", path.name)[-1])
