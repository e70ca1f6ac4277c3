"""Schemas are fetched once; what the registry lacks is rejected, an outage of it is not."""

from __future__ import annotations

from contextlib import closing

import pytest

from liveprofile.decoding.decode import Undecodable
from liveprofile.decoding.registry import UNKNOWN_S, RegistryUnavailable, SchemaRegistry
from liveprofile.settings import DecoderSettings
from tests.support.memory.schema_registry import PASSWORD, USER, RegistryServer

ID = {"type": "record", "name": "Id", "fields": [{"name": "id", "type": "string"}]}


def unknown(registry: SchemaRegistry, schema_id: int) -> str:
    with pytest.raises(Undecodable) as raised:
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
    with pytest.raises(RegistryUnavailable, match=rf"status {status}.*decoder\.registry_url"):
        registry.reader(number)
    server.status = None
    assert registry.reader(number)(b"\x02c") == b'{"id":"c"}'


@pytest.mark.parametrize(
    ("url", "why"), [("{}/proxy", "status 404"), ("http://127.0.0.1:1", "ConnectError")]
)
def test_another_server_or_none_is_an_outage(server: RegistryServer, url: str, why: str) -> None:
    with (
        closing(SchemaRegistry(DecoderSettings(registry_url=url.format(server.url)))) as registry,
        pytest.raises(RegistryUnavailable, match=why),
    ):
        registry.reader(1)


def test_credentials_are_sent(server: RegistryServer) -> None:
    number = server.register(ID)
    for password, expected in ((PASSWORD, b'{"id":"c"}'), ("wrong", None)):
        settings = DecoderSettings(registry_url=f"{server.url}/", username=USER, password=password)
        with closing(SchemaRegistry(settings)) as registry:
            if expected is None:
                with pytest.raises(RegistryUnavailable, match="status 401"):
                    registry.reader(number)
            else:
                assert registry.reader(number)(b"\x02c") == expected


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
    assert detail in unknown(registry, server.register(schema, kind))
