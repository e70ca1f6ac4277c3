"""Rules that change while the job runs: what a topic's records add up to, and who hears of it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import orjson
import pytest

from liveprofile.errors import ServiceError
from liveprofile.kafka.records import Record
from liveprofile.rules.rules import Rules
from tests.unit.liveprofile.rules.test_rules import SHIPPED, rule
from udfs.rules_feed import RulesFeed, TopicRules


def record(rule_id: str, value: bytes | None, offset: int = 0) -> Record:
    return Record("risk-rules", 0, offset, 0, rule_id.encode(), value, {})


def put(rule_id: str, **changes: object) -> Record:
    return record(rule_id, rule(id=rule_id, **changes).model_dump_json().encode())


class FakeTopic:
    """What is put before it is opened was there; what is put later comes as it comes."""

    def __init__(self, *records: Record, pause_s: float = 0.0):
        self._queue: queue.Queue[Record | Exception] = queue.Queue()
        self._first, self._pause_s = list(records), pause_s
        self.caught_up = False
        self.closed = False

    def put(self, *coming: Record | Exception) -> None:
        for one in coming:
            self._queue.put(one)

    def poll(self, timeout_s: float) -> list[Record]:
        if not self.caught_up:  # one by one, and the news of the end comes last
            time.sleep(self._pause_s)
            self.caught_up = not self._first
            return [self._first.pop(0)] if self._first else []
        try:
            found = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return []
        if isinstance(found, Exception):
            raise found
        return [found]

    def close(self) -> None:
        self.closed = True


@contextmanager
def feed_of(*topics: FakeTopic | Exception) -> Iterator[RulesFeed]:
    """Each is what opening the topic gives in its turn; then it stays away."""
    left = list(topics)

    def open_source() -> FakeTopic:
        found = left.pop(0) if left else ServiceError("Kafka is away")
        if isinstance(found, Exception):
            raise found
        return found

    feed = RulesFeed(SHIPPED, open_source, poll_s=0.01, retry_s=0.01, first_read_s=5)
    try:
        yield feed
    finally:
        feed.close()


def ids(rules: Rules) -> list[str]:
    return [one.id for one in rules.rules]


def until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.005)


# --- what records add up to ----------------------------------------------------------------------


def test_the_newest_record_of_a_rule_counts_and_a_tombstone_removes_it() -> None:
    found = TopicRules()
    found.take([put("b"), put("a"), put("b", version=2), put("c"), record("c", None)])
    assert [(one.id, one.version) for one in found.rules().rules] == [("a", 1), ("b", 2)]


def test_the_version_of_the_set_is_of_what_is_in_it() -> None:
    one, other, changed = TopicRules(), TopicRules(), TopicRules()
    one.take([put("a"), put("b")])
    other.take([put("b", version=7), put("a"), put("b")])
    changed.take([put("a"), put("b", threshold=4)])
    assert one.rules() == other.rules()
    assert one.rules().version != changed.rules().version


@pytest.mark.parametrize("value", [b"{", b"{}", rule(id="other").model_dump_json().encode()])
def test_a_broken_record_is_logged_counted_and_ignored(
    value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    found = TopicRules()
    with caplog.at_level(logging.WARNING):
        found.take([put("a", version=3), record("a", value, offset=7), put("b")])
    assert [(one.id, one.version) for one in found.rules().rules] == [("a", 3), ("b", 1)]
    assert (found.broken, found.unreadable) == (1, {"a"})
    [line] = caplog.messages
    assert line.startswith("risk-rules/0 offset 7: ")
    found.take([put("a", version=4)])
    assert (found.broken, found.unreadable) == (1, set())


def test_who_applied_a_rule_is_no_part_of_it() -> None:
    applied = {"applied_by": "anna", "applied_at": "2026-01-05T09:30:00.000Z"}
    value = orjson.dumps(rule(id="a").model_dump(mode="json") | applied)
    found, plain = TopicRules(), TopicRules()
    found.take([record("a", value)])
    plain.take([put("a")])
    assert found.rules() == plain.rules()


# --- the feed ------------------------------------------------------------------------------------


def test_without_a_topic_the_files_rules_hold() -> None:
    feed = RulesFeed(SHIPPED)
    assert feed.current() is SHIPPED
    feed.close()


def test_a_topic_without_a_record_leaves_the_files_rules() -> None:
    topic = FakeTopic()
    with feed_of(topic) as feed:
        assert feed.current() is SHIPPED
        topic.put(put("a"))
        until(lambda: ids(feed.current()) == ["a"])


def test_the_topic_is_read_to_its_end_before_the_first_use() -> None:
    topic = FakeTopic(put("a"), put("b"), record("a", None), pause_s=0.05)
    with feed_of(topic) as feed:
        assert ids(feed.current()) == ["b"]


def test_rules_change_while_the_job_runs() -> None:
    topic = FakeTopic(put("a"), put("b"))
    with feed_of(topic) as feed:
        held = feed.current()
        topic.put(put("a", version=2, state="PAUSED"), record("b", None))
        until(lambda: ids(feed.current()) == ["a"])
        assert feed.current().of("event") == []
        assert ids(held) == ["a", "b"]  # a batch keeps what it began with
    assert topic.closed


def test_a_topic_with_nothing_but_tombstones_means_no_rules() -> None:
    with feed_of(FakeTopic(put("a"), record("a", None))) as feed:
        assert ids(feed.current()) == []


def test_a_broken_record_changes_nothing_and_is_counted() -> None:
    topic = FakeTopic(put("a"))
    with feed_of(topic) as feed:
        before = feed.current()
        topic.put(record("a", b"{"))
        until(lambda: feed.broken == 1)
        assert feed.current() is before


def test_a_failing_topic_is_opened_again_and_the_last_rules_stay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = FakeTopic(put("a")), FakeTopic(put("a"), put("b"))
    away = ServiceError("Kafka is away")
    with caplog.at_level(logging.WARNING), feed_of(first, away, away, second) as feed:
        assert ids(feed.current()) == ["a"]
        first.put(ServiceError("the broker ended"))
        until(lambda: ids(feed.current()) == ["a", "b"])
    told = [line.partition(";")[0] for line in caplog.messages]
    assert told == ["the broker ended", "Kafka is away"]  # once, not at each try
    assert first.closed and second.closed


def test_a_topic_that_cannot_be_read_leaves_the_files_rules() -> None:
    start_s = time.monotonic()
    with feed_of(ServiceError("no topic risk-rules")) as feed:
        assert feed.current() is SHIPPED
        assert time.monotonic() - start_s < 2  # of the five that an answer may take


def test_a_topic_that_does_not_answer_is_waited_for_a_while_only() -> None:
    answer = threading.Event()

    def open_source() -> FakeTopic:
        answer.wait()
        return FakeTopic(put("a"))

    feed = RulesFeed(SHIPPED, open_source, poll_s=0.01, retry_s=0.01, first_read_s=0.05)
    assert feed.current() is SHIPPED
    answer.set()
    until(lambda: ids(feed.current()) == ["a"])
    feed.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_end_of_the_thread_is_told_and_the_last_rules_stay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    topic = FakeTopic(put("a"))
    with feed_of(topic) as feed:
        topic.put(ZeroDivisionError("a fault of ours"))
        until(lambda: "nobody reads their topic" in caplog.text)
        assert ids(feed.current()) == ["a"]
