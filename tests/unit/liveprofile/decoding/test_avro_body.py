"""Avro bodies become events; hostile bodies and schemas cost no more than their bytes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.decoding.avro_body import UnusableSchema, avro_reader
from liveprofile.decoding.undecodable import Undecodable
from tests.support.streams.encoded import AVRO_EVENT, avro

EVENT = {
    "event_id": "e-1",
    "user_id": 42,
    "event_type": "purchase",
    "event_time": datetime(2026, 11, 29, 12, 0, 0, 123456, tzinfo=UTC),
    "item_id": "Ölkännchen",
    "amount": Decimal("1234567890.10"),
    "place": {"lat": 45.5, "lon": -73.25},
    "tags": ["new", ""],
}
BODY = avro(AVRO_EVENT, EVENT)
READ = avro_reader(json.dumps(AVRO_EVENT), [])


def record(*types: object) -> str:
    fields = [{"name": f"f{number}", "type": kind} for number, kind in enumerate(types)]
    return json.dumps({"type": "record", "name": "E", "fields": fields})


def test_example_of_the_specification_is_read() -> None:
    """Avro 1.12, section Data Serialization, of records: a = 27, b = "foo"."""
    schema = {
        "type": "record",
        "name": "test",
        "fields": [{"name": "a", "type": "long"}, {"name": "b", "type": "string"}],
    }
    read = avro_reader(json.dumps(schema), [])
    assert read(bytes.fromhex("36 06 66 6f 6f")) == b'{"a":27,"b":"foo"}'


def test_logical_types_are_those_of_the_contract() -> None:
    assert READ(BODY).decode() == (
        '{"event_id":"e-1","user_id":42,"event_type":"purchase","event_time":1795953600123,'
        '"item_id":"Ölkännchen","amount":1234567890.10,"place":{"lat":45.5,"lon":-73.25},'
        '"tags":["new",""]}'
    )


def test_other_types_have_json() -> None:
    schema = record(
        "bytes",
        {"type": "int", "logicalType": "date"},
        {"type": "int", "logicalType": "time-millis"},
        {"type": "long", "logicalType": "local-timestamp-micros"},
        {"type": "map", "values": "float"},
        {"type": "fixed", "name": "F", "size": 2},
        ["null", "boolean"],
    )
    body = b"\x04\x01\x02\x02\xd0\x0f\x80\x89\x7a\x02\x02a\0\0\xc0\x3f\0\x01\x02\0"
    assert json.loads(avro_reader(schema, [])(body)) == {
        "f0": "AQI=",
        "f1": "1970-01-02",
        "f2": "00:00:01",
        "f3": 1000,
        "f4": {"a": 1.5},
        "f5": "AQI=",
        "f6": None,
    }


@pytest.mark.parametrize("length", range(len(BODY)))
def test_truncated_body_is_rejected(length: int) -> None:
    with pytest.raises(Undecodable) as raised:
        READ(BODY[:length])
    assert raised.value.reason == "BAD_BODY"


def test_bytes_after_the_body_are_rejected() -> None:
    with pytest.raises(Undecodable, match="1 bytes after the last field"):
        READ(BODY + b"\0")


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_rejected(body: bytes) -> None:
    try:
        assert isinstance(json.loads(READ(body)), dict)
    except Undecodable as error:
        assert error.reason == "BAD_BODY"


@given(st.integers(0, len(BODY) - 1), st.integers(0, 255))
def test_body_with_another_byte_is_an_event_or_rejected(place: int, byte: int) -> None:
    try:
        assert isinstance(json.loads(READ(BODY[:place] + bytes([byte]) + BODY[place + 1 :])), dict)
    except Undecodable as error:
        assert error.reason == "BAD_BODY"


def test_length_of_gigabytes_takes_no_memory() -> None:
    huge = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"
    for schema in (record("string"), record({"type": "array", "items": "string"})):
        with pytest.raises(Undecodable):
            avro_reader(schema, [])(huge + b"a")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("null", "null outside of a union"),
        ({"type": "array", "items": "null"}, "null outside of a union"),
        ({"type": "map", "values": {"type": "null"}}, "null outside of a union"),
        ({"type": "record", "name": "R", "fields": []}, "R has no fields"),
        ({"type": "fixed", "name": "F", "size": 0}, "F takes no bytes"),
        (["null", "E"], "E contains itself"),
        ({"type": "array", "items": "E"}, "E contains itself"),
        (
            {
                "type": "record",
                "name": "A",
                "fields": [{"name": "x", "type": {"type": "map", "values": ["null", "A"]}}],
            },
            "A contains itself",
        ),
    ],
)
def test_schema_whose_values_are_not_bounded_by_the_body_is_refused(kind: object, why: str) -> None:
    with pytest.raises(UnusableSchema, match=why):
        avro_reader(record("string", kind), [])


def test_type_that_is_used_twice_is_no_cycle() -> None:
    place = {"type": "record", "name": "P", "fields": [{"name": "x", "type": "int"}]}
    assert avro_reader(record(place, ["null", "P"], "P"), [])(b"\x02\x02\x04\x06") == (
        b'{"f0":{"x":1},"f1":{"x":2},"f2":{"x":3}}'
    )
