"""Pace of a replay and the heartbeat that closes its last windows."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intake.files.rejected import RejectedRecord, parse_record
from intake.files.replay import Heartbeats, closing_time_ms
from liveprofile.errors import InputError, ServiceError
from liveprofile.kafka.records import Record
from liveprofile.settings import WindowSettings
from tests.reference.windows import window_end_ms


@given(
    st.integers(0, 10**13),
    st.text(min_size=1),
    st.integers(1, 10**6),
    st.sampled_from([(60_000, 0), (300_000, 10_000)]),
)
def test_closing_heartbeat_moves_the_watermark_past_the_last_window(
    last_ms, user_id, out_of_orderness_ms, lengths_ms
):
    length_ms, stagger_ms = lengths_ms
    window = WindowSettings(
        length_ms=length_ms, stagger_ms=stagger_ms, out_of_orderness_ms=out_of_orderness_ms
    )
    watermark_ms = closing_time_ms(last_ms, window) - out_of_orderness_ms
    end_ms = window_end_ms(user_id, last_ms, window)
    assert end_ms <= watermark_ms <= end_ms + 2 * length_ms


class Topic:
    """Opens producers that send to `partitions`; the calls with a number in `failing` fail."""

    def __init__(self, partitions: int = 1, failing: tuple[int, ...] = ()):
        self.partitions, self.failing = partitions, failing
        self.calls = self.opened = 0
        self.sent_ms: list[list[int]] = []

    def open(self) -> Topic:
        self.opened += 1
        return self

    def find_partitions(self) -> None:
        self.found = self.partitions

    def send_heartbeats(self, time_ms: int) -> None:
        self.calls += 1
        if self.calls in self.failing:
            raise ServiceError("broker is away")
        self.sent_ms.append([time_ms] * self.found)
        self.partitions += 1

    def flush(self) -> None:
        pass


def run(topic: Topic, count: int) -> list[str]:
    heartbeats, errors = Heartbeats(topic.open), []
    for _ in range(count):
        try:
            heartbeats.send()
        except ServiceError as error:
            errors.append(str(error))
    return errors


def test_heartbeats_go_to_partitions_that_are_added_later() -> None:
    topic = Topic(partitions=2)
    assert run(topic, 3) == []
    assert [len(times) for times in topic.sent_ms] == [2, 3, 4]
    assert abs(topic.sent_ms[-1][0] - time.time() * 1_000) < 5_000


def test_outage_ends_with_a_new_producer() -> None:
    topic = Topic(failing=(2, 3))
    assert run(topic, 4) == ["broker is away"] * 2
    assert (len(topic.sent_ms), topic.opened) == (2, 3)


PAYLOAD = b'{"event_id":"e1","user_id":42,"event_type":"view","price":"x"}'
HEADERS = {
    "reason": b"BAD_NUMBER",
    "detail": b"price",
    "topic": b"behavior-events",
    "partition": b"3",
    "offset": b"99",
}
REJECTED = RejectedRecord(
    "0:17", 1_000, "BAD_NUMBER", "price", "behavior-events", 3, 99, False, PAYLOAD
)


def record(headers: dict[str, bytes], value: bytes | None = PAYLOAD) -> Record:
    return Record("behavior-events-rejected", 0, 17, 1_000, None, value, headers)


def test_record_has_its_reason_and_its_original_position() -> None:
    assert parse_record(record(HEADERS)) == REJECTED
    truncated = parse_record(record(HEADERS | {"truncated": b"true"}, b"\xff"))
    assert truncated.truncated and truncated.as_dict()["payload"] == "\ufffd"
    with pytest.raises(InputError, match="no rejected record: it has the headers reason"):
        parse_record(record({"reason": b"BAD_NUMBER"}))
