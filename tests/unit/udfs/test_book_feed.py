"""What nobody's record does to the feeds of consents, erasures and merges."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from liveprofile.consent.changes import ConsentChange
from liveprofile.consent.records import to_record as consent_record
from liveprofile.identity.book import Merge
from liveprofile.identity.records import to_record as merge_record
from liveprofile.kafka.records import Record
from liveprofile.privacy.erasure_records import to_record as erasure_record
from liveprofile.settings import Settings, load
from liveprofile.wire.user_records import key_of
from tests.support.memory.topic import FakeTopic, until
from udfs.book_feed import BookFeed
from udfs.consent_feed import ConsentFeed
from udfs.erasure_feed import ErasureFeed
from udfs.identity.merge_feed import MergeFeed

TIME_MS = 1_767_605_700_000
FEEDS = {
    "consents": (
        ConsentFeed,
        lambda user: consent_record(user, [ConsentChange(TIME_MS, "profiling", False)]),
    ),
    "erasures": (ErasureFeed, lambda user: erasure_record(user, TIME_MS)),
    "merges": (MergeFeed, lambda user: merge_record(user, [Merge("person", TIME_MS)])),
}


def record(key: bytes | None, value: bytes | None) -> Record:
    return Record("topic", 0, 7, TIME_MS, key, value, {})


KEYS = {"not text": b"\xff\xfe", "none": None, "empty": b"", "5 MB": b"x" * 5_000_000}
VALUES = {"removed": None, "cut": b"{", "not text": b"\xff" * 5_000_000}


@pytest.mark.parametrize("name", FEEDS)
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", VALUES)
def test_records_of_no_user_do_not_end_a_feed(
    name: str, key: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    new_feed: Callable[[Settings, Callable[[], FakeTopic]], BookFeed]
    new_feed, valid = FEEDS[name]
    bad = record(KEYS[key], VALUES[value])
    topic = FakeTopic(bad, record(key_of("a"), valid("a")))
    with caplog.at_level(logging.WARNING):
        feed = new_feed(load(), lambda: topic)
        assert "a" in feed.current()
        topic.put(bad, record(key_of("b"), valid("b")))
        until(lambda: "b" in feed.current())
        feed.close()
    assert "has failed" not in caplog.text
