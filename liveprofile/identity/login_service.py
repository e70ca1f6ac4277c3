"""Follows the input topic and merges each anonymous id into the account that it logs in to.

Exactly once: the merges of a batch and the offsets of their events are committed in one exclusive
Kafka transaction. A process that is killed leaves nothing half done, and a second process fences
the first. The second reads the merges after that, so no two decide about one id.

Two logins of an anonymous id may be in different partitions, and how fast partitions are read
changes with each run. So all partitions are read up to an end that was asked for after a login was
read: no earlier one can come then. Timestamps of a partition's records must not fall, as those that
brokers set on arrival do not.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from liveprofile.identity.logins import (
    USUAL,
    Counts,
    Decisions,
    Login,
    LoginRules,
    Outcome,
    outcome_of_merges,
    read_counts,
    write_note,
)
from liveprofile.identity.records import to_record
from liveprofile.kafka.offsets import committed_progress, login_group, partition_ranges
from liveprofile.kafka.records import ExclusiveWriter, OutputRecord, Progress
from liveprofile.kafka.tail import TopicTail
from liveprofile.pseudonym import user_pseudonym
from liveprofile.settings import Settings
from liveprofile.wire.user_records import CONTENT_TYPE, key_of

log = logging.getLogger(__name__)

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
        self._rules = LoginRules(settings.logins, settings.limits)
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
        ready = [each for each in self._held.values() if each.offset < ends[each.partition]]
        ready.sort(key=lambda login: login.order)
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
                if self._is_merged(found) or self._held.setdefault(key, found) is not found:
                    self._count(record.partition, Outcome.REPEATED)

    def _done(self) -> dict[int, int]:
        """By partition, the offset before which no login is held."""
        done = dict(self._events.positions)
        for each in self._held.values():
            done[each.partition] = min(done[each.partition], each.offset)
        return done

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
            del self._held[login.anonymous_id, login.user_id, login.partition]
            alias, user = user_pseudonym(login.anonymous_id), user_pseudonym(login.user_id)
            place = f"partition {login.partition} offset {login.offset}"
            self._count(login.partition, outcome, f"{alias} into {user}, {place}")
        if records:
            self._commit(records)

    def _commit(self, records: list[OutputRecord]) -> None:
        done, topics = self._done(), self._settings.topics
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
