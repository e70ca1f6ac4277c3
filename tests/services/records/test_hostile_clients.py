"""Clients with a fast clock, with records of any size, extreme numbers, or floods.

The time of the records is the true time.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator
from itertools import cycle, product

import pytest
from confluent_kafka import Producer

from liveprofile.kafka.connection import client_config
from liveprofile.kafka.records import read_topic
from liveprofile.units import HOUR_MS, MINUTE_MS
from tests.support.job_under_test import JobUnderTest
from tests.support.streams.shop import START_MS, event_of

MEGABYTE = 1 << 20
CHARS = 65_536  # limits.max_payload_chars
SIZES_BYTES = (CHARS - 1, CHARS, CHARS + 1, *(MEGABYTE + n for n in (-1, 0, 1)), 5 * MEGABYTE)
CODECS = ("gzip", "snappy", "lz4", "zstd")  # all that producers may compress with

SKEW_MINUTES = (0, 1, 9)
USERS, FAST_USERS = 50, 2
EVENTS, STEP_MS = 600, 4_000  # 40 minutes: 40 windows
DELAY_MS = 5_000  # at most, from an event to its record
FAST = "fast-"
FLOOD_EVENTS, FLOOD_LONG_EVENTS = 450, 12  # of one user and window


def long_payloads() -> Iterator[bytes]:
    """Yields events, and texts that are none, with as many bytes as SIZES_BYTES has."""
    for size in SIZES_BYTES:
        for number, character in enumerate(("x", "ü", "\U0001f600")):
            event_id = f"long-{size}-{number}"
            event = event_of("long", START_MS, event_id, "purchase", amount=1, text="")
            empty = json.dumps(event).encode()
            filler = character.encode() * ((size - len(empty)) // len(character.encode()))
            value = empty[:-2] + filler + b'"}'
            yield value + b" " * (size - len(value))
        yield b"\xff" * size
        yield b"[" * size


def numbers() -> Iterator[bytes]:
    """Yields purchases with prices, quantities and amounts at and beyond the limit."""
    extremes = ("0", "1", "1e9", "1000000000.5", "1e18", "1e308", "1e400", '"1e9"', "-1", "1e-300")
    for number, (price, quantity, amount) in enumerate(product(extremes, extremes, (None, "5"))):
        given = "" if amount is None else f',"amount":{amount}'
        yield (
            f'{{"event_id":"number-{number}","user_id":"number-{number % 7}",'
            f'"event_type":"purchase","event_time":{START_MS + 250 * number},'
            f'"device_id":"d-{number % 5}","price":{price},"quantity":{quantity}{given}}}'
        ).encode()


def floods() -> Iterator[tuple[str, bytes]]:
    """Yields user and event of two windows: one with many events, one with long ones."""
    for user, count, chars in (("bot", FLOOD_EVENTS, 0), ("long-bot", FLOOD_LONG_EVENTS, 60_000)):
        for number in range(count):
            event = event_of(user, START_MS + number, kind="search", text="x" * chars)
            yield user, json.dumps(event).encode()


def stream(skew_minutes: int) -> Iterator[tuple[dict[str, object], int]]:
    """Yields events and the times of their records, an hour and a half for each skew."""
    rng = random.Random(skew_minutes)
    start_ms = START_MS + SKEW_MINUTES.index(skew_minutes) * 3 * HOUR_MS // 2
    for number in range(EVENTS):
        user, true_ms = rng.randrange(USERS), start_ms + number * STEP_MS
        is_fast = user < FAST_USERS
        event = event_of(
            f"{FAST if is_fast else 'user-'}{user}",
            true_ms + skew_minutes * MINUTE_MS * is_fast,
            f"{skew_minutes}-{number}",
            # Heartbeats of a fast clock come from anyone.
            "heartbeat" if is_fast and number % 2 else "view",
        )
        yield event, true_ms + rng.randrange(DELAY_MS)


@pytest.fixture(scope="module", autouse=True)
def _sent(job: JobUnderTest) -> None:
    """Sends all of it and closes the windows."""
    topic = job.settings.topics.events
    # As clients that compress: to the broker the records are small.
    config = client_config(job.settings.kafka) | {"message.max.bytes": 2 * max(SIZES_BYTES)}
    producers = [Producer(config | {"compression.type": codec}) for codec in CODECS]
    for value, each in zip((*long_payloads(), *numbers()), cycle(producers), strict=False):
        each.produce(topic, value, timestamp=START_MS)
        each.produce(job.settings.topics.feedback, value)
        each.flush()  # a batch of large records would exceed the broker's limit
    producer = producers[0]
    for user, value in floods():
        producer.produce(topic, value, user, timestamp=START_MS)
        producer.poll(0)
    producer.flush()
    for skew in SKEW_MINUTES:
        for event, record_ms in stream(skew):
            key, value = str(event["user_id"]), json.dumps(event)
            producer.produce(topic, value, key, timestamp=record_ms)
            producer.poll(0)
    assert producer.flush(60) == 0
    job.send_heartbeats(START_MS + 24 * HOUR_MS)
    job.wait_until_caught_up()


def test_fast_clocks_make_no_event_late(job: JobUnderTest) -> None:
    late = Counter()
    for record in read_topic(job.settings, job.settings.topics.late):
        event = json.loads(record.value)
        late[event["event_id"].split("-")[0], event["user_id"].startswith(FAST)] += 1
    assert not late, late


def test_every_long_or_extreme_record_is_accounted_for(job: JobUnderTest) -> None:
    """Of events by the reference (test_partitions), of labels here: no record is a label."""
    rejected = [
        record.headers
        for record in read_topic(job.settings, job.settings.topics.rejected)
        if record.headers["topic"].decode() == job.settings.topics.feedback
    ]
    sizes = [len(value) for value in (*long_payloads(), *numbers())]
    assert len(rejected) == len(sizes)
    truncated = {int(headers["payload_bytes"]) for headers in rejected if "truncated" in headers}
    assert truncated == {size for size in sizes if size > 4 * CHARS} | {CHARS + 1}


def test_window_takes_a_limited_number_of_events_and_characters(job: JobUnderTest) -> None:
    details = Counter(
        record.headers["detail"].decode()
        for record in read_topic(job.settings, job.settings.topics.rejected)
        if record.headers["reason"] == b"TOO_MANY"
    )
    limits = job.settings.limits
    long_event_chars = max(len(value) for user, value in floods() if user == "long-bot")
    assert details == {
        "events": FLOOD_EVENTS - limits.max_window_events,
        "characters": FLOOD_LONG_EVENTS - limits.max_window_chars // long_event_chars,
    }
