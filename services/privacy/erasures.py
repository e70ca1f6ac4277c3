"""An erasure, from the request to the last deleted row, whoever asks for it.

1. The workers are told by the topic of erasures: they forget what is older than its time.
2. It is noted in the table `erasure`: from then on no reader shows older rows of the user.
3. Merges that name the user are removed, after the person's other ids are erased, too.
4. The rows are deleted (offline/erasure/erase.py), and the log says what is left.

The command does all steps at once. The API does the first two, and the chore the others: it reads
the topics on, so it also finds what a killed command has left.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from cassandra.cluster import Session

from liveprofile.consent.changes import ttl_s
from liveprofile.errors import ServiceError
from liveprofile.feeds.feed import TableSpec, TableTail
from liveprofile.feeds.users import erasures_spec, merges_spec, read_merges
from liveprofile.identity import merges
from liveprofile.identity.merges import (
    IdentityTable,
    former_ids,
    missing_erasures,
    of_persons,
    without_users,
)
from liveprofile.kafka.offsets import partition_ranges
from liveprofile.privacy import erasures
from liveprofile.rows.operations import AuditEntry
from liveprofile.settings import Settings
from liveprofile.storage.cql import now_ms
from liveprofile.units import MINUTE_MS
from liveprofile.wire.user_records import key_of
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
from services.privacy.user_topics import send

PART_USERS = 500  # tables without a key of the user are read once or twice for so many
SETTLE_S = 2.0  # until the workers know of an erasure
REPEAT_MS = 10 * MINUTE_MS  # rows that an erasure has left may be deletable then


class ErasureState(NamedTuple):
    before_ms: int
    done: bool  # the tables are clear
    places: list[PlaceStatus]


class RequestedErasures(NamedTuple):
    """What a request for persons has accepted."""

    before_ms: dict[str, int]  # the time of each id's erasure
    former_ids: list[str]  # once merged with them and split: not erased


class ErasedUser(NamedTuple):
    """A user whose rows are deleted."""

    user_id: str
    done_ms: int
    erasure: Erasure


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
    """Makes the job forget a user. The chore erases the person's other ids and deletes the rows.

    Repeating it changes nothing, nor does a time before that of a known erasure.
    """
    known = read_runs(session, [user_id]).get(user_id)
    if known is not None and known.before_ms >= before_ms:
        return _state(settings, known)
    with audited(session, settings, audit) as entry:
        _accept(session, settings, {user_id: before_ms})
        entry.after = {"before_ms": before_ms}
    return _state(settings, ErasureRun(before_ms, before_ms, REQUESTED))


def request_persons(
    session: Session, settings: Settings, user_ids: Iterable[str]
) -> RequestedErasures:
    """Makes the job forget all ids of persons, from now on. Raises ServiceError."""
    partition_ranges(settings, settings.topics.erasures)  # a missing topic erases nothing
    known = read_merges(settings)
    ids = of_persons(known, user_ids)
    before_ms = dict.fromkeys(ids, now_ms())
    former = list(former_ids(known, ids))
    _accept(session, settings, before_ms)
    # Last: until then a repetition finds all ids of a person.
    _forget_merges(settings, known, ids)
    return RequestedErasures(before_ms, former)


def _accept(session: Session, settings: Settings, before_ms: Mapping[str, int]) -> None:
    """Steps 1 and 2 for the time of each user's erasure. Raises ServiceError."""
    send_erasures(settings, before_ms)
    _note(session, settings, before_ms)


def send_erasures(settings: Settings, before_ms: Mapping[str, int]) -> None:
    """Tells the workers the time of each user's erasure. Raises ServiceError."""
    records = (
        (key_of(user_id), erasures.to_record(user_id, at)) for user_id, at in before_ms.items()
    )
    send(settings, settings.topics.erasures, records)


def _note(session: Session, settings: Settings, before_ms: Mapping[str, int]) -> None:
    """From now on nothing shows the rows of users from before their times. Raises ServiceError."""
    runs = {user_id: ErasureRun(at, now_ms(), REQUESTED) for user_id, at in before_ms.items()}
    write_runs(session, runs, ttl_s(settings.topics.decisions_retention_ms))


def _forget_merges(settings: Settings, known: IdentityTable, erased: Container[str]) -> None:
    """Removes merges that name erased users. Raises ServiceError."""
    records = (
        (key_of(alias_id), merges.to_record(alias_id, kept) if kept else None)
        for alias_id, kept in without_users(known, erased).items()
    )
    send(settings, settings.topics.merges, records)


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
        """The times of the erasures by user. Raises ServiceError.

        Other ids of a person, such as those of a user whom the API has erased, are erased here.
        repeat_ms: erasures that have left rows come again after so long.
        """
        settings, known = self._settings, IdentityTable()
        erased = self._read(erasures_spec(settings)).users()
        if settings.merges.enabled:
            known = self._read(merges_spec(settings))
        others = missing_erasures(known, erased, (user for user in erased if user in known))
        if others:
            send_erasures(settings, others)
            erased |= others
        _forget_merges(settings, known, erased)
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
        unknown = {
            user: at for user, at in todo.items() if user not in runs or runs[user].before_ms < at
        }
        if unknown:
            _note(session, settings, unknown)
        return todo

    def carry_out(self, session: Session) -> None:
        """Deletes the rows of all of them. Raises ServiceError."""
        for _ in carry_out(session, self._settings, self.find(session, REPEAT_MS)):
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


def carry_out(
    session: Session, settings: Settings, before_ms: Mapping[str, int]
) -> Iterator[ErasedUser]:
    """Deletes the rows of users, when the workers know of their erasures. Raises ServiceError.

    before_ms: the time of each user's erasure.
    """
    if before_ms:
        time.sleep(SETTLE_S)
    yield from delete_users(session, settings, before_ms)


def delete_users(
    session: Session, settings: Settings, before_ms: Mapping[str, int]
) -> Iterator[ErasedUser]:
    """Deletes the rows of users, whose erasures the workers have known for SETTLE_S.

    before_ms: the time of each user's erasure. Raises ServiceError.
    """
    keep_s = ttl_s(settings.topics.decisions_retention_ms)
    cuts = {user: Cut.of(user, at, settings.window) for user, at in before_ms.items()}
    remaining = iter(cuts.items())
    while part := dict(itertools.islice(remaining, PART_USERS)):
        for user, done in erase_users(session, part):
            done_ms = now_ms()
            write_runs(session, {user: ErasureRun(before_ms[user], done_ms, done.pending)}, keep_s)
            yield ErasedUser(user, done_ms, done)
