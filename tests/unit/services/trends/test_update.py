"""Counting a topic in chunks, with kills, repetitions, copies and expired records."""

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
from cassandra import DriverException

from liveprofile.errors import ServiceError
from liveprofile.kafka.records import Record
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import Settings, load
from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS
from services.trends.count_store import ALL, CATEGORY, OTHER, CountStore, Series
from services.trends.update import UpdateReport, update
from tests.reference.validation import ValidEvent, validate
from tests.support.memory.cassandra import MemoryCassandra

SETTINGS = load()


class MemoryTopic:
    """The input topic. The job's checkpoint is at the end unless `checkpoint` is set."""

    def __init__(self, partitions: int) -> None:
        self.partitions: list[list[Record]] = [[] for _ in range(partitions)]
        self.expired = [0] * partitions
        self.checkpoint: dict[int, int] | None = None

    def send(self, partition: int, value: bytes | None, timestamp_ms: int) -> None:
        records = self.partitions[partition]
        records.append(Record("events", partition, len(records), timestamp_ms, None, value, {}))

    def update(self, store: CountStore, **options: Any) -> UpdateReport:
        """Runs `update` on this topic."""
        functions = {
            name: getattr(self, name)
            for name in ("partition_ranges", "committed_offsets", "offsets_at", "read_topic")
        }
        with patch.multiple("services.trends.update", **functions):
            return update(store, SETTINGS, **options)

    def partition_ranges(self, settings: Settings, topic: str) -> dict[int, PartitionRange]:
        return {
            number: PartitionRange(self.expired[number], len(records))
            for number, records in enumerate(self.partitions)
        }

    def committed_offsets(self, settings: Settings, topic: str) -> dict[int, int]:
        if self.checkpoint is not None:
            return self.checkpoint
        return {number: len(records) for number, records in enumerate(self.partitions)}

    def offsets_at(self, settings: Settings, topic: str, time_ms: int) -> dict[int, int]:
        return {
            number: next((r.offset for r in records if r.timestamp_ms >= time_ms), len(records))
            for number, records in enumerate(self.partitions)
        }

    def read_topic(
        self, settings: Settings, topic: str, ranges: dict[int, PartitionRange]
    ) -> Iterator[Record]:
        for number, (first, end) in ranges.items():
            assert self.expired[number] <= first <= end <= len(self.partitions[number])
            yield from self.partitions[number][first:end]


class KilledCassandra(MemoryCassandra):
    """Its client is killed before a write."""

    writes_until_kill: int | None = None

    def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
        text = getattr(query, "query_string", query)
        if self.writes_until_kill is not None and not str(text).startswith("SELECT"):
            if self.writes_until_kill == 0:
                raise DriverException("killed")
            self.writes_until_kill -= 1
        return super().execute(query, *arguments, **options)


def new_store() -> tuple[CountStore, KilledCassandra]:
    session = KilledCassandra()
    return CountStore(session, SETTINGS), session


START_MS = 1_700_006_400_000  # 2023-11-15 00:00 UTC


def payload(number: int, **fields: Any) -> bytes:
    event = {
        "event_id": f"e{number}",
        "user_id": f"u{number % 7}",
        "event_type": "purchase",
        "event_time": START_MS + number * MINUTE_MS,
        "category_id": f"c{number % 3}",
        "amount": number + 0.1,
    }
    return json.dumps(event | fields).encode()


def topic_of(*values: bytes | None, partitions: int = 1) -> MemoryTopic:
    topic = MemoryTopic(partitions)
    for number, value in enumerate(values):
        topic.send(number % partitions, value, START_MS + DAY_MS + number)
    return topic


def counts(session: KilledCassandra) -> dict[tuple[str, Series, int], tuple[int, float, int]]:
    return {
        (row["span"], Series(row["scope"], row["category"], row["event_type"]), row["start"]): (
            row["events"],
            pytest.approx(row["amount"], abs=1e-6),
            row["users"],
        )
        for row in session.rows("trend")
    }


def expected_counts(topic: MemoryTopic, settings: Settings) -> dict[Any, tuple[int, float, int]]:
    """Counts in plain Python, by the reference's validation."""
    events: dict[Any, list[ValidEvent]] = defaultdict(list)
    for records in topic.partitions:
        seen: dict[str, int] = {}
        for record in records:
            event = validate(record.value, record.timestamp_ms, settings.limits)
            if not isinstance(event, ValidEvent):
                continue
            last_ms = seen.get(event.event_id)
            seen[event.event_id] = record.timestamp_ms
            if last_ms is not None and record.timestamp_ms - last_ms <= settings.state.dedup_ttl_ms:
                continue
            for span, span_ms in (("hour", HOUR_MS), ("day", DAY_MS)):
                start_ms = event.time_ms // span_ms * span_ms
                of_category = Series(CATEGORY, event.category, event.event_type)
                for series in of_category, Series(ALL, "", event.event_type), Series(ALL, "", ALL):
                    events[span, series, start_ms].append(event)
    return {
        key: (
            len(them),
            sum(e.amount for e in them if key[1].event_type != ALL or e.event_type == "purchase"),
            len({e.user_id for e in them}),
        )
        for key, them in events.items()
    }


def test_kills_at_every_write_count_nothing_twice() -> None:
    rng, (store, session), topic = random.Random(0), new_store(), MemoryTopic(2)
    kills = 0
    for step in range(8):
        for number in range(step * 30, step * 30 + 30):
            at_ms = START_MS + DAY_MS + number * MINUTE_MS
            topic.send(number % 2, payload(number), at_ms)
            if number % 5 == 0:  # a copy, sometimes in a later chunk
                copied = max(number % 2, number - rng.choice([0, 20, 60]))
                topic.send(number % 2, payload(copied), at_ms)
        for _ in range(15):
            session.writes_until_kill = rng.randrange(6)
            try:
                topic.update(store, chunk_records=rng.choice([20, 70, 1_000]))
            except ServiceError:
                kills += 1
        session.writes_until_kill = None
        topic.update(store)
        assert counts(session) == expected_counts(topic, SETTINGS)
    assert kills > 30


def test_two_processes_with_one_chunk_count_it_once() -> None:
    topic, (store, session) = topic_of(*(payload(n) for n in range(50))), new_store()

    class SecondProcess(MemoryTopic):
        """Counts the chunk to its end while the first process reads it."""

        def read_topic(self, *arguments):
            records = list(super().read_topic(*arguments))
            if not store.last_chunk().done:
                topic.update(store)
            yield from records

    second = SecondProcess(1)
    second.partitions = topic.partitions
    second.update(store)
    assert counts(session) == expected_counts(topic, SETTINGS)


def test_records_after_the_checkpoint_are_left_to_the_next_update() -> None:
    topic, (store, _) = topic_of(*(payload(n) for n in range(10))), new_store()
    topic.checkpoint = {0: 4}
    report = topic.update(store)
    assert (report.events, report.behind) == (4, 6)
    topic.checkpoint = None
    assert topic.update(store).events == 6


def test_copy_within_the_dedup_time_is_counted_once_and_later_again() -> None:
    (store, session), topic = new_store(), MemoryTopic(1)
    ttl_ms = SETTINGS.state.dedup_ttl_ms
    for at_ms in (0, ttl_ms, 3 * ttl_ms):
        topic.send(0, payload(1), START_MS + DAY_MS + at_ms)
        report = topic.update(store)
    assert (report.events, report.duplicates) == (1, 0)
    assert counts(session) == expected_counts(topic, SETTINGS)
    assert counts(session)["day", Series(ALL, "", ALL), START_MS][0] == 2


def test_update_goes_on_after_records_that_have_expired_and_counts_them() -> None:
    topic, (store, _) = topic_of(*(payload(n) for n in range(10))), new_store()
    topic.checkpoint = {0: 4}
    topic.update(store)
    topic.checkpoint, topic.expired = None, [7]
    report = topic.update(store)
    assert (report.events, report.lost) == (3, 3)


def test_chunk_whose_records_have_expired_ends_as_far_as_it_was_counted() -> None:
    topic, (store, session) = topic_of(*(payload(n) for n in range(10))), new_store()
    session.writes_until_kill = 1
    with pytest.raises(ServiceError):
        topic.update(store, chunk_records=6)
    session.writes_until_kill, topic.expired = None, [2]
    report = topic.update(store)
    assert (report.events, report.lost, report.chunks) == (4, 6, 1)


def test_categories_beyond_the_limit_count_as_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.trends.update.MAX_CATEGORIES", 2)
    topic, (store, session) = topic_of(*(payload(n) for n in range(9))), new_store()
    topic.update(store, chunk_records=4)
    days = {s: count[0] for (span, s, _), count in counts(session).items() if span == "day"}
    assert days == {
        Series(CATEGORY, "c0", "purchase"): 3,
        Series(CATEGORY, "c1", "purchase"): 3,
        Series(OTHER, "", "purchase"): 3,
        Series(ALL, "", "purchase"): 9,
        Series(ALL, "", ALL): 9,
    }


def test_slowest_partition_decides_until_when_counts_are_complete() -> None:
    (store, _), topic = new_store(), MemoryTopic(3)
    topic.send(0, payload(0), START_MS + DAY_MS)
    topic.send(1, payload(90), START_MS + DAY_MS)
    topic.update(store)
    assert store.last_chunk().complete_until_ms(30_000) == START_MS - 30_000
    # A client's fast clock counts as the time of arrival.
    topic.send(
        1, payload(0, event_id="fast", event_time=START_MS + DAY_MS + 60_000), START_MS + DAY_MS
    )
    topic.update(store)
    assert store.last_chunk().complete_until_ms(30_000) == START_MS + DAY_MS - 30_000
