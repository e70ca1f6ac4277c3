"""Schemas are fetched once; what the registry lacks is rejected, an outage of it is not."""

from __future__ import annotations

from contextlib import closing

import pytest

from liveprofile.decoding.decode import Undecodable
from liveprofile.decoding.registry import UNKNOWN_S, RegistryUnavailable, SchemaRegistry
from liveprofile.errors import ConfigError
from liveprofile.settings import DecoderSettings
from tests.support.memory.schema_registry import PASSWORD, USER, RegistryServer
from tests.support.streams.encoded import AVRO_EVENT, avro

ID = {"type": "record", "name": "Id", "fields": [{"name": "id", "type": "string"}]}


def unknown(registry: SchemaRegistry, schema_id: int) -> str:
    with pytest.raises(Undecodable) as raised:
        registry.reader(schema_id)
    assert raised.value.reason == "UNKNOWN_SCHEMA"
    return raised.value.detail


def test_schema_is_requested_once(server: RegistryServer, registry: SchemaRegistry) -> None:
    number = server.register("events-value", ID)
    assert registry.reader(number)(b"\x04ab") == b'{"id":"ab"}'
    assert registry.reader(number)(b"\x02c") == b'{"id":"c"}'
    assert server.requests == [f"/schemas/ids/{number}"]


def test_unknown_id_is_requested_again_after_a_while(server: RegistryServer) -> None:
    now_s = [0.0]
    settings = DecoderSettings(registry_url=server.url)
    with closing(SchemaRegistry(settings, clock=lambda: now_s[0])) as registry:
        assert "schema 1: the registry does not have it" in unknown(registry, 1)
        server.register("events-value", ID)
        assert unknown(registry, 1) and len(server.requests) == 1
        now_s[0] = UNKNOWN_S
        assert registry.reader(1)(b"\x02c") == b'{"id":"c"}'


def test_id_out_of_range_and_a_missing_url_ask_nobody(
    server: RegistryServer, registry: SchemaRegistry
) -> None:
    assert "not negative" in unknown(registry, -1)
    with closing(SchemaRegistry(DecoderSettings())) as without:
        assert "decoder.registry_url is not set" in unknown(without, 1)
    assert server.requests == []


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_refusal_is_an_outage_and_not_a_verdict_on_the_schema(
    status: int, server: RegistryServer, registry: SchemaRegistry
) -> None:
    number = server.register("events-value", ID)
    server.status = status
    with pytest.raises(RegistryUnavailable, match=rf"status {status}.*decoder\.registry_url"):
        registry.reader(number)
    server.status = None
    assert registry.reader(number)(b"\x02c") == b'{"id":"c"}'


def test_404_without_a_code_of_the_registry_is_an_outage(server: RegistryServer) -> None:
    with (
        closing(SchemaRegistry(DecoderSettings(registry_url=f"{server.url}/proxy"))) as registry,
        pytest.raises(RegistryUnavailable, match="status 404"),
    ):
        registry.reader(1)


def test_unreachable_registry_is_an_outage() -> None:
    with (
        closing(SchemaRegistry(DecoderSettings(registry_url="http://127.0.0.1:1"))) as registry,
        pytest.raises(RegistryUnavailable, match="ConnectError"),
    ):
        registry.reader(1)


def test_credentials_are_sent(server: RegistryServer) -> None:
    number = server.register("events-value", ID)
    for password, expected in ((PASSWORD, b'{"id":"c"}'), ("wrong", None)):
        settings = DecoderSettings(registry_url=f"{server.url}/", username=USER, password=password)
        with closing(SchemaRegistry(settings)) as registry:
            if expected is None:
                with pytest.raises(RegistryUnavailable, match="status 401"):
                    registry.reader(number)
            else:
                assert registry.reader(number)(b"\x02c") == expected


def test_certificates_that_cannot_be_read_are_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match=r"decoder\.ca_file /no/such: "):
        SchemaRegistry(DecoderSettings(ca_file="/no/such"))


def test_references_are_resolved_in_order(server: RegistryServer, registry: SchemaRegistry) -> None:
    place = {**AVRO_EVENT["fields"][6]["type"][1], "namespace": "com.shop"}
    shop = {
        "type": "record",
        "name": "com.shop.Shop",
        "fields": [{"name": "place", "type": "com.shop.Place"}, {"name": "name", "type": "string"}],
    }
    event = {
        "type": "record",
        "name": "com.shop.Visit",
        "fields": [
            {"name": "shop", "type": "com.shop.Shop"},
            {"name": "at", "type": "com.shop.Place"},
        ],
    }
    server.register("common/place", place)
    to_place = {"name": "com.shop.Place", "subject": "common/place", "version": 1}
    server.register("shop", shop, references=[to_place])
    to_shop = {"name": "com.shop.Shop", "subject": "shop", "version": 1}
    number = server.register("visit", event, references=[to_shop, to_place])
    here = {"lat": 1.5, "lon": 2.0}
    flat = {
        **event,
        "fields": [
            {
                "name": "shop",
                "type": {
                    **shop,
                    "fields": [
                        {"name": "place", "type": place},
                        {"name": "name", "type": "string"},
                    ],
                },
            },
            event["fields"][1],
        ],
    }
    body = avro(flat, {"shop": {"place": here, "name": "x"}, "at": here})
    assert registry.reader(number)(body) == (
        b'{"shop":{"place":{"lat":1.5,"lon":2.0},"name":"x"},"at":{"lat":1.5,"lon":2.0}}'
    )
    lost = server.register("lost", event, references=[{**to_shop, "version": 7}])
    assert "does not have shop version 7" in unknown(registry, lost)


@pytest.mark.parametrize(
    ("kind", "schema", "detail"),
    [
        ("PROTOBUF", 'syntax = "proto3";', "PROTOBUF is neither AVRO nor JSON"),
        ("AVRO", "{", "no Avro schema"),
        (
            "AVRO",
            {"type": "record", "name": "E", "fields": [{"name": "x", "type": "y"}]},
            "no Avro",
        ),
        ("AVRO", {"type": "string"}, "not a record"),
    ],
)
def test_schema_of_no_event_is_unknown(
    kind: str, schema: object, detail: str, server: RegistryServer, registry: SchemaRegistry
) -> None:
    assert detail in unknown(registry, server.register("events-value", schema, kind))
