"""The consents that a worker follows."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from liveprofile.consent.changes import ConsentChange
from liveprofile.consent.records import to_record
from liveprofile.errors import ServiceError
from liveprofile.kafka.records import Record
from liveprofile.kafka.topics import NoTopicError
from liveprofile.settings import load
from tests.support.memory.topic import FakeTopic, until
from udfs.consent_feed import ConsentFeed

TIME_MS = 1_767_605_700_000


def record(user_id: str, *changes: ConsentChange, value: bytes | None = b"?") -> Record:
    if value == b"?":
        value = to_record(user_id, changes)
    return Record("user-consents", 0, 7, TIME_MS, user_id.encode(), value, {})


def withdrawal(purpose: str = "profiling", after_ms: int = 0) -> ConsentChange:
    return ConsentChange(TIME_MS + after_ms, purpose, False)


def feed(source: Any, first_read_timeout_s: float = 5.0, **settings: Any) -> ConsentFeed:
    timing = {"poll_timeout_s": 0.01, "retry_s": 0.01}
    return ConsentFeed(
        load(**settings), source, first_read_timeout_s=first_read_timeout_s, **timing
    )


def test_records_are_in_force_when_the_feed_is_open_and_later_ones_soon() -> None:
    topic = FakeTopic(record("a", withdrawal()), record("b", withdrawal()))
    followed = feed(lambda: topic)
    book = followed.current()
    assert not book.allowed("a", "profiling", TIME_MS)
    assert book.allowed("a", "profiling", TIME_MS - 1) and book.allowed("c", "profiling", TIME_MS)
    topic.put(record("c", withdrawal()), record("b", value=None))
    until(lambda: not followed.current().allowed("c", "profiling", TIME_MS))
    until(lambda: followed.current().allowed("b", "profiling", TIME_MS))
    followed.close()


def test_an_invalid_record_is_logged_without_the_user_id_and_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    invalid = record("secret-user", value=b"{}")
    with caplog.at_level(logging.WARNING):
        followed = feed(lambda: FakeTopic(record("secret-user", withdrawal()), invalid))
    assert not followed.current().allowed("secret-user", "profiling", TIME_MS)
    assert "user-consents/0 offset 7" in caplog.text and "secret-user" not in caplog.text
    followed.close()


def test_without_the_topic_the_defaults_are_in_force() -> None:
    def missing() -> FakeTopic:
        raise NoTopicError("no topic")

    followed = feed(missing, consent={"training": False})
    assert followed.current().allowed("a", "profiling", TIME_MS)
    assert not followed.current().allowed("a", "training", TIME_MS)
    followed.close()


def test_a_topic_that_cannot_be_read_prevents_the_start() -> None:
    def unreachable() -> FakeTopic:
        raise ServiceError("Kafka does not answer")

    with pytest.raises(ServiceError, match="does not start without the consents"):
        feed(unreachable, first_read_timeout_s=0.2)


def test_a_topic_that_is_back_in_time_is_read() -> None:
    answers = [ServiceError("Kafka does not answer")] * 3

    def restarting() -> FakeTopic:
        if answers:
            raise answers.pop()
        return FakeTopic(record("a", withdrawal()))

    followed = feed(restarting)
    assert not followed.current().allowed("a", "profiling", TIME_MS)
    followed.close()


def test_after_a_failure_the_topic_is_read_again_and_the_book_stays() -> None:
    first, second = FakeTopic(record("a", withdrawal())), FakeTopic(record("b", withdrawal()))
    topics = [first, second]
    followed = feed(lambda: topics.pop(0))
    first.put(ServiceError("broken"))
    until(lambda: not followed.current().allowed("b", "profiling", TIME_MS))
    assert followed.current().allowed("a", "profiling", TIME_MS)  # compaction has removed it
    followed.close()
