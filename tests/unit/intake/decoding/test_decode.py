"""Each format becomes the same event; what cannot be decoded has a reason, an outage has none."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intake.decoding.avro_body import UnusableSchemaError, avro_reader
from intake.decoding.decode import (
    MAX_DETAIL_CHARS,
    MAX_KEY_BYTES,
    DecodedEvent,
    DecodeError,
    decode,
)
from intake.decoding.registry import UNKNOWN_S, RegistryError, SchemaRegistry
from liveprofile.kafka.records import Record
from liveprofile.settings import DecoderSettings, LimitSettings
from tests.reference.validation import ValidEvent, validate
from tests.support.memory.schema_registry import PASSWORD, USER, RegistryServer, registry_server
from tests.support.streams.encoded import AVRO_EVENT, avro, framed, record_schema

MAX_CHARS = 1_000
EVENT = {
    "event_id": "e-1",
    "user_id": "ü-42",
    "event_type": "purchase",
    "event_time": "2026-11-29T12:00:00Z",
    "amount": 12.5,
}
VALUE = json.dumps(EVENT, ensure_ascii=False, separators=(",", ":")).encode()
ENVELOPE = {
    "specversion": "1.0",
    "id": "7",
    "source": "/shop/checkout",
    "type": "com.shop.purchase",
    "subject": "ü-42",
    "time": "2026-11-29t12:00:00z",
}
SCHEMA = record_schema("E", **dict.fromkeys(EVENT, "string") | {"amount": "double"})


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with registry_server() as state:
        yield state


@pytest.fixture
def registry(server: RegistryServer) -> Iterator[SchemaRegistry]:
    with closing(SchemaRegistry(DecoderSettings(registry_url=server.url))) as client:
        yield client


def no_schemas(schema_id: int) -> Any:
    raise AssertionError(f"schema {schema_id} is not asked for")


def record(value: bytes | None, key: bytes | None = b"key", **headers: str) -> Record:
    named = {name.replace("content_type", "content-type"): v for name, v in headers.items()}
    encoded = {name: text.encode() for name, text in named.items()}
    return Record("encoded", 1, 7, 1_800_000_000_000, key, value, encoded)


def decoded(value: bytes | None, reader_of: Any = no_schemas, **headers: str) -> DecodedEvent:
    return decode(record(value, **headers), reader_of, MAX_CHARS)


def reason(value: bytes | None, reader_of: Any = no_schemas, **headers: str) -> str:
    with pytest.raises(DecodeError) as raised:
        decoded(value, reader_of, **headers)
    assert len(raised.value.detail) <= MAX_DETAIL_CHARS
    return raised.value.reason


def test_all_formats_of_an_event_become_the_same(
    server: RegistryServer, registry: SchemaRegistry
) -> None:
    avro_id = server.register(SCHEMA)
    json_id = server.register({"type": "object"}, "JSON")
    data = {name: EVENT[name] for name in ("event_id", "amount")}
    structured = json.dumps(ENVELOPE | {"data": data}).encode()
    of_binary = {f"ce_{name}": value for name, value in ENVELOPE.items()}
    for value, headers in (
        (VALUE, {}),
        (framed(avro_id, avro(SCHEMA, EVENT)), {}),
        (framed(json_id, VALUE), {}),
        (structured, {}),
        (structured, {"content_type": "application/cloudevents+json; charset=UTF-8"}),
        (json.dumps(data).encode(), of_binary | {"content_type": "application/json"}),
        (framed(json_id, json.dumps(data).encode()), of_binary),
    ):
        event = decoded(value, registry.reader, **headers)
        assert event.key == "ü-42".encode(), value
        parsed = json.loads(event.value or b"")
        assert parsed | {"event_time": parsed["event_time"].upper()} == EVENT, value


def test_json_events_are_sent_byte_for_byte() -> None:
    for value in (VALUE, b' {"user_id": 1, "user_id": 2}\n', b'{"specversion": "1.0"}', b"hello"):
        assert decoded(value).value == value
    assert decoded(b'{"user_id": 1, "user_id": 2}').key == b"2"
    assert decoded(None) == DecodedEvent(b"key", None)
    assert decoded(b"") == DecodedEvent(b"key", b"")


@pytest.mark.parametrize(
    "user", [b"true", b"null", b'""', b"1.5", b"[1]", b'"' + b"x" * 1_025 + b'"']
)
def test_record_keeps_its_key_without_a_user(user: bytes) -> None:
    event = decode(record(b'{"user_id": %s}' % user), no_schemas, 5_000)
    assert event.key == b"key"
    assert decode(record(b"{}", b"k" * (MAX_KEY_BYTES + 1)), no_schemas, MAX_CHARS).key is None


def test_event_id_of_a_cloud_event_is_source_and_id() -> None:
    first, second = (
        json.loads(decoded(json.dumps(ENVELOPE | {"source": s, "data": {}}).encode()).value or b"")
        for s in ("/a", "/b")
    )
    assert (first["event_id"], second["event_id"]) == ("/a 7", "/b 7")
    expected = {"event_type": "purchase", "user_id": "ü-42", "event_time": "2026-11-29T12:00:00Z"}
    assert first == expected | {"event_id": "/a 7"}
    event = validate(json.dumps(first).encode(), 1_800_000_000_000, LimitSettings())
    assert isinstance(event, ValidEvent) and event.event_type == "purchase"
    # Data comes before attributes, and null is missing.
    data = {"event_id": "mine", "user_id": None, "event_type": "view"}
    event = json.loads(decoded(json.dumps(ENVELOPE | {"data": data}).encode()).value or b"")
    assert (event["event_id"], event["user_id"], event["event_type"]) == ("mine", "ü-42", "view")


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"specversion": "0.3"}, "specversion 0.3"),
        ({"id": ""}, "attribute id"),
        ({"data": [1]}, "no JSON object"),
        ({"data": None}, "no JSON object"),
        ({"source": 7}, "attribute source"),
    ],
)
def test_invalid_structured_event_is_rejected(change: dict[str, Any], detail: str) -> None:
    value = json.dumps(ENVELOPE | {"data": EVENT} | change).encode()
    with pytest.raises(DecodeError, match=detail) as raised:
        decoded(value, content_type="application/cloudevents+json")
    assert raised.value.reason == "BAD_CLOUDEVENT"


@pytest.mark.parametrize(
    "value", [b"[]", b"{", b"", b'{"a": NaN}', b'{"a": 1e5', b'"x"', b"[" * 100_000]
)
def test_value_that_is_no_object_is_no_cloud_event(value: bytes) -> None:
    value = value[:MAX_CHARS]
    of_binary = {f"ce_{name}": text for name, text in ENVELOPE.items()}
    assert reason(value, content_type="application/cloudevents+json") == "BAD_CLOUDEVENT"
    assert reason(value, **of_binary) == "BAD_CLOUDEVENT"
    assert reason(VALUE, content_type="application/cloudevents-batch+json") == "BAD_CLOUDEVENT"


def test_wrong_magic_bytes_and_truncated_prefixes_are_rejected(registry: SchemaRegistry) -> None:
    for first in (1, 2, 8, 14, 31):
        assert reason(bytes([first]) + VALUE) == "BAD_MAGIC"
    for length in range(1, 6):
        assert reason(framed(1, b"")[:length]) == "BAD_BODY"
    assert reason(framed(9, b"x"), registry.reader) == "UNKNOWN_SCHEMA"
    assert reason(framed(-1, b"x"), registry.reader) == "UNKNOWN_SCHEMA"


def test_event_of_more_than_the_limit_is_rejected(
    server: RegistryServer, registry: SchemaRegistry
) -> None:
    longest = b'{"text": "' + "ü".encode() * (MAX_CHARS - 12) + b'"}'
    assert decoded(longest).value == longest
    assert reason(longest + b" ") == "TOO_LARGE"
    text = record_schema("T", text="string")
    body = avro(text, {"text": "x" * MAX_CHARS})
    assert reason(framed(server.register(text), body), registry.reader) == "TOO_LARGE"
    # Five megabytes are not even parsed.
    assert reason(b"\0" * 5_000_000) == "TOO_LARGE"


BODIES = st.binary(max_size=200).map(lambda body: framed(1, body))


@given(st.one_of(st.binary(max_size=60), BODIES), st.sampled_from([{}, {"ce_specversion": "1.0"}]))
def test_any_record_is_an_event_or_rejected(value: bytes, headers: dict[str, str]) -> None:
    def reader_of(schema_id: int) -> Any:
        if schema_id == 1:
            return READ
        raise DecodeError("UNKNOWN_SCHEMA", str(schema_id))

    try:
        assert decoded(value, reader_of, **headers).value is not None
    except DecodeError as error:
        assert error.reason in ("BAD_MAGIC", "BAD_BODY", "UNKNOWN_SCHEMA", "BAD_CLOUDEVENT")


EVENT_AVRO_BODY = {
    "event_id": "e-1",
    "user_id": 42,
    "event_type": "purchase",
    "event_time": datetime(2026, 11, 29, 12, 0, 0, 123456, tzinfo=UTC),
    "item_id": "Ölkännchen",
    "amount": Decimal("1234567890.10"),
    "place": {"lat": 45.5, "lon": -73.25},
    "tags": ["new", ""],
}
BODY = avro(AVRO_EVENT, EVENT_AVRO_BODY)
READ = avro_reader(json.dumps(AVRO_EVENT))


def record_of_avro_body(*types: object) -> str:
    return json.dumps(
        record_schema("E", **{f"f{number}": kind for number, kind in enumerate(types)})
    )


def test_logical_types_are_those_of_the_contract() -> None:
    assert READ(BODY).decode() == (
        '{"event_id":"e-1","user_id":42,"event_type":"purchase","event_time":1795953600123,'
        '"item_id":"Ölkännchen","amount":1234567890.10,"place":{"lat":45.5,"lon":-73.25},'
        '"tags":["new",""]}'
    )


def test_other_types_have_json() -> None:
    schema = record_of_avro_body(
        "bytes",
        {"type": "int", "logicalType": "date"},
        {"type": "int", "logicalType": "time-millis"},
        {"type": "long", "logicalType": "local-timestamp-micros"},
        {"type": "map", "values": "float"},
        {"type": "fixed", "name": "F", "size": 2},
        ["null", "boolean"],
    )
    body = b"\x04\x01\x02\x02\xd0\x0f\x80\x89\x7a\x02\x02a\0\0\xc0\x3f\0\x01\x02\0"
    assert json.loads(avro_reader(schema)(body)) == {
        "f0": "AQI=",
        "f1": "1970-01-02",
        "f2": "00:00:01",
        "f3": 1000,
        "f4": {"a": 1.5},
        "f5": "AQI=",
        "f6": None,
    }


def test_truncated_or_longer_body_is_rejected() -> None:
    for body in (*(BODY[:length] for length in range(len(BODY))), BODY + b"\0"):
        with pytest.raises(DecodeError) as raised:
            READ(body)
        assert raised.value.reason == "BAD_BODY"


def test_length_of_gigabytes_takes_no_memory() -> None:
    huge = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"
    for schema in (
        record_of_avro_body("string"),
        record_of_avro_body({"type": "array", "items": "string"}),
    ):
        with pytest.raises(DecodeError):
            avro_reader(schema)(huge + b"a")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("null", "null outside of a union"),
        ({"type": "array", "items": "null"}, "null outside of a union"),
        ({"type": "map", "values": {"type": "null"}}, "null outside of a union"),
        (record_schema("R"), "R has no fields"),
        ({"type": "fixed", "name": "F", "size": 0}, "F takes no bytes"),
        (["null", "E"], "E contains itself"),
        ({"type": "array", "items": "E"}, "E contains itself"),
        (record_schema("A", x={"type": "map", "values": ["null", "A"]}), "A contains itself"),
    ],
)
def test_schema_whose_values_are_not_bounded_by_the_body_is_refused(kind: object, why: str) -> None:
    with pytest.raises(UnusableSchemaError, match=why):
        avro_reader(record_of_avro_body("string", kind))


ID = record_schema("Id", id="string")


def unknown(registry: SchemaRegistry, schema_id: int) -> str:
    with pytest.raises(DecodeError) as raised:
        registry.reader(schema_id)
    assert raised.value.reason == "UNKNOWN_SCHEMA"
    return raised.value.detail


def test_schema_is_requested_once(server: RegistryServer, registry: SchemaRegistry) -> None:
    number = server.register(ID)
    assert registry.reader(number)(b"\x04ab") == b'{"id":"ab"}'
    assert registry.reader(number)(b"\x02c") == b'{"id":"c"}'
    assert server.requests == [f"/schemas/ids/{number}"]


def test_unknown_id_is_requested_again_after_a_while(server: RegistryServer) -> None:
    now_s = [0.0]
    settings = DecoderSettings(registry_url=server.url)
    with closing(SchemaRegistry(settings, clock=lambda: now_s[0])) as registry:
        assert "schema 1: the registry does not have it" in unknown(registry, 1)
        server.register(ID)
        assert unknown(registry, 1) and len(server.requests) == 1
        now_s[0] = UNKNOWN_S
        assert registry.reader(1)(b"\x02c") == b'{"id":"c"}'


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_refusal_is_an_outage_and_not_a_verdict_on_the_schema(
    status: int, server: RegistryServer, registry: SchemaRegistry
) -> None:
    number = server.register(ID)
    server.status = status
    with pytest.raises(RegistryError, match=rf"status {status}.*decoder\.registry_url"):
        registry.reader(number)
    server.status = None
    assert registry.reader(number)(b"\x02c") == b'{"id":"c"}'


@pytest.mark.parametrize(
    ("url", "why"), [("{}/proxy", "status 404"), ("http://127.0.0.1:1", "ConnectError")]
)
def test_another_server_or_none_is_an_outage(server: RegistryServer, url: str, why: str) -> None:
    with (
        closing(SchemaRegistry(DecoderSettings(registry_url=url.format(server.url)))) as registry,
        pytest.raises(RegistryError, match=why),
    ):
        registry.reader(1)


def test_credentials_are_sent(server: RegistryServer) -> None:
    number = server.register(ID)
    for password, expected in ((PASSWORD, b'{"id":"c"}'), ("wrong", None)):
        settings = DecoderSettings(registry_url=f"{server.url}/", username=USER, password=password)
        with closing(SchemaRegistry(settings)) as registry:
            if expected is None:
                with pytest.raises(RegistryError, match="status 401"):
                    registry.reader(number)
            else:
                assert registry.reader(number)(b"\x02c") == expected


@pytest.mark.parametrize(
    ("kind", "schema", "detail"),
    [
        ("PROTOBUF", 'syntax = "proto3";', "PROTOBUF is neither AVRO nor JSON"),
        ("AVRO", "{", "no Avro schema"),
        ("AVRO", record_schema("E", x="y"), "no Avro"),
        ("AVRO", {"type": "string"}, "not a record"),
    ],
)
def test_schema_of_no_event_is_unknown(
    kind: str, schema: object, detail: str, server: RegistryServer, registry: SchemaRegistry
) -> None:
    assert detail in unknown(registry, server.register(schema, kind))
