"""Consents and erasures: read from their tables, and sent to the topics that the job reads."""

from __future__ import annotations

import itertools
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from cassandra.cluster import Session

from liveprofile.consent import changes as consent_store
from liveprofile.consent.changes import PURPOSES, ConsentChange, newest
from liveprofile.errors import ServiceError
from liveprofile.feeds.feed import TableSpec, TableTail
from liveprofile.feeds.users import erasures_spec, merges_spec
from liveprofile.identity import merges
from liveprofile.identity.merges import IdentityTable, missing_erasures, without_users
from liveprofile.kafka.offsets import partition_ranges
from liveprofile.kafka.records import send_all
from liveprofile.privacy import erasures
from liveprofile.rows.operations import AuditEntry
from liveprofile.settings import Settings
from liveprofile.storage.cql import now_ms
from liveprofile.units import MINUTE_MS
from liveprofile.wire.user_records import CONTENT_TYPE, key_of
from offline.erasure.erase import Cut, Erasure, erase_users
from services.audit_trail import audited
from services.privacy.erasure_log import (
    REQUESTED,
    ErasureRun,
    PlaceStatus,
    is_done,
    place_statuses,
    read_runs,
    scan_runs,
    write_runs,
)

PART_USERS = 500  # tables without a key of the user are read once or twice for so many
SETTLE_S = 2.0  # until the workers know of an erasure
REPEAT_MS = 10 * MINUTE_MS  # rows that an erasure has left may be deletable then


class ConsentState(NamedTuple):
    """The changes of a user, newest first, and what is allowed without one."""

    changes: list[ConsentChange]
    defaults: Mapping[str, bool]

    def purposes(self, at_ms: int) -> dict[str, dict[str, Any]]:
        """Of each purpose: what is allowed at a time, and since when and why it is."""
        newest_of = {purpose: newest(self.changes, purpose, at_ms) for purpose in PURPOSES}
        return {
            purpose: {
                "allowed": change.granted if change else self.defaults[purpose],
                "since_ms": change.time_ms if change else None,
                "basis": change.basis if change else "",
                "text_version": change.text_version if change else "",
            }
            for purpose, change in newest_of.items()
        }


class ErasureState(NamedTuple):
    before_ms: int
    done: bool  # the tables are clear
    places: list[PlaceStatus]


def consents(session: Session, settings: Settings, user_id: str) -> ConsentState:
    """What a user has allowed."""
    changes = consent_store.read_changes(session, [user_id])[user_id]
    return ConsentState(consent_store.in_order(changes), settings.consent.defaults)


def change_consents(
    session: Session,
    settings: Settings,
    changes: Iterable[tuple[str, ConsentChange]],
    audit: AuditEntry | None = None,
) -> int:
    """Stores changes of users, then sends each user's record to the job; returns their number.

    Repeating it changes nothing. audit: of the only change.
    """

    listed = list(changes)
    with audited(session, settings, audit) as entry:
        count = consent_store.apply_changes(
            session,
            listed,
            partial(send, settings, settings.topics.consents),
            ttl_s=consent_store.ttl_s(settings.topics.decisions_retention_ms),
        )
        if audit is not None:
            entry.after = listed[0][1]._asdict()
    return count


def send_consents(settings: Settings, session: Session, users: Sequence[str]) -> None:
    """Tells the workers what the table says of users. Raises ServiceError."""
    read, topic = partial(consent_store.read_changes, session), settings.topics.consents
    consent_store.send_users(read, users, partial(send, settings, topic))


def erasure(session: Session, settings: Settings, user_id: str) -> ErasureState | None:
    """The newest erasure of a user; None: none was asked for here, and none is carried out."""
    found = read_runs(session, [user_id]).get(user_id)
    return None if found is None else _state(settings, found)


def request_erasure(
    session: Session,
    settings: Settings,
    user_id: str,
    before_ms: int,
    audit: AuditEntry | None = None,
) -> ErasureState:
    """Makes the job forget a user; `liveprofile serve chores` deletes the rows."""
    known = read_runs(session, [user_id]).get(user_id)
    if known is not None and known.before_ms >= before_ms:
        return _state(settings, known)  # repeated, or covered by a later one
    with audited(session, settings, audit) as entry:
        send_erasures(settings, {user_id: before_ms})
        note_requests(session, settings, {user_id: before_ms})
        entry.after = {"before_ms": before_ms}
    return _state(settings, ErasureRun(before_ms, before_ms, REQUESTED))


def note_requests(session: Session, settings: Settings, before_ms: Mapping[str, int]) -> None:
    """From now on nothing shows the rows of users from before their times. Raises ServiceError."""
    keep_s = consent_store.ttl_s(settings.topics.decisions_retention_ms)
    runs = {user_id: ErasureRun(at, now_ms(), REQUESTED) for user_id, at in before_ms.items()}
    write_runs(session, runs, keep_s)


def _state(settings: Settings, known: ErasureRun) -> ErasureState:
    places = place_statuses(known.before_ms, known, settings, now_ms())
    return ErasureState(known.before_ms, is_done(known, known.before_ms), list(places))


class PendingErasures:
    """The erasures of the topic whose rows are not deleted yet; it reads the topics on."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._tails: dict[str, TableTail[Any]] = {}
        self._done: dict[str, int] = {}  # the time of each user's erasure that is carried out

    def find(self, session: Session, repeat_ms: int = 0) -> dict[str, int]:
        """The times of the erasures by user, when the workers know of them. Raises ServiceError.

        repeat_ms: erasures that have left rows come again after so long.
        """
        settings, book = self._settings, IdentityTable()
        erased = self._read(erasures_spec(settings)).users()
        if settings.merges.enabled:
            book = self._read(merges_spec(settings))
        erased |= erase_other_ids(settings, book, erased)
        forget_merges(settings, book, erased)
        # A time may be 0, and a later erasure of a user counts anew.
        todo = {user: at for user, at in erased.items() if self._done.get(user, -1) < at}
        runs = read_runs(session, todo) if len(todo) <= PART_USERS else scan_runs(session)
        for user, run in runs.items():
            at = todo.get(user, run.before_ms + 1)
            if is_done(run, at):
                self._done[user] = todo.pop(user)
            elif run.remaining == REQUESTED or at > run.before_ms:
                continue
            elif now_ms() < run.deleted_ms + repeat_ms:
                del todo[user]
        if todo:
            new = {user: at for user, at in todo.items() if user not in runs or runs[user][0] < at}
            note_requests(session, settings, new)
            time.sleep(SETTLE_S)
        return todo

    def carry_out(self, session: Session) -> None:
        """Deletes the rows of all of them. Raises ServiceError."""
        todo = self.find(session, REPEAT_MS)
        for _ in delete_users(self._settings, session, todo):
            pass

    def _read(self, spec: TableSpec[Any]) -> Any:
        """The table up to the topic's present end."""
        if spec.noun not in self._tails:
            partition_ranges(self._settings, spec.topic)  # without the topic nothing would follow
            self._tails[spec.noun] = TableTail(self._settings, spec)
        try:
            return self._tails[spec.noun].read().value()
        except ServiceError:
            self._tails.pop(spec.noun).close()
            raise


def delete_users(
    settings: Settings, session: Session, todo: Mapping[str, int]
) -> Iterator[tuple[str, int, Erasure]]:
    """Deletes the rows of users; yields each with the time when it was done. Raises ServiceError.

    todo: the time of each user's erasure.
    """
    keep_s = consent_store.ttl_s(settings.topics.decisions_retention_ms)
    cuts = {user: Cut.of(user, before_ms, settings.window) for user, before_ms in todo.items()}
    remaining = iter(cuts.items())
    while part := dict(itertools.islice(remaining, PART_USERS)):
        for user, done in erase_users(session, part):
            done_ms = now_ms()
            write_runs(session, {user: ErasureRun(todo[user], done_ms, done.pending)}, keep_s)
            yield user, done_ms, done


def erase_other_ids(
    settings: Settings, table: IdentityTable, erased: Mapping[str, int]
) -> dict[str, int]:
    """Erases the other ids of erased users, such as those that the read API has erased.

    erased: the time of each erasure. Returns the new ones. Raises ServiceError.
    """
    due = missing_erasures(table, erased, (user_id for user_id in erased if user_id in table))
    if due:
        send_erasures(settings, due)
    return due


def send_erasures(settings: Settings, before_ms: Mapping[str, int]) -> None:
    """Tells the workers the time of each user's erasure. Raises ServiceError."""
    records = (
        (key_of(user_id), erasures.to_record(user_id, at)) for user_id, at in before_ms.items()
    )
    send(settings, settings.topics.erasures, records)


def forget_merges(settings: Settings, table: IdentityTable, erased: Container[str]) -> int:
    """Removes merges that name erased users; returns the number of records. Raises ServiceError."""
    records = (
        (key_of(alias_id), merges.to_record(alias_id, kept) if kept else None)
        for alias_id, kept in without_users(table, erased).items()
    )
    return send(settings, settings.topics.merges, records)


def send(settings: Settings, topic: str, records: Iterable[tuple[bytes, bytes | None]]) -> int:
    """Sends records with keys and values; returns their number. Raises ServiceError."""
    return send_all(settings, topic, ((*each, CONTENT_TYPE) for each in records))
