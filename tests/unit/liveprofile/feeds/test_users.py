"""Feeds of consents, erasures and merges: what every feed that is keyed by users must do."""

import logging
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

import pytest

from liveprofile.consent.changes import ConsentChange
from liveprofile.consent.changes import to_record as consent_record
from liveprofile.errors import ServiceError
from liveprofile.feeds.feed import Feed, TableSpec
from liveprofile.feeds.users import (
    PersonConsents,
    consents_spec,
    erasures_spec,
    follow,
    follow_merges,
    merges_spec,
    read_merges,
)
from liveprofile.identity.merges import Merge
from liveprofile.identity.merges import to_record as merge_record
from liveprofile.kafka.records import Record
from liveprofile.kafka.topics import NoTopicError
from liveprofile.privacy.erasures import to_record as erasure_record
from liveprofile.settings import Settings, load
from liveprofile.units import MINUTE_MS
from liveprofile.wire.user_records import key_of
from tests.support.memory.kafka import WHOLE, FakeTopic
from tests.support.waiting import until

TIME_MS = 1_767_605_700_000


class Kind(NamedTuple):
    """A table, and what its record says of a user."""

    spec: Callable[[Settings], TableSpec]
    value: Callable[[str], bytes]
    says: Callable[[Any, str, int], bool]  # of a table, a user and a time: is the record in force


KINDS = {
    "consents": Kind(
        consents_spec,
        lambda user: consent_record(user, [ConsentChange(TIME_MS, "profiling", False)]),
        lambda table, user, time_ms: not table.allowed(user, "profiling", time_ms),
    ),
    "erasures": Kind(
        erasures_spec,
        lambda user: erasure_record(user, TIME_MS + 1),
        lambda table, user, time_ms: user in table and table.is_erased(user, time_ms),
    ),
    "merges": Kind(
        merges_spec,
        lambda user: merge_record(user, [Merge("person", TIME_MS)]),
        lambda table, user, time_ms: table.resolve(user, time_ms) == "person",
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def record(key: bytes | str | None, value: bytes | None) -> Record:
    return Record("topic", 0, 7, TIME_MS, key_of(key) if isinstance(key, str) else key, value, {})


def topic_of(*records: Record) -> FakeTopic:
    return FakeTopic(WHOLE, *records)


def feed_of(kind: Kind, source: Any, first_read_timeout_s: float = 5.0, **sections: Any) -> Feed:
    settings = load(**sections)
    timing = {"poll_timeout_s": 0.01, "retry_s": 0.01, "first_read_timeout_s": first_read_timeout_s}
    open_source = source if callable(source) else lambda: source
    return follow(settings, kind.spec(settings), open_source, **timing)


def test_records_are_in_force_when_the_feed_is_open_and_later_ones_soon(kind: Kind) -> None:
    topic = topic_of(record("a", kind.value("a")), record("b", kind.value("b")))
    feed = feed_of(kind, topic)
    assert kind.says(feed.current(), "a", TIME_MS) and not kind.says(feed.current(), "c", TIME_MS)
    topic.put(record("c", kind.value("c")), record("b", None))
    until(lambda: kind.says(feed.current(), "c", TIME_MS))
    until(lambda: not kind.says(feed.current(), "b", TIME_MS))
    feed.close()


KEYS = {"not text": b"\xff\xfe", "none": None, "empty": b"", "5 MB": b"x" * 5_000_000}
VALUES = {"removed": None, "cut": b"{", "not text": b"\xff" * 5_000_000}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", VALUES)
def test_records_of_no_user_do_not_end_a_feed(
    kind: Kind, key: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = record(KEYS[key], VALUES[value])
    topic = topic_of(bad, record("a", kind.value("a")))
    with caplog.at_level(logging.WARNING):
        feed = feed_of(kind, topic)
        assert "a" in feed.current()
        topic.put(bad, record("b", kind.value("b")))
        until(lambda: "b" in feed.current())
        feed.close()
    assert "has failed" not in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_thread_stops_whoever_asks(kind: Kind) -> None:
    topic = topic_of(record("a", kind.value("a")))
    feed = feed_of(kind, topic)
    topic.put(ZeroDivisionError("a bug"))
    with pytest.raises(ServiceError, match="topic has failed"):
        until(lambda: "b" in feed.current())
    feed.close()


def test_an_invalid_record_is_logged_without_the_user_id_and_changes_nothing(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    valid = record("secret-user", kind.value("secret-user"))
    with caplog.at_level(logging.WARNING):
        feed = feed_of(kind, topic_of(valid, record("secret-user", b"{}")))
    assert kind.says(feed.current(), "secret-user", TIME_MS)
    assert "topic/0 offset 7" in caplog.text and "secret-user" not in caplog.text
    feed.close()


def test_a_record_with_a_time_far_ahead_of_its_own_is_refused(kind: Kind) -> None:
    valid, ahead = record("a", kind.value("a")), record("b", kind.value("b"))
    feed = feed_of(kind, topic_of(valid, ahead._replace(timestamp_ms=TIME_MS - 12 * MINUTE_MS)))
    assert "a" in feed.current() and "b" not in feed.current()
    feed.close()


def missing() -> FakeTopic:
    raise NoTopicError("no topic")


def test_no_job_starts_without_a_whole_topic(kind: Kind) -> None:
    for source in (missing, lambda: FakeTopic(record("a", kind.value("a")))):
        with pytest.raises(ServiceError, match=r"created again|no topic"):
            feed_of(kind, source, first_read_timeout_s=0.2)


def test_what_a_lost_topic_said_stays_in_force_until_it_is_filled(kind: Kind) -> None:
    first, emptied = topic_of(record("a", kind.value("a"))), FakeTopic()
    topics = [first, emptied]

    def open_source() -> FakeTopic:
        return topics.pop(0) if topics else missing()

    with closing(feed_of(kind, open_source)) as feed:
        first.put(ServiceError("deleted"))
        emptied.put(ServiceError("deleted"))
        until(lambda: emptied.closed)
        assert kind.says(feed.current(), "a", TIME_MS)
        topics.append(topic_of(record("b", kind.value("b"))))
        until(lambda: kind.says(feed.current(), "b", TIME_MS))


def test_a_topic_that_cannot_be_read_prevents_the_start(kind: Kind) -> None:
    def unreachable() -> FakeTopic:
        raise ServiceError("Kafka does not answer")

    with pytest.raises(ServiceError, match=r"does not start without the [a-z]+ of users"):
        feed_of(kind, unreachable, first_read_timeout_s=0.2)


def test_a_large_topic_is_waited_for_unless_it_takes_far_too_long(kind: Kind) -> None:
    topic = FakeTopic(WHOLE, record("a", kind.value("a")), pause_s=0.1)
    with closing(feed_of(kind, topic, first_read_timeout_s=0.1)) as feed:
        assert kind.says(feed.current(), "a", TIME_MS)
    with pytest.raises(ServiceError, match="does not start"):
        feed_of(kind, FakeTopic(WHOLE, pause_s=0.5), first_read_timeout_s=0.01)


def test_after_failures_which_are_logged_once_the_topic_is_read_again_from_its_beginning(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (topic_of(record(user, kind.value(user))) for user in "ab")
    down = ServiceError("down")
    topics = [first, down, down, second]

    def open_source() -> FakeTopic:
        if isinstance(topic := topics.pop(0), ServiceError):
            raise topic
        return topic

    with caplog.at_level(logging.WARNING):
        feed = feed_of(kind, open_source)
        first.put(ServiceError("broken"))
        until(lambda: kind.says(feed.current(), "b", TIME_MS))
    assert not kind.says(feed.current(), "a", TIME_MS)  # compaction has removed it
    assert [line.partition(";")[0] for line in caplog.messages] == ["broken", "down"]
    feed.close()
    assert first.closed and second.closed


def test_a_job_that_does_not_follow_merges_reads_nothing() -> None:
    settings = load(kafka={"bootstrap_servers": "127.0.0.1:1"})
    assert not len(follow_merges(settings).current()) and not len(read_merges(settings))


def test_consents_of_a_job_are_those_of_persons() -> None:
    merges = topic_of()
    withdrawal = record("a", consent_record("a", [ConsentChange(TIME_MS, "risk", False)]))
    feed = PersonConsents(
        load(),
        feed_of(KINDS["consents"], topic_of(withdrawal)),
        feed_of(KINDS["merges"], merges),
    )
    assert feed.current().allowed("person", "risk", TIME_MS)
    merges.put(record("a", KINDS["merges"].value("a")))
    until(lambda: not feed.current().allowed("person", "risk", TIME_MS))
    feed.close()
