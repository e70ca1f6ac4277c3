"""PARSE_EVENT and EVENT_TIME against tests/reference/validation.py, on any bytes."""

import base64
import json
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from liveprofile.attributes.event_types import DeclaredType, EventTypes, Property
from liveprofile.flink import java
from liveprofile.flink.jars import FUNCTIONS, JARS, pyflink_home
from liveprofile.settings import load
from tests.reference.validation import (
    MIN_TIME_MS,
    REASONS,
    REASONS_WITH_DETAIL,
    TYPES,
    Rejected,
    ValidEvent,
    event_clock_ms,
    validate,
)
from tests.support.streams import seeded
from tests.support.streams.corruptions import CORRUPTIONS
from tests.support.streams.shop import shop_events

RECORD_MS = 1_790_000_000_123
OWN_TYPES = {
    "Order Paid": ("purchase", {"tax": (0.0, 100.0), "plan": None}),
    "view": ("view", {"tax": (-1e9, 5.5)}),
}
FIELDS = (
    *("event_id", "user_id", "event_type", "event_time", "item_id", "category_id", "price"),
    *("quantity", "amount", "rating", "place", "attributes", "lat", "lon", "shop_id", "x"),
    *("device_id", "place.lat", "attributes.shop_id", "event\\u005fid", "tax", "plan"),
)
VALUES = (
    *("-0", "1e400", "1000000000", "1000000001", "0e0", "1.0", "true", "null", '""', "{}", "[1]"),
    *('"007"', '"-5"', '"1e3"', '"1."', '" 1"', "01", "+1", "NaN", "90", "-90.01", "180.1"),
    *('"\\ud800"', '"\\ud83d\\ude00"', '"\\\\ud800"', '"\\udc00"', '"\\u0000"', '"a\\u001db"'),
    *('"a\\u0085"', '"\\u202eb"', '"\\u2065"', '"\\u061c"', '"\\u2028"'),
    *("9" * 1_000, "9" * 1_001, "-" + "9" * 1_000, "0." + "1" * 998, "0." + "1" * 999),
    *(f'"{"é" * 256}"', f'"{"😀" * 256}"', f'"{"😀" * 257}"', '"view"', '"heartbeat"', '"View"'),
    *('"2024-02-30T00:00"', '"2024-02-29 23:59:59.9999Z"', '"2024-01-01T00:00+18:01"'),
    *('"2024-01-01T00:00-0530"', '"2024-01-01T24:00"', '"1970-01-01T00:00Z"', "1700000000000"),
    *("1790000600123", "1790000600124", "946684799999", "9999999999999999", "1700000000000.0"),
)
BYTES = (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbf\xbd", b"\xf4\x90\x80\x80", b"\x1f")


def odd_payloads(rng: random.Random, count: int) -> Iterator[bytes]:
    """An event with some fields replaced, repeated, missing or nested, and some bytes changed."""
    for _ in range(count):
        fields = {
            "event_id": '"e"',
            "user_id": "7",
            "event_type": f'"{rng.choice((*TYPES, *OWN_TYPES))}"',
        }
        pairs = [*fields.items(), ("event_time", "1700000000000"), ("price", "5")]
        for _ in range(rng.randint(0, 3)):
            name, value = rng.choice(FIELDS), rng.choice(VALUES)
            if name in ("place", "attributes") and rng.random() < 0.8:
                value = f'{{"{rng.choice(FIELDS)}": {value}, "lat": {rng.choice(VALUES)}}}'
            if rng.random() < 0.6:
                pairs = [pair for pair in pairs if pair[0] != name]
            pairs.insert(rng.randint(0, len(pairs)), (name, value))
        text = "{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}"
        payload = (text + rng.choice([""] * 30 + [" ", "x", "{}", ","])).encode()
        at = rng.randrange(len(payload))
        if rng.random() < 0.1:
            payload = payload[:at] + rng.choice(BYTES) + payload[at:]
        yield payload


def extreme_payloads() -> Iterator[bytes]:
    for depth in (997, 998, 999, 5_000):
        yield b'{"event_type":"heartbeat","event_time":1700000000000,"x":%s%s}' % (
            b"[" * depth,
            b"]" * depth,
        )
    for size in (50_000, 50_001):
        yield b'{"event_type":"heartbeat","event_time":1700000000000,"%s":1}' % (b"n" * size)
    for size in (65_000, 65_536, 5_000_000):
        yield b'{"event_type":"heartbeat","event_time":1700000000000,"x":"%s"}' % (b"x" * size)


def test_payloads_are_parsed_and_rejected_as_the_contract_says() -> None:
    limits, rng = load().limits, random.Random(4)
    broken = [make for each in CORRUPTIONS.values() for _, make in each]
    values = [message.value for message in seeded.poison_messages(300, 4)]
    values += [message.value for message in seeded.payload_variants(500, 4)]
    values += [make(event) for make, event in zip(broken, shop_events(4, 5, 1_000), strict=False)]
    values += [*odd_payloads(rng, 4_000), *extreme_payloads()]
    values = [value for value in values if value != b""]  # an empty line is a tombstone
    seen: Counter[str] = Counter()
    for value, (reason, detail, *event) in zip(values, java_rows(values), strict=True):
        *ids, properties, amount, quantity, rating, lat, lon, found_ms = event
        clock_ms = event_clock_ms(value, RECORD_MS, limits)
        assert found_ms == clock_ms or (clock_ms is None and found_ms < MIN_TIME_MS), value
        expected = validate(value, RECORD_MS, limits, OWN_TYPES)
        seen[reason or type(expected).__name__] += 1
        if isinstance(expected, Rejected):
            assert reason == expected.reason, value
            assert detail == expected.detail or reason not in REASONS_WITH_DETAIL, value
            continue
        assert reason is None, value
        if isinstance(expected, ValidEvent):
            names = ("event_id", "user_id", "event_type", "item", "category")
            assert ids[:5] == [getattr(expected, name) for name in names], value
            assert amount == expected.amount, value
            own = {key: str(each) for key, each in expected.properties.items()}
            found = dict(each.split("=", 1) for each in (properties or "").split("\x1f") if each)
            assert {k: found[k] if k == "plan" else str(float(found[k])) for k in found} == own, (
                value
            )
            given = json.loads(value)
            numbers = [given.get(name) for name in ("quantity", "rating")]
            known = [None if each is None else float(each) for each in numbers]
            assert [quantity, rating] == known, value
            assert expected.place == (None if None in (lat, lon) else (lat, lon)), value
    assert {*REASONS, "ValidEvent", "Heartbeat"} <= seen.keys() and min(seen.values()) > 2, seen


def declared() -> str:
    types = (
        DeclaredType(
            id=name,
            role=role,
            properties={
                key: Property(type="number", min=limits[0], max=limits[1])
                if limits
                else Property(type="text")
                for key, limits in properties.items()
            },
        )
        for name, (role, properties) in OWN_TYPES.items()
    )
    return EventTypes(version="1", event_types=tuple(types)).text


def java_rows(values: list[bytes | None]) -> Iterator[tuple[Any, ...]]:
    """What PARSE_EVENT returns of each value, and EVENT_TIME. Runs them without Flink."""
    limits = load().limits
    options = (RECORD_MS, limits.max_clock_skew_ms, limits.max_payload_chars, declared())
    jars = (*(pyflink_home() / "lib").glob("*.jar"), JARS / "flink" / FUNCTIONS)
    done = subprocess.run(
        [
            *(java.home("javac") / "bin" / "java", "-classpath", ":".join(map(str, jars))),
            *(Path(__file__).with_name("PrintEvents.java"), *map(str, options)),
        ],
        input=b"".join(base64.b64encode(value or b"") + b"\n" for value in values),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2_000:]
    for line in done.stdout.decode().splitlines():
        (*texts, found_ms), numbers = (fields := line.split(" "))[:-6] + fields[-1:], fields[-6:-1]
        yield (
            *(None if text == "-" else base64.b64decode(text).decode() for text in texts),
            *(None if number == "null" else float(number) for number in numbers),
            int(found_ms),
        )
