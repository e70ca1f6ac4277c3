"""The erasures that a worker follows. tests/unit/udfs/test_consent_feed.py has the failures."""

from __future__ import annotations

import logging

import pytest

from liveprofile.errors import ServiceError
from liveprofile.kafka.records import Record
from liveprofile.privacy.erasure_records import to_record
from liveprofile.settings import load
from liveprofile.wire.user_records import key_of
from tests.support.memory.topic import FakeTopic, until
from udfs.erasure_feed import ErasureFeed, open_no_erasures

TIME_MS = 1_767_605_700_000


def record(user_id: str, before_ms: int = TIME_MS, value: bytes | None = b"?") -> Record:
    if value == b"?":
        value = to_record(user_id, before_ms)
    return Record("user-erasures", 0, 7, TIME_MS, key_of(user_id), value, {})


def test_erasures_are_in_force_when_the_feed_is_open_and_later_ones_soon() -> None:
    topic = FakeTopic(record("a"), record("b"))
    feed = ErasureFeed(load(), lambda: topic, poll_timeout_s=0.01)
    assert feed.current().is_erased("a", TIME_MS - 1)
    assert not feed.current().is_erased("a", TIME_MS)
    topic.put(record("c"), record("b", value=None))
    until(lambda: "c" in feed.current() and "b" not in feed.current())
    feed.close()


def test_an_invalid_record_is_logged_without_the_user_id(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        feed = ErasureFeed(load(), lambda: FakeTopic(record("secret-user", value=b"{}")))
    assert "user-erasures/0 offset 7" in caplog.text and "secret-user" not in caplog.text
    assert not len(feed.current())
    feed.close()


def test_a_topic_that_cannot_be_read_prevents_the_start() -> None:
    def unreachable() -> FakeTopic:
        raise ServiceError("Kafka does not answer")

    with pytest.raises(ServiceError, match="does not start without the erasures of users"):
        ErasureFeed(load(), unreachable, first_read_timeout_s=0.2, retry_s=0.01)


def test_without_kafka_nobody_is_erased() -> None:
    assert not len(open_no_erasures(load()).current())
