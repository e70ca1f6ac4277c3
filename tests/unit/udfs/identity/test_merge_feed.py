"""The merges that a worker follows, and consents of persons. test_consent_feed.py has failures."""

from __future__ import annotations

import logging

import pandas as pd
import pytest

from liveprofile.consent.changes import ConsentChange
from liveprofile.consent.records import to_record as consent_record
from liveprofile.errors import ServiceError
from liveprofile.identity.book import Merge
from liveprofile.identity.records import to_record
from liveprofile.kafka.records import Record
from liveprofile.settings import load
from liveprofile.wire.user_records import key_of
from tests.support.memory.topic import FakeTopic, until
from udfs.consent_feed import ConsentFeed, PersonConsentFeed
from udfs.identity.merge_feed import MergeFeed, open_merge_feed, read_merges
from udfs.identity.person_id import PersonIdUdf

TIME_MS = 1_767_605_700_000


def record(alias_id: str, user_id: str = "u", value: bytes | None = b"?") -> Record:
    if value == b"?":
        value = to_record(alias_id, [Merge(user_id, TIME_MS)])
    return Record("user-merges", 0, 7, TIME_MS, key_of(alias_id), value, {})


def test_merges_are_in_force_when_the_feed_is_open_and_later_ones_soon() -> None:
    topic = FakeTopic(record("a"), record("b"))
    feed = MergeFeed(load(), lambda: topic, poll_timeout_s=0.01)
    assert feed.current().resolve("a", TIME_MS) == "u"
    assert feed.current().resolve("a", TIME_MS - 1) == "a"
    topic.put(record("c"), record("b", value=None))
    until(lambda: "c" in feed.current() and "b" not in feed.current())
    feed.close()


def test_an_invalid_record_is_logged_without_the_user_id(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        feed = MergeFeed(load(), lambda: FakeTopic(record("secret-user", value=b"{}")))
    assert "user-merges/0 offset 7" in caplog.text and "secret-user" not in caplog.text
    assert not len(feed.current())
    feed.close()


def test_a_topic_that_cannot_be_read_prevents_the_start() -> None:
    def unreachable() -> FakeTopic:
        raise ServiceError("Kafka does not answer")

    with pytest.raises(ServiceError, match="does not start without the merges of users"):
        MergeFeed(load(), unreachable, first_read_timeout_s=0.2, retry_s=0.01)


def test_a_job_that_does_not_follow_merges_reads_nothing() -> None:
    settings = load(kafka={"bootstrap_servers": "127.0.0.1:1"})
    assert not len(open_merge_feed(settings).current())
    assert not len(read_merges(settings))


def test_each_event_gets_the_person_of_its_time() -> None:
    topic = FakeTopic(record("a"))
    function = PersonIdUdf(load(), lambda settings: MergeFeed(settings, lambda: topic))
    function.open(None)
    users, times = pd.Series(["a", "a", "b"]), pd.Series([TIME_MS, TIME_MS - 1, TIME_MS])
    assert function.eval(users, times).tolist() == ["u", "a", "b"]
    assert function.eval(users[:0], times[:0]).tolist() == []
    function.close()


def test_without_merges_the_ids_are_passed_on() -> None:
    function = PersonIdUdf(load(), MergeFeed)
    function.open(None)
    users = pd.Series(["a"])
    assert function.eval(users, pd.Series([TIME_MS])) is users
    function.close()


def test_consents_of_a_job_are_those_of_persons() -> None:
    withdrawal = consent_record("a", [ConsentChange(TIME_MS, "risk", False)])
    consents = FakeTopic(Record("user-consents", 0, 0, 0, b"a", withdrawal, {}))
    merges, settings = FakeTopic(), load()
    feed = PersonConsentFeed(
        settings,
        ConsentFeed(settings, lambda: consents),
        MergeFeed(settings, lambda: merges, poll_timeout_s=0.01),
    )
    assert feed.current().allowed("u", "risk", TIME_MS)
    merges.put(record("a"))
    until(lambda: not feed.current().allowed("u", "risk", TIME_MS))
    feed.close()
