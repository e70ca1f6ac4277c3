"""Follows the input topic and merges each anonymous id into the account that it logs in to.

Exactly once: the merges of a batch and the offsets of their events are committed in one exclusive
Kafka transaction. A process that is killed leaves nothing half done, and a second process fences
the first. The second reads the merges after that, so no two decide about one id.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from liveprofile.identity.logins import (
    USUAL,
    Counts,
    Decisions,
    Login,
    LoginOrder,
    LoginRules,
    Outcome,
    outcome_of_merges,
    read_counts,
    write_note,
)
from liveprofile.identity.records import to_record
from liveprofile.kafka.offsets import committed_progress, login_group, partition_ranges
from liveprofile.kafka.records import ExclusiveWriter, OutputRecord, Progress, Record
from liveprofile.kafka.tail import TopicTail
from liveprofile.pseudonym import user_pseudonym
from liveprofile.settings import Settings
from liveprofile.wire.user_records import CONTENT_TYPE, key_of

log = logging.getLogger(__name__)

POLL_S = 0.5
COMMIT_INTERVAL_S = 5.0  # of offsets without a merge
LOG_INTERVAL_S = 60.0
PARTITIONS_INTERVAL_S = 60.0
TRANSACTION_LOGINS = 5_000
HELD_LOGINS = 50_000  # then partitions that are ahead wait; 20 MB

ReadDecisions = Callable[[], Decisions]


class Refusals(NamedTuple):
    """Since the last line of the log."""

    counts: Counter[str]
    examples: dict[str, str]


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
        held_logins: int = HELD_LOGINS,
    ):
        self._settings, self._events, self._transactions = settings, events, transactions
        self._read_decisions, self._clock_ms = read_decisions, clock_ms
        self._held_logins = held_logins
        self._rules = LoginRules(settings.logins, settings.limits)
        self._decisions = read_decisions()
        self._order = LoginOrder()
        self._stop, self._is_pausing = threading.Event(), False
        self._all_counts = counts
        self._committed = dict(events.positions)
        self._refusals = Refusals(Counter(), {})
        self.counts: Counter[str] = Counter()  # since the start

    @classmethod
    def connect(cls, settings: Settings, read_decisions: ReadDecisions) -> LoginMerger:
        """Fences the process that runs already, and goes on where it was.

        Raises ServiceError if Kafka does not answer or lacks a topic, WriterFencedError.
        """
        topic, group = settings.topics.events, login_group(settings.kafka)
        partition_ranges(settings, settings.topics.merges)
        transactions = ExclusiveWriter(settings, group)
        progress = committed_progress(settings, topic, group)
        _warn_of_expired(settings, progress)
        starts = {number: each.offset for number, each in progress.items()}
        events = TopicTail(settings, topic, group, starts)
        return cls(settings, events, transactions, read_decisions, read_counts(progress))

    def stop(self) -> None:
        """Makes `run` return soon. Any thread may call it."""
        self._stop.set()

    def run(self) -> dict[str, int]:
        """Merges until `stop`; returns how many events had which outcome.

        Raises ServiceError, WriterFencedError if another process has taken over. A new process goes
        on after the last committed event.
        """
        committed_s = logged_s = found_s = time.monotonic()
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
                if now_s - found_s >= PARTITIONS_INTERVAL_S:
                    found_s = now_s
                    self._events.find_partitions()
            self.commit_progress()
        finally:
            self._events.close()
            self._log()
        return dict(self.counts)

    def step(self) -> None:
        """Reads what has arrived, and decides about logins to which no earlier one can come."""
        for record in self._events.poll(POLL_S):
            self._order.has_read(record.partition, record.timestamp_ms)
            self._take(record)
        if self._order.needs_ends:
            self._order.ask(self._events.ends())
        while logins := self._order.release(self._events.positions, TRANSACTION_LOGINS):
            self._decide(logins)
        self._pause_partitions()

    def commit_progress(self) -> None:
        """Commits the offsets of events without a login."""
        if self._order.done(self._events.positions) != self._committed:
            self._commit([])

    def _take(self, record: Record) -> None:
        found = self._rules.read(record)
        if isinstance(found, Outcome):
            self._count(record.partition, found, f"of {_place(record)}")
        elif found is not None and (self._is_merged(found) or not self._order.hold(found)):
            self._count(record.partition, Outcome.REPEATED)

    def _is_merged(self, login: Login) -> bool:
        return outcome_of_merges(self._decisions.merges, login) is Outcome.REPEATED

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
            self._count(login.partition, outcome, _described(login))
        if records:
            self._commit(records)

    def _commit(self, records: list[OutputRecord]) -> None:
        done, topics = self._order.done(self._events.positions), self._settings.topics
        progress = {
            number: Progress(offset, write_note(self._all_counts.get(number, Counter())))
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
            self._refusals.counts[outcome.value] += 1
            self._refusals.examples.setdefault(outcome.value, example)

    def _log(self) -> None:
        """One line for each reason, however many logins are refused."""
        log.info("%s", dict(self.counts))
        for outcome, count in self._refusals.counts.items():
            example = self._refusals.examples[outcome]
            log.warning("%d logins not merged: %s, the first %s", count, outcome, example)
        self._refusals = Refusals(Counter(), {})

    def _pause_partitions(self) -> None:
        """With too many logins in memory, partitions that are ahead wait for the others."""
        if (full := len(self._order) > self._held_logins) or self._is_pausing:
            positions = self._events.positions
            self._events.pause_all_but(self._order.slowest(positions) if full else positions)
            self._is_pausing = full


def _place(record: Record) -> str:
    return f"{record.topic}/{record.partition} offset {record.offset}"


def _described(login: Login) -> str:
    alias, user = user_pseudonym(login.anonymous_id), user_pseudonym(login.user_id)
    return f"{alias} into {user}, partition {login.partition} offset {login.offset}"


def _warn_of_expired(settings: Settings, progress: Mapping[int, Progress]) -> None:
    ranges = partition_ranges(settings, settings.topics.events)
    lost = sum(
        max(0, ranges[number].first - each.offset)
        for number, each in progress.items()
        if number in ranges
    )
    if lost:
        log.warning("%d events expired before they were read: their logins are not merged", lost)
