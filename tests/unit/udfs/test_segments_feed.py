"""TopicSegments and SegmentsFeed: what the feed of segments does besides that of rules."""

from __future__ import annotations

import logging

import orjson
import pytest

from tests.support.memory.topic import FakeTopic, until
from tests.support.rows.segment_examples import (
    SHIPPED_SEGMENTS,
    segment,
    segment_record,
)
from udfs.segments_feed import SWEEP_KEY, SegmentsFeed, TopicSegments


def definition(segment_id: str, when: str = "events > 1") -> bytes:
    return segment(segment_id, when).model_dump_json().encode()


def test_definitions_with_unknown_references_are_left_out_until_the_reference_exists(
    caplog: pytest.LogCaptureFixture,
) -> None:
    topic = TopicSegments()
    topic.apply(
        [
            segment_record("a", definition("a", 'segment("b")')),
            segment_record("c", definition("c")),
        ]
    )
    with caplog.at_level(logging.WARNING):
        assert [each.id for each in topic.in_force().segments] == ["c"]
    assert "segment a: unknown segment b; it is not evaluated" in caplog.text
    topic.apply([segment_record("b", definition("b"))])
    assert [each.id for each in topic.in_force().segments] == ["a", "b", "c"]


def test_sweep_record_is_no_definition_and_keeps_those_of_the_file() -> None:
    topic = FakeTopic()
    feed = SegmentsFeed(SHIPPED_SEGMENTS, lambda: topic, poll_timeout_s=0.01, retry_s=0.01)
    try:
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
    finally:
        feed.close()


def test_invalid_sweep_record_is_ignored() -> None:
    topic = TopicSegments()
    topic.apply([segment_record(SWEEP_KEY.decode(), value) for value in (b"{", b"[]", b"{}")])
    assert (topic.invalid_records, topic.has_records) == (3, False)
    assert topic.sweep == {"sweep": "", "sweeping": False}
