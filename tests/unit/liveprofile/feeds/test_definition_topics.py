"""Which rules and segments the records of their topics put in force, and changes by editors."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from typing import Any

import orjson
import pytest

from liveprofile.errors import ServiceError
from liveprofile.feeds import definition_topics as definitions
from liveprofile.feeds.definition_topics import (
    APPLIED_KEY,
    SWEEP_KEY,
    Applied,
    DefinitionFeed,
    DefinitionsChangedError,
    TopicDefinitions,
    apply_definitions,
    definitions_spec,
)
from liveprofile.kafka.records import Record
from liveprofile.rules.rules import RULES, Rule, RuleSet
from liveprofile.rules.signing import DefinitionSigner
from liveprofile.segments.segments import SEGMENTS
from liveprofile.settings import load
from tests.support.memory.kafka import FakeTopic, MemoryKafka
from tests.support.rows.rule_examples import (
    SHIPPED_RULES,
    raw_rule_record,
    rule,
    rule_record,
    signed,
)
from tests.support.rows.segment_examples import SHIPPED_SEGMENTS, segment, segment_record
from tests.support.waiting import until

SIGNER = DefinitionSigner("k" * 32, "risk-rules")


@contextmanager
def feed_of(
    *topics: FakeTopic | Callable[[], FakeTopic],
    kind: Any = RULES,
    signer: DefinitionSigner | None = None,
    first_read_timeout_s: float = 5,
) -> Iterator[DefinitionFeed]:
    """A feed whose attempts to open the topic give `topics` in turn, then fail."""
    left = list(topics)

    def open_source() -> FakeTopic:
        if not left:
            raise ServiceError("Kafka is down")
        topic = left.pop(0)
        return topic if isinstance(topic, FakeTopic) else topic()

    spec = definitions_spec(load(), kind, signer)
    of_file = SHIPPED_RULES if kind is RULES else SHIPPED_SEGMENTS
    timing = {"poll_timeout_s": 0.01, "retry_s": 0.01, "first_read_timeout_s": first_read_timeout_s}
    with closing(DefinitionFeed(spec, of_file, open_source, **timing)) as feed:
        yield feed


def ids(rules: RuleSet) -> list[str]:
    return [rule.id for rule in rules.rules]


def test_newest_record_of_a_rule_wins_and_tombstone_removes_the_rule() -> None:
    topic = TopicDefinitions(RULES)
    records = [rule_record("b"), rule_record("a"), rule_record("b", version=2), rule_record("c")]
    topic.apply([*records, raw_rule_record("c", None)])
    assert [(rule.id, rule.version) for rule in topic.value().rules] == [("a", 1), ("b", 2)]
    topic.apply([rule_record("b", version=3, state="PAUSED")])
    assert [rule.id for rule in topic.value().evaluated("event")] == ["a"]


@pytest.mark.parametrize("value", [b"{", b"[]", b"{}", rule(id="other").model_dump_json().encode()])
def test_invalid_record_is_logged_counted_and_ignored(
    value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    topic = TopicDefinitions(RULES)
    with caplog.at_level(logging.WARNING):
        topic.apply(
            [rule_record("a", version=3), raw_rule_record("a", value, offset=7), rule_record("b")]
        )
    assert [(rule.id, rule.version) for rule in topic.value().rules] == [("a", 3), ("b", 1)]
    assert (topic.invalid_records, topic.invalid_ids) == (1, {"a"})
    [line] = caplog.messages
    assert line.startswith("risk-rules/0 offset 7: ")
    topic.apply([rule_record("a", version=4)])
    assert (topic.invalid_records, topic.invalid_ids) == (1, set())


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (rule_record("a", threshold=9), "the record is not signed"),
        (raw_rule_record("a", None), "the record is not signed"),
        (
            signed(rule_record("a", threshold=9), DefinitionSigner("o" * 32, "risk-rules"), 7),
            "is wrong",
        ),
        (signed(rule_record("a", threshold=9), SIGNER, 4), "it was signed before"),
        (signed(raw_rule_record("a", None), SIGNER, 4), "it was signed before"),
        (signed(raw_rule_record("removed", b"{}"), SIGNER, 4), "it was signed before"),
    ],
)
def test_unsigned_foreign_and_old_records_are_refused_with_the_reason(
    record: Record, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    topic = TopicDefinitions(RULES, SIGNER)
    topic.apply([signed(rule_record("a"), SIGNER, 5)])
    before = topic.value()
    with caplog.at_level(logging.WARNING):
        topic.apply([record])
    assert topic.value() == before
    assert (topic.invalid_records, topic.signed_ms) == (1, 5)
    [line] = caplog.messages
    assert reason in line and line.endswith("the record is ignored")


def test_old_copy_of_a_removed_rule_is_refused_after_compaction_of_its_removal() -> None:
    topic = TopicDefinitions(RULES, SIGNER)
    # What compaction leaves of: applied with the rule, applied without it.
    topic.apply([signed(raw_rule_record(APPLIED_KEY.decode(), b"{}"), SIGNER, 6)])
    topic.apply([signed(rule_record("a"), SIGNER, 5)])
    assert topic.has_records and ids(topic.value()) == []


def test_topic_that_does_not_answer_is_awaited_for_the_timeout_only() -> None:
    answer = threading.Event()

    def slow() -> FakeTopic:
        answer.wait()
        return FakeTopic(rule_record("a"))

    with feed_of(slow, first_read_timeout_s=0.05) as feed:
        assert feed.current() is SHIPPED_RULES
        answer.set()
        until(lambda: ids(feed.current()) == ["a"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_unexpected_error_ends_the_thread_with_a_log_line_and_keeps_the_rules(
    caplog: pytest.LogCaptureFixture,
) -> None:
    topic = FakeTopic(rule_record("a"))
    with feed_of(topic) as feed:
        topic.put(ZeroDivisionError("a bug"))
        until(lambda: "the thread that reads the rules topic has failed" in caplog.text)
        assert ids(feed.current()) == ["a"]


def test_refused_records_do_not_replace_the_file_rules() -> None:
    topic = FakeTopic(raw_rule_record(APPLIED_KEY.decode(), b"{}"), rule_record("a"))
    with feed_of(topic, signer=SIGNER) as feed:
        assert (feed.current(), feed.invalid_records) == (SHIPPED_RULES, 2)
        topic.put(signed(rule_record("b"), SIGNER, 5))
        until(lambda: ids(feed.current()) == ["b"])


def test_reopened_topic_with_only_older_signatures_keeps_the_rules(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = FakeTopic(signed(rule_record("b"), SIGNER, 6))
    older = FakeTopic(signed(rule_record("a"), SIGNER, 5))
    with feed_of(first, older, signer=SIGNER) as feed:
        first.put(ServiceError("the broker ended"))
        until(lambda: "the topic lacks the records that were signed last" in caplog.text)
        assert ids(feed.current()) == ["b"]
        older.put(signed(rule_record("c"), SIGNER, 7))
        until(lambda: ids(feed.current()) == ["a", "c"])


def definition(segment_id: str, when: str = "events > 1") -> bytes:
    return segment(segment_id, when).model_dump_json().encode()


def test_definitions_with_unknown_references_are_left_out_until_the_reference_exists(
    caplog: pytest.LogCaptureFixture,
) -> None:
    topic = TopicDefinitions(SEGMENTS)
    reads_b = segment_record("a", definition("a", 'segment("b")'))
    topic.apply([reads_b, segment_record("c", definition("c"))])
    with caplog.at_level(logging.WARNING):
        assert [each.id for each in topic.value().segments] == ["c"]
    assert "segment a: unknown segment b; it is not evaluated" in caplog.text
    topic.apply([segment_record("b", definition("b"))])
    assert [each.id for each in topic.value().segments] == ["a", "b", "c"]


def test_sweep_record_is_no_definition_and_keeps_those_of_the_file() -> None:
    topic = FakeTopic()
    with feed_of(topic, kind=SEGMENTS) as feed:
        assert feed.current() == SHIPPED_SEGMENTS
        sweep = {"sweep": "7", "sweeping": True}
        topic.put(segment_record(SWEEP_KEY.decode(), orjson.dumps(sweep)))
        until(lambda: feed.current().sweeping)
        assert feed.current() == SHIPPED_SEGMENTS.model_copy(update=sweep)
        topic.put(segment_record("a", definition("a")))
        until(lambda: [each.id for each in feed.current().segments] == ["a"])
        assert (feed.current().sweep, feed.current().sweeping) == ("7", True)
        topic.put(segment_record(SWEEP_KEY.decode(), None))
        until(lambda: not feed.current().sweeping)


def test_invalid_sweep_record_is_ignored() -> None:
    topic = TopicDefinitions(SEGMENTS)
    topic.apply([segment_record(SWEEP_KEY.decode(), value) for value in (b"{", b"[]", b"{}")])
    assert (topic.invalid_records, topic.has_records) == (3, False)
    assert topic.sweep == {"sweep": "", "sweeping": False}


@pytest.fixture
def rules_topic(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """The records that `apply` writes."""
    kafka = MemoryKafka()
    kafka.install(monkeypatch)
    return kafka.records["risk-rules"]


def apply(*rules: Rule, tag: str | None = None) -> Applied:
    return apply_definitions(load(), RULES, rules, by="anna", expected_tag=tag)


def test_repeated_apply_writes_nothing_and_is_not_refused(rules_topic: list[Record]) -> None:
    tag = apply(rule(id="a")).tag
    first = apply(rule(id="b"), tag=tag)
    written = len(rules_topic)
    assert apply(rule(id="b"), tag=tag).tag == first.tag
    assert len(rules_topic) == written


@pytest.mark.usefixtures("rules_topic")
def test_apply_that_another_one_overtakes_after_its_last_read_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apply(rule(id="a"))
    read, reads = definitions.read_definition_topic, count(1)

    def read_and_overtake(*arguments: Any) -> TopicDefinitions:
        found = read(*arguments)
        if next(reads) == 2:  # the second read is the one that `apply_definitions` decides by
            apply(rule(id="other"))
        return found

    monkeypatch.setattr(definitions, "read_definition_topic", read_and_overtake)
    with pytest.raises(DefinitionsChangedError):
        apply(rule(id="a"), rule(id="b"))
    assert [each.id for each in read(load(), RULES).definitions] == ["other"]
