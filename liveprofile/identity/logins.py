"""Logins of anonymous ids: what an event says, and whether it becomes a merge. Pure.

An event that an account sends names the anonymous id that its device used before. The first login
of an anonymous id merges it into the account. A later one changes nothing: who has got hold of an
anonymous id cannot take it away from the account that has it.

Which login is first is decided by their arrival at the broker (login_service.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol

import orjson

from liveprofile.events.validation import AcceptedEvent, accept
from liveprofile.identity.merges import END_OF_TIME_MS, IdentityTable, Merge, merged, of_persons
from liveprofile.kafka.records import Progress, Record
from liveprofile.settings import LimitSettings, LoginSettings

MAX_IDS_BY_LOGIN = 90  # of a person; `identity merge` adds more, up to MAX_IDS
MAX_MERGES = 1_000_000  # each worker keeps all

PURPOSE = "profiling"
_FIELD, _ESCAPE = b'"anonymous_id"', b"\\u"


class Outcome(StrEnum):
    """What became of an event that names an anonymous id."""

    MERGED = "merged"
    REPEATED = "repeated"  # the account, or its person, has the id already
    BEFORE_LOGIN = "before_login"  # user_id is the anonymous id itself
    CONFLICT = "conflict"  # another person has the id
    SPLIT = (
        "split"  # the id was merged and split: only `liveprofile identity merge` merges it again
    )
    ERASED = "erased"  # an id of either person was erased
    NO_CONSENT = "no_consent"  # the anonymous id or the account does not allow profiling
    BAD_EVENT = "bad_event"  # the job rejects the event
    BAD_ID = "bad_id"  # empty, too long, with control characters, or no text and no integer
    BAD_PATTERN = "bad_pattern"  # not what the shop's anonymous ids look like
    ACCOUNT_PATTERN = "account_pattern"  # the account's id looks like an anonymous one
    CIRCLE = "circle"  # the account is an alias of the anonymous id
    TOO_MANY_IDS = "too_many_ids"  # of the account's person
    TOO_MANY_MERGES = "too_many_merges"  # of all users


# What is no news: each event of a client that always sends the field is one of these.
USUAL = frozenset({Outcome.MERGED, Outcome.REPEATED, Outcome.BEFORE_LOGIN})


class Login(NamedTuple):
    """An account has sent an event with an anonymous id."""

    anonymous_id: str
    user_id: str
    record_ms: int  # timestamp of the Kafka record
    partition: int
    offset: int

    @property
    def order(self) -> tuple[int, int, int]:
        """By arrival at the broker. A client cannot choose it, as it can its event_time."""
        return (self.record_ms, self.partition, self.offset)


class Consents(Protocol):
    def allowed(self, user_id: str, purpose: str, at_ms: int) -> bool: ...


class Decisions(NamedTuple):
    """What users have decided."""

    merges: IdentityTable
    consents: Consents  # of persons with these merges
    erasures: Container[str]  # ids that were ever erased


class LoginRules:
    """Turns records into logins, and logins into merges."""

    def __init__(self, settings: LoginSettings, limits: LimitSettings):
        self._settings, self._limits = settings, limits
        self._pattern = re.compile(settings.anonymous_id_pattern)

    def read(self, record: Record) -> Login | Outcome | None:
        """The login of a record of the input topic, or why it is none; None: it names no id."""
        value = record.value
        # Most events do not have the field, and need no parser.
        if value is None or not (_FIELD in value or _ESCAPE in value):
            return None
        event = accept(value, record.timestamp_ms, self._limits)
        if not isinstance(event, AcceptedEvent):
            return Outcome.BAD_EVENT if event is None and _FIELD in value else None
        if event.anonymous_id is None:
            return None
        return self._outcome_of_ids(event.anonymous_id, event.user_id) or Login(
            event.anonymous_id,
            event.user_id,
            record.timestamp_ms,
            record.partition,
            record.offset,
        )

    def _outcome_of_ids(self, anonymous_id: str, user_id: str) -> Outcome | None:
        if not anonymous_id:
            return Outcome.BAD_ID
        if anonymous_id == user_id:
            return Outcome.BEFORE_LOGIN
        if not self._pattern.fullmatch(anonymous_id):
            return Outcome.BAD_PATTERN
        return Outcome.ACCOUNT_PATTERN if self._pattern.fullmatch(user_id) else None

    def decide(
        self, login: Login, decisions: Decisions, now_ms: int, since_ms: int
    ) -> Outcome | tuple[Merge, ...]:
        """The merges of the anonymous id with the new one, from `since_ms` on, or why there is no
        new one."""
        table, anonymous_id, user_id = decisions.merges, login.anonymous_id, login.user_id
        if (known := outcome_of_merges(table, login)) is not None:
            return known
        if table.resolve(user_id, END_OF_TIME_MS) == anonymous_id:
            return Outcome.CIRCLE
        ids = of_persons(table, (anonymous_id, user_id))
        if any(each in decisions.erasures for each in ids):
            return Outcome.ERASED
        both = (anonymous_id, user_id)
        if not all(decisions.consents.allowed(each, PURPOSE, now_ms) for each in both):
            return Outcome.NO_CONSENT
        if len(ids) > MAX_IDS_BY_LOGIN:
            return Outcome.TOO_MANY_IDS
        if len(table) >= MAX_MERGES:
            return Outcome.TOO_MANY_MERGES
        return merged(table, anonymous_id, user_id, since_ms)


def outcome_of_merges(table: IdentityTable, login: Login) -> Outcome | None:
    """What merges of the anonymous id say about a login of it; None: it has none."""
    if not (merges := table.merges(login.anonymous_id)):
        return None
    if merges[-1].until_ms is not None:
        return Outcome.SPLIT
    persons = {table.resolve(each, END_OF_TIME_MS) for each in (merges[-1].user_id, login.user_id)}
    return Outcome.REPEATED if len(persons) == 1 else Outcome.CONFLICT


# How many events had which outcome, as notes beside the offsets that are committed: they are part
# of its transactions, go on after a restart, and the exporter reads them without the process.
Counts = dict[int, Counter[str]]  # by partition of the events, of outcomes


def write_note(counts: Counter[str]) -> str:
    return orjson.dumps(dict(counts)).decode()


def read_counts(progress: Mapping[int, Progress]) -> Counts:
    """Offsets that another tool has committed have no counts, or none of these names."""
    return {number: _read_note(each.note) for number, each in progress.items()}


def _read_note(note: str) -> Counter[str]:
    try:
        found = orjson.loads(note)
    except orjson.JSONDecodeError:
        return Counter()
    if not isinstance(found, dict):
        return Counter()
    known = (each.value for each in Outcome)
    return Counter({name: found[name] for name in known if isinstance(found.get(name), int)})
