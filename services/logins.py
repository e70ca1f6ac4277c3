"""Follows the input topic and merges each anonymous id into the account that it logs in to.

An event that an account sends names the anonymous id that its device used before. The first login
of an anonymous id merges it into the account. A later one changes nothing: who has got hold of an
anonymous id cannot take it away from the account that has it.

Exactly once: the merges of a batch and the offsets of their events are committed in one exclusive
Kafka transaction. A process that is killed leaves nothing half done, and a second process fences
the first. The second reads the merges after that, so no two decide about one id.

Two logins of an anonymous id may be in different partitions, and how fast partitions are read
changes with each run. So all partitions are read up to an end that was asked for after a login was
read: no earlier one can come then. Timestamps of a partition's records must not fall, as those that
brokers set on arrival do not.
"""

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol, Self

import orjson

from liveprofile.attributes.event_types import event_types
from liveprofile.events.validation import AcceptedEvent, EventType, accept
from liveprofile.identity.merges import (
    END_OF_TIME_MS,
    IdentityTable,
    Merge,
    merged,
    of_persons,
    to_record,
)
from liveprofile.kafka.offsets import committed_progress, login_group, partition_ranges
from liveprofile.kafka.records import ExclusiveWriter, OutputRecord, Progress, Record
from liveprofile.kafka.tail import TopicTail
from liveprofile.pseudonym import user_pseudonym
from liveprofile.settings import LimitSettings, LoginSettings, Settings
from liveprofile.wire.user_records import CONTENT_TYPE, key_of

MAX_IDS_BY_LOGIN = 90  # of a person; `identity merge` adds more, up to MAX_IDS
MAX_MERGES = 1_000_000  # each worker keeps all

PURPOSE = "profiling"

log = logging.getLogger(__name__)
_FIELD, _ESCAPE = b'"anonymous_id"', b"\\u"


class Outcome(StrEnum):
    """What became of an event that names an anonymous id."""

    MERGED = "merged"
    REPEATED = "repeated"  # the account, or its person, has the id already
    BEFORE_LOGIN = "before_login"  # user_id is the anonymous id itself
    CONFLICT = "conflict"  # another person has the id
    SPLIT = "split"  # it was merged and split: only `liveprofile identity merge` merges it again
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
    """An account has sent an event with an anonymous id.

    Logins are decided in the order of the last three fields, that of arrival at the broker: a
    client cannot choose it, as it can its event_time.
    """

    anonymous_id: str
    user_id: str
    record_ms: int  # timestamp of the Kafka record
    partition: int
    offset: int


class Consents(Protocol):
    def allowed(self, user_id: str, purpose: str, at_ms: int) -> bool: ...


class Decisions(NamedTuple):
    """What users have decided."""

    merges: IdentityTable
    consents: Consents  # of persons with these merges
    erasures: Container[str]  # ids that were ever erased


class LoginRules:
    """Turns records into logins, and logins into merges."""

    def __init__(
        self, settings: LoginSettings, limits: LimitSettings, types: Mapping[str, EventType]
    ):
        self._settings, self._limits, self._types = settings, limits, types
        self._pattern = re.compile(settings.anonymous_id_pattern)

    def read(self, record: Record) -> Login | Outcome | None:
        """The login of a record of the input topic, or why it is none; None: it names no id."""
        value = record.value
        # Most events do not have the field, and need no parser.
        if value is None or not (_FIELD in value or _ESCAPE in value):
            return None
        event = accept(value, record.timestamp_ms, self._limits, self._types)
        if not isinstance(event, AcceptedEvent):
            return Outcome.BAD_EVENT if event is None and _FIELD in value else None
        if event.anonymous_id is None:
            return None
        anonymous_id, user_id = event.anonymous_id, event.user_id
        if not anonymous_id:
            return Outcome.BAD_ID
        if anonymous_id == user_id:
            return Outcome.BEFORE_LOGIN
        if not self._pattern.fullmatch(anonymous_id):
            return Outcome.BAD_PATTERN
        if self._pattern.fullmatch(user_id):
            return Outcome.ACCOUNT_PATTERN
        at = record.timestamp_ms, record.partition, record.offset
        return Login(anonymous_id, user_id, *at)

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


def read_counts(progress: Mapping[int, Progress]) -> Counts:
    """Offsets that another tool has committed have no counts, or none of these names."""
    return {number: _read_note(each.note) for number, each in progress.items()}


def _read_note(note: str) -> Counter[str]:
    try:
        found = orjson.loads(note)
    except orjson.JSONDecodeError:
        found = None
    items = found.items() if isinstance(found, dict) else ()
    return Counter({name: n for name, n in items if name in set(Outcome) and isinstance(n, int)})


POLL_S = 0.5
COMMIT_INTERVAL_S = 5.0  # of offsets without a merge
LOG_INTERVAL_S = PARTITIONS_CHECK_S = 60.0
TRANSACTION_LOGINS = 5_000

ReadDecisions = Callable[[], Decisions]


class LoginMerger:
    """Reads, decides and commits until `stop`. One thread.

    events, transactions: opened in the other order. read_decisions: what the topics of merges,
    consents and erasures hold at the time of the call. counts: what was committed before.
    """

    def __init__(
        self,
        settings: Settings,
        events: TopicTail,
        transactions: ExclusiveWriter,
        read_decisions: ReadDecisions,
        counts: Counts,
        *,
        clock_ms: Callable[[], int] = lambda: round(time.time() * 1_000),
    ):
        self._settings, self._events, self._transactions = settings, events, transactions
        self._read_decisions, self._clock_ms = read_decisions, clock_ms
        self._rules = LoginRules(settings.logins, settings.limits, event_types(settings).by_name)
        self._decisions = read_decisions()
        # The first login of each pair of ids in a partition that is not decided yet.
        self._held: dict[tuple[str, str, int], Login] = {}
        self._stop = threading.Event()
        self._all_counts = counts
        self._committed = dict(events.positions)
        # Since the last line of the log: how many of each outcome, and the first.
        self._refused: dict[str, tuple[int, str]] = {}
        self.counts: Counter[str] = Counter()  # since the start

    @classmethod
    def connect(cls, settings: Settings, read_decisions: ReadDecisions) -> Self:
        """Fences the process that runs already, and goes on where it was.

        Raises ServiceError if Kafka does not answer or lacks a topic, WriterFencedError.
        """
        topic, group = settings.topics.events, login_group(settings.kafka)
        partition_ranges(settings, settings.topics.merges)
        transactions = ExclusiveWriter(settings, group)
        progress = committed_progress(settings, topic, group)
        _warn_of_expired(settings, progress)
        starts = {number: each.offset for number, each in progress.items()}
        events = TopicTail(settings, topic, group, starts, partitions_check_s=PARTITIONS_CHECK_S)
        return cls(settings, events, transactions, read_decisions, read_counts(progress))

    def stop(self) -> None:
        """Makes `run` return soon. Any thread may call it."""
        self._stop.set()

    def run(self) -> dict[str, int]:
        """Merges until `stop`; returns how many events had which outcome.

        Raises ServiceError, WriterFencedError if another process has taken over. A new process goes
        on after the last committed event.
        """
        committed_s = logged_s = time.monotonic()
        try:
            while not self._stop.is_set():
                self.step()
                now_s = time.monotonic()
                if now_s - committed_s >= COMMIT_INTERVAL_S:
                    committed_s = now_s
                    self.commit_progress()
                if now_s - logged_s >= LOG_INTERVAL_S:
                    logged_s = now_s
                    self._log()
            self.commit_progress()
        finally:
            self._events.close()
            self._log()
        return dict(self.counts)

    def step(self) -> None:
        """Reads what has arrived, and decides about the logins to which no earlier one can come.

        A pair of ids that is read costs 400 bytes until then.
        """
        self._read()
        if not self._held:
            return
        ends = self._events.ends()
        while not self._events.has_read(ends):
            if self._stop.is_set():
                return
            self._read()
        ready = [each for each in self._held.values() if each.offset < ends.get(each.partition, 0)]
        ready.sort(key=lambda login: login[2:])
        for start in range(0, len(ready), TRANSACTION_LOGINS):
            self._decide(ready[start : start + TRANSACTION_LOGINS])

    def commit_progress(self) -> None:
        """Commits the offsets of events without a login."""
        if self._done() != self._committed:
            self._commit([])

    def _read(self) -> None:
        for record in self._events.poll(POLL_S):
            found = self._rules.read(record)
            if isinstance(found, Outcome):
                place = f"of {record.topic}/{record.partition} offset {record.offset}"
                self._count(record.partition, found, place)
            elif found is not None:
                key = (found.anonymous_id, found.user_id, found.partition)
                known = outcome_of_merges(self._decisions.merges, found)
                is_merged = known is Outcome.REPEATED
                if is_merged or self._held.setdefault(key, found) is not found:
                    self._count(record.partition, Outcome.REPEATED)

    def _done(self) -> dict[int, int]:
        """By partition, the offset before which no login is held."""
        done = dict(self._events.positions)
        for each in self._held.values():
            done[each.partition] = min(done[each.partition], each.offset)
        return done

    def _decide(self, logins: list[Login]) -> None:
        """Writes the merges of logins, in order, and commits how far the topic is done."""
        self._decisions, now_ms = self._read_decisions(), self._clock_ms()
        since_ms = now_ms + self._settings.merges.delay_ms
        records: list[OutputRecord] = []
        decided: list[tuple[Login, Outcome]] = []
        for login in logins:
            found = self._rules.decide(login, self._decisions, now_ms, since_ms)
            if not isinstance(found, Outcome):
                # Later logins of the batch find it. If the commit fails, the process ends.
                self._decisions.merges.put(login.anonymous_id, found)
                value = to_record(login.anonymous_id, found)
                records.append((key_of(login.anonymous_id), value, CONTENT_TYPE))
                found = Outcome.MERGED
            decided.append((login, found))
        for login, outcome in decided:
            del self._held[login.anonymous_id, login.user_id, login.partition]
            alias, user = user_pseudonym(login.anonymous_id), user_pseudonym(login.user_id)
            place = f"partition {login.partition} offset {login.offset}"
            self._count(login.partition, outcome, f"{alias} into {user}, {place}")
        if records:
            self._commit(records)

    def _commit(self, records: list[OutputRecord]) -> None:
        done, topics = self._done(), self._settings.topics
        progress = {
            number: Progress(offset, orjson.dumps(self._all_counts.get(number, {})).decode())
            for number, offset in done.items()
        }
        self._transactions.commit(
            topics.merges, records, topics.events, progress, self._events.group_metadata()
        )
        self._committed = done

    def _count(self, partition: int, outcome: Outcome, example: str = "") -> None:
        self.counts[outcome.value] += 1
        self._all_counts.setdefault(partition, Counter())[outcome.value] += 1
        if outcome not in USUAL:
            count, first = self._refused.get(outcome.value, (0, example))
            self._refused[outcome.value] = count + 1, first

    def _log(self) -> None:
        """One line for each reason, however many logins are refused."""
        log.info("%s", dict(self.counts))
        for outcome, (count, first) in self._refused.items():
            log.warning("%d logins not merged: %s, the first %s", count, outcome, first)
        self._refused = {}


def _warn_of_expired(settings: Settings, progress: Mapping[int, Progress]) -> None:
    ranges = partition_ranges(settings, settings.topics.events)
    lost = sum(
        max(0, ranges[number].first - each.offset)
        for number, each in progress.items()
        if number in ranges
    )
    if lost:
        log.warning("%d events expired before they were read: their logins are not merged", lost)
