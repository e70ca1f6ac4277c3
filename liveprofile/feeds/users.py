"""What users decided, and which ids are one person: the topics of consents, erasures and merges."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from liveprofile.consent.changes import ConsentChange, ConsentTable, PersonConsentTable
from liveprofile.consent.changes import read_record as read_consent
from liveprofile.errors import InputError, SetupError
from liveprofile.feeds.feed import Current, Feed, Fixed, OpenSource, TableSpec, TopicTable
from liveprofile.identity.merges import IdentityTable, Merge
from liveprofile.identity.merges import read_record as read_merge
from liveprofile.kafka.records import Record
from liveprofile.privacy.erasures import ErasureTable
from liveprofile.privacy.erasures import read_record as read_erasure
from liveprofile.pseudonym import key_pseudonym
from liveprofile.settings import Settings
from liveprofile.wire.user_records import WHOLE_KEY, user_of

log = logging.getLogger(__name__)


Users = TypeVar("Users", ConsentTable, ErasureTable, IdentityTable)


class UserTable(TopicTable[Users]):
    """A topic whose records are keyed by users. Its value grows with later records.

    read_record: the user and what to put, from key and value; raises InputError. newest_ms: the
    latest time of what is put, at most `ahead_ms` after the record's. removed: what to put for a
    user whose record was removed. topic: must have the record with WHOLE_KEY.
    """

    def __init__(
        self,
        users: Users,
        read_record: Callable[[bytes | None, bytes], tuple[str, Any]],
        newest_ms: Callable[[Any], int],
        ahead_ms: int,
        removed: Any,
        topic: str,
    ):
        self._users, self._read_record, self._newest_ms = users, read_record, newest_ms
        self._ahead_ms, self._removed, self._topic = ahead_ms, removed, topic

    def put(self, record: Record) -> None:
        if record.key == WHOLE_KEY:
            self._topic = ""
        elif record.value is None:
            self._users.put(user_of(record.key), self._removed)
        else:
            user_id, found = self._read_record(record.key, record.value)
            if self._newest_ms(found) > record.timestamp_ms + self._ahead_ms:
                raise InputError("a time is in the future of the record")
            self._users.put(user_id, found)

    def refuse(self, record: Record, error: InputError) -> None:
        position = f"{record.topic}/{record.partition} offset {record.offset}"
        user = key_pseudonym(record.key or b"")
        log.warning("%s, %s: %s; the record is ignored", position, user, error)

    def value(self) -> Users:
        return self._users

    def check_whole(self) -> None:
        if self._topic:
            raise SetupError(
                f"topic {self._topic} is missing or was created again: run `liveprofile job setup`"
            )


def _spec(noun: str, topic: str, new: Callable[[], Users], *parts: Any) -> TableSpec[Users]:
    """parts: what a UserTable needs besides the users."""
    return TableSpec(
        noun,
        topic,
        f"liveprofile-{noun}",
        lambda: UserTable(new(), *parts),
        lambda users: f"the {noun} of {len(users)} users stay",
    )


def consents_spec(settings: Settings) -> TableSpec[ConsentTable]:
    new = partial(ConsentTable, settings.consent.defaults)
    skew_ms = settings.limits.max_clock_skew_ms

    def newest_ms(changes: list[ConsentChange]) -> int:
        return max([each.time_ms for each in changes], default=0)

    # A record is removed if the user is erased, or has no consents any more.
    topic = settings.topics.consents
    return _spec("consents", topic, new, read_consent, newest_ms, skew_ms, (), topic)


def erasures_spec(settings: Settings) -> TableSpec[ErasureTable]:
    topic, skew_ms = settings.topics.erasures, settings.limits.max_clock_skew_ms
    return _spec("erasures", topic, ErasureTable, read_erasure, int, skew_ms, None, topic)


def merges_spec(settings: Settings) -> TableSpec[IdentityTable]:
    ahead_ms = settings.limits.max_clock_skew_ms + settings.merges.delay_ms

    def newest_ms(merges: list[Merge]) -> int:
        return max((each.until_ms or each.since_ms for each in merges), default=0)

    topic, parts = settings.topics.merges, (read_merge, newest_ms, ahead_ms, ())
    return _spec("merges", topic, IdentityTable, *parts, topic)


def follow(
    settings: Settings,
    spec: TableSpec[Users],
    open_source: OpenSource | None = None,
    **timing: float,
) -> Feed[Users]:
    """The feed of a job. open_source: other than Kafka. Raises ServiceError."""
    source = open_source or (lambda: spec.open(settings))
    return Feed(spec, spec.new().value(), source, **timing)


class PersonConsents:
    """The consents of persons: what one of their ids does not allow, none allows.

    It closes both feeds.
    """

    def __init__(
        self, settings: Settings, consents: Current[ConsentTable], merges: Current[IdentityTable]
    ):
        self._defaults, self._consents, self._merges = settings.consent.defaults, consents, merges

    def current(self) -> ConsentTable:
        consents, merges = self._consents.current(), self._merges.current()
        return PersonConsentTable(consents, merges, self._defaults) if len(merges) else consents

    def close(self) -> None:
        self._merges.close()
        self._consents.close()


def follow_consents(settings: Settings) -> Current[ConsentTable]:
    """The consents of a job; with `merges.enabled`, of persons. Raises ServiceError."""
    consents = follow(settings, consents_spec(settings))
    if not settings.merges.enabled:
        return consents
    return PersonConsents(settings, consents, follow_merges(settings))


def follow_merges(settings: Settings) -> Current[IdentityTable]:
    """The merges of a job; without `merges.enabled` nobody is merged. Raises ServiceError."""
    if not settings.merges.enabled:
        return Fixed(IdentityTable())
    return follow(settings, merges_spec(settings))


def read_consents(settings: Settings) -> ConsentTable:
    """Reads the topic once to its end. Raises ServiceError."""
    consents, merges = consents_spec(settings).read(settings).value(), read_merges(settings)
    if not len(merges):
        return consents
    return PersonConsentTable(consents, merges, settings.consent.defaults)


def read_erasures(settings: Settings) -> ErasureTable:
    """Reads the topic once to its end. Raises ServiceError."""
    return erasures_spec(settings).read(settings).value()


def read_merges(settings: Settings) -> IdentityTable:
    """Reads the topic once to its end, if the settings follow it. Raises ServiceError."""
    if not settings.merges.enabled:
        return IdentityTable()
    return merges_spec(settings).read(settings).value()
