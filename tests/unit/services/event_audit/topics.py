"""Topics that a test writes record by record or a plain Python job reads, and their audits."""

import itertools
import json
from collections import Counter, defaultdict
from typing import Any, NamedTuple

from hypothesis import strategies as st

from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import Settings, WindowSettings, load
from liveprofile.storage.queries import WindowDigests as Delta
from liveprofile.units import MINUTE_MS, SECOND_MS
from liveprofile.wire.window_events import digest
from services.event_audit.audit import Audit, Report
from services.event_audit.reconciliation import Reconciliation

START_MS = 1_500_000_000_000 // MINUTE_MS * MINUTE_MS
PARTITIONS = 2
SETTINGS: Settings = load(
    window={"length_ms": MINUTE_MS, "out_of_orderness_ms": SECOND_MS},
    limits={"max_clock_skew_ms": 10 * SECOND_MS},
    state={"dedup_ttl_ms": 3 * MINUTE_MS},
)


class InputRecord(NamedTuple):
    partition: int
    offset: int
    timestamp_ms: int
    value: bytes | None


class Step(NamedTuple):
    """What arrives next, and what the job does with it."""

    kind: str  # event, copy, broken or heartbeat
    partition: int
    after_ms: int  # since the step before
    age_ms: int  # event time before the record's timestamp
    of: int  # a copy: which of the partition's events
    dropped: bool  # the job loses it


def steps(losses: bool) -> st.SearchStrategy[list[Step]]:
    return st.lists(
        st.builds(
            Step,
            kind=st.sampled_from(["event", "event", "event", "copy", "broken", "heartbeat"]),
            partition=st.integers(0, PARTITIONS - 1),
            after_ms=st.integers(0, 60) | st.integers(0, 40_000),
            age_ms=st.integers(-10_000, 30_000) | st.integers(0, 5 * MINUTE_MS),
            of=st.integers(0, 10),
            dropped=st.sampled_from([False] * 9 + [True]) if losses else st.just(False),
        ),
        min_size=1,
        max_size=80,
    )


class SimulatedJob:
    """The topic and what the job has stored and sent. All lists are in order of arrival."""

    def __init__(self) -> None:
        self.records: list[InputRecord] = []
        self.rejected: list[InputRecord] = []
        self.late: list[InputRecord] = []
        self.deltas: list[Delta] = []
        self._clocks_ms = dict.fromkeys(range(PARTITIONS), 0)
        # Of each partition: event_id, first event time, first record timestamp.
        self._events: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
        self._claimed: set[str] = set()
        self._copies: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._windows: dict[tuple[int, int], list[str]] = defaultdict(list)
        self._now_ms = START_MS

    @property
    def watermark_ms(self) -> int:
        return min(self._clocks_ms.values()) - SETTINGS.window.out_of_orderness_ms

    @property
    def duplicates(self) -> int:
        """Further records of events whose windows are closed.

        A delta names the events that it used, not their records. So a lost record of an event
        that the job used later is one of them. The late topic names records: a record that was
        lost before a late copy is unaccounted.
        """
        is_open = set(itertools.chain(*self._windows.values()))
        return sum(number for each, number in self._copies.items() if each not in is_open)

    def ends(self) -> list[int]:
        """The end offset of each partition."""
        return [
            sum(record.partition == number for record in self.records)
            for number in range(PARTITIONS)
        ]

    def process(self, step: Step) -> None:
        """Reads one more record."""
        self._now_ms += step.after_ms
        time_ms, events = self._now_ms - step.age_ms, self._events[step.partition]
        event_id = f"{step.partition}-{len(events)}"
        recent = [one for one in events if self._now_ms - one[2] < SETTINGS.state.dedup_ttl_ms]
        is_copy = step.kind == "copy" and recent
        if is_copy:
            event_id, first_time_ms, _ = recent[-1 - step.of % len(recent)]
            # Some clients send an event again with a new time.
            time_ms = time_ms if step.of % 2 and event_id in self._claimed else first_time_ms
        event = {"event_id": event_id, "user_id": f"u{step.partition}", "event_type": "view"}
        if step.kind == "heartbeat":
            event = {"event_type": "heartbeat"}
        value = json.dumps(event | {"event_time": time_ms}).encode()
        record = InputRecord(step.partition, self.ends()[step.partition], self._now_ms, value)
        self.records.append(record)
        if step.kind == "broken":
            self.rejected.append(record)
            return
        if step.kind != "heartbeat":
            if not is_copy:
                events.append((event_id, time_ms, self._now_ms))
            if event_id in self._claimed:
                self._copies[event_id] += 1
            elif step.dropped:
                self._lost[event_id] += 1
            else:
                self._use(record, event_id, time_ms)
        clock_ms = min(time_ms, self._now_ms)
        self._clocks_ms[step.partition] = max(self._clocks_ms[step.partition], clock_ms)
        self._close_windows()

    def _use(self, record: InputRecord, event_id: str, time_ms: int) -> None:
        end_ms = time_ms // MINUTE_MS * MINUTE_MS + MINUTE_MS
        self._claimed.add(event_id)
        if end_ms - 1 <= self.watermark_ms:
            self.late.append(record)
        else:
            self._windows[record.partition, end_ms].append(event_id)
            self._copies[event_id] += self._lost[event_id]

    def _close_windows(self) -> None:
        for partition, end_ms in list(self._windows):
            if end_ms - 1 <= self.watermark_ms:
                ids = self._windows.pop((partition, end_ms))
                digests = b"".join(map(digest, ids))
                user_id = f"u{partition}"
                self.deltas.append(Delta(user_id, end_ms - MINUTE_MS, end_ms, len(ids), digests))


WINDOW = WindowSettings(length_ms=60_000, out_of_orderness_ms=1_000)

ARRIVAL_MS = 1_000_000_000  # all events are replayed later


class Topic:
    """The input topic. `add` appends an event, `raw` appends bytes."""

    def __init__(self) -> None:
        self.records: list[InputRecord] = []

    def add(
        self, event_id: object, at_ms: int = 0, user_id: object = "u", partition: int = 0
    ) -> None:
        event = {"event_id": event_id, "user_id": user_id, "event_type": "view"}
        self.raw(json.dumps(event | {"event_time": START_MS + at_ms}).encode(), partition)

    def heartbeat(self, at_ms: int, record_ms: int = ARRIVAL_MS) -> None:
        event = {"event_type": "heartbeat", "event_time": START_MS + at_ms}
        self.raw(json.dumps(event).encode(), record_ms=record_ms)

    def raw(self, value: bytes | None, partition: int = 0, record_ms: int = ARRIVAL_MS) -> None:
        offset = sum(record.partition == partition for record in self.records)
        timestamp_ms = START_MS + record_ms + len(self.records)
        self.records.append(InputRecord(partition, offset, timestamp_ms, value))


def stored(*event_ids: str, user_id: str = "u") -> Delta:
    digests = b"".join(map(digest, event_ids))
    return Delta(user_id, START_MS, START_MS + MINUTE_MS, len(event_ids), digests)


def offsets_of(topic: Topic) -> dict[int, PartitionRange]:
    ends = Counter(record.partition for record in topic.records)
    return {partition: PartitionRange(0, end) for partition, end in ends.items()}


def audited(
    topic: Topic,
    *deltas: Delta,
    rejected=(),
    claimed=(),
    late=(),
    empty=(),
    window=WINDOW,
    first=0,
    archive=False,
    erased=(),
    identities=None,
) -> Report:
    """The report of an audit of the whole topic, whose records before `first` have expired.

    erased: users and starts of windows. identities: merges that the job follows.
    """

    def is_erased(user_id: str, start_ms: int) -> bool:
        return (user_id, start_ms) in erased

    with Audit(window, archive=archive, is_erased=is_erased, identities=identities) as audit:
        for outcome, sources in (("rejected", rejected), ("claimed", claimed), ("late", late)):
            audit.add_outcomes([(*source, outcome) for source in sources])
        audit.add_deltas(deltas)
        spans = {number: span._replace(first=first) for number, span in offsets_of(topic).items()}
        audit.add_records(topic.records, spans | dict.fromkeys(empty, PartitionRange(0, 0)))
        return audit.report()


def reconciled(topic: Topic, *deltas: Delta, **more: Any) -> Reconciliation:
    return audited(topic, *deltas, **more).counts
