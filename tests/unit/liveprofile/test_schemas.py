"""The shipped schemas agree with the data contract, and their examples are valid."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.alerts.cloud_events import EventOrigin, alert_records, cloud_event
from liveprofile.kafka.topics import topic_configs
from liveprofile.rules.flags import Flag
from liveprofile.rules.rules import Rule, read_rules
from liveprofile.segments.definitions import Segment, read_segments
from liveprofile.settings import TopicSettings
from tests.reference.validation import HEARTBEAT, REASONS, TYPES
from tests.support.paths import ROOT
from tests.support.streams.corruptions import CORRUPTIONS
from tests.support.streams.strategies import RECORD_MS, START_MS, payload, valid_events

EVENT = json.loads((ROOT / "schemas/behavior-event.schema.json").read_text("utf-8"))
ALERT = json.loads((ROOT / "schemas/risk-alert.schema.json").read_text("utf-8"))
RULE = json.loads((ROOT / "schemas/risk-rule.schema.json").read_text("utf-8"))
SEGMENT = json.loads((ROOT / "schemas/segment-definition.schema.json").read_text("utf-8"))
SEGMENT_CHANGE = json.loads((ROOT / "schemas/segment-change.schema.json").read_text("utf-8"))
ATTRIBUTES = json.loads((ROOT / "schemas/user-attributes.schema.json").read_text("utf-8"))
ERASURES = json.loads((ROOT / "schemas/user-erasures.schema.json").read_text("utf-8"))
CONSENTS = json.loads((ROOT / "schemas/user-consents.schema.json").read_text("utf-8"))
MERGES = json.loads((ROOT / "schemas/user-merges.schema.json").read_text("utf-8"))
ASYNCAPI = yaml.safe_load((ROOT / "schemas/asyncapi.yaml").read_text("utf-8"))
EVENTS = jsonschema.Draft202012Validator(EVENT)
ALERTS = jsonschema.Draft202012Validator(ALERT)
PURCHASE = {
    "event_id": "e1",
    "user_id": "u1",
    "event_type": "purchase",
    "event_time": START_MS,
    "price": 3,
    "quantity": 2,
}
# A JSON schema cannot check these: they depend on bytes, the clock or the calendar.
UNCHECKED_REASONS = {"FUTURE_TIME", "TOO_LARGE", "BAD_ENCODING"}
UNCHECKED_NAMES = {"February 30", "an amount outside the range of doubles"}


@pytest.mark.parametrize(
    "schema",
    [EVENT, ALERT, RULE, SEGMENT, SEGMENT_CHANGE, ATTRIBUTES, CONSENTS, ERASURES, MERGES],
    ids=[
        "event",
        "alert",
        "rule",
        "segment",
        "segment change",
        "user attributes",
        "consents",
        "erasures",
        "merges",
    ],
)
def test_schema_is_valid_and_its_examples_satisfy_it(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["examples"]
    for example in schema["examples"]:
        jsonschema.Draft202012Validator(schema).validate(example)


def test_event_schema_lists_the_event_types_of_the_contract() -> None:
    assert EVENT["properties"]["event_type"]["enum"] == [*TYPES, HEARTBEAT]


@given(st.data())
def test_valid_event_satisfies_the_schema(data: st.DataObject) -> None:
    time_ms = data.draw(st.integers(START_MS, RECORD_MS))
    user_id = data.draw(st.sampled_from(["u", 7, "ü", "x" * 256]))
    event = data.draw(valid_events("e1", user_id, time_ms))
    EVENTS.validate(json.loads(payload(event)))


def test_unknown_fields_and_heartbeats_satisfy_the_schema() -> None:
    EVENTS.validate(PURCHASE | {"loyalty": {"level": 3}})
    EVENTS.validate({"event_type": "heartbeat", "event_time": START_MS})


@pytest.mark.parametrize("given", ["", "x" * 257, "a\x1f", True, 1.5, {}])
def test_anonymous_id_that_is_no_id_violates_the_schema(given: Any) -> None:
    assert not EVENTS.is_valid(PURCHASE | {"anonymous_id": given})
    EVENTS.validate(PURCHASE | {"anonymous_id": "5f0c2f3e"})


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        pytest.param(name, broken, id=f"{reason}: {name}")
        for reason in CORRUPTIONS
        if reason not in UNCHECKED_REASONS
        for name, broken in CORRUPTIONS[reason]
        if name not in UNCHECKED_NAMES
    ],
)
def test_broken_event_violates_the_schema(name: str, broken: Any) -> None:
    try:
        event = json.loads(broken(PURCHASE) or b"", parse_constant=_reject_constant)
    except ValueError:
        return  # not JSON, so there is nothing to validate
    assert not EVENTS.is_valid(event)


def _reject_constant(constant: str) -> None:
    raise ValueError(constant)


@pytest.mark.parametrize(
    "change",
    [
        {"specversion": "0.3"},
        {"id": "6F5F"},
        {"type": "other"},
        {"time": "2017-11-26T01:05:00+01:00"},
        {"data": {}},
        {"data": ALERT["examples"][0]["data"] | {"severity": "fatal"}},
        {"data": ALERT["examples"][0]["data"] | {"value": "7.8"}},
        {"data": ALERT["examples"][0]["data"] | {"message": ""}},
    ],
)
def test_invalid_alert_violates_the_schema(change: dict[str, Any]) -> None:
    assert not ALERTS.is_valid(ALERT["examples"][0] | change)


@pytest.mark.parametrize("field", ALERT["required"])
def test_alert_without_a_required_field_violates_the_schema(field: str) -> None:
    alert = {name: value for name, value in ALERT["examples"][0].items() if name != field}
    assert not ALERTS.is_valid(alert)


def test_alert_of_the_job_satisfies_the_schema() -> None:
    flag = Flag(
        "0" * 32,
        "purchase_amount",
        "PURCHASE_AMOUNT_CHANGE",
        "high",
        "limit_trading",
        5.0,
        4.0,
        "40.00 spent",
        {"amount": 40.0, "mean": 10.0, "std": 1.5, "history": 7},
        "1",
        reasons=[{"code": "PURCHASE_AMOUNT_CHANGE", "value": 5.0, "usual": None, "sentence": "x"}],
    )
    row = SimpleNamespace(
        user_id="u1", window_start_ms=0, window_end_ms=300_000, model_version="complete-journey-1"
    )
    alert = json.loads(cloud_event(flag, row))
    assert not list(ALERTS.iter_errors(alert))
    assert alert["time"] == "1970-01-01T00:05:00.000Z"
    assert alert["data"]["event_id"] is None
    assert alert["source"] == "liveprofile/profile-job"
    elsewhere = json.loads(cloud_event(flag, row, EventOrigin("urn:shop:eu", "com.example.shop")))
    assert not list(ALERTS.iter_errors(elsewhere))
    assert elsewhere["source"] == "urn:shop:eu/profile-job"
    assert elsewhere["type"] == "com.example.shop.liveprofile.risk.flag"
    assert not ALERTS.is_valid(elsewhere | {"source": "urn:shop:eu"})
    assert not ALERTS.is_valid(elsewhere | {"type": "com.example.risk.flag"})
    assert not ALERTS.is_valid(alert | {"traceparent": "00-1"})
    at_event = json.loads(cloud_event(flag._replace(event_id="e1", rule_version=3), row))["data"]
    assert (at_event["event_id"], at_event["rule_version"]) == ("e1", 3)


def test_flag_of_a_shadow_rule_sends_no_alert() -> None:
    flag = Flag("0" * 32, "r", "R", "low", "limit_trading", 5.0, 4.0, "why", {}, "1")
    row = SimpleNamespace(
        user_id="u1",
        window_start_ms=0,
        window_end_ms=0,
        model_version="m",
        flags=[flag, flag._replace(rule_state="SHADOW")],
    )
    assert len(alert_records("risk-alerts", row, {})) == 1


def test_asyncapi_document_lists_the_topics_of_the_settings() -> None:
    addresses = {channel["address"] for channel in ASYNCAPI["channels"].values()}
    topics = TopicSettings()
    assert addresses == set(topic_configs(topics))
    headers = ASYNCAPI["components"]["messages"]["rejectedEvent"]["headers"]
    assert headers["properties"]["reason"]["enum"] == [
        *REASONS,
        "UNREADABLE",
        "SCORING_FAILED",
        "NO_CONSENT",
        "ERASED",
        "BAD_FEEDBACK",
        "BAD_MAGIC",
        "BAD_BODY",
        "UNKNOWN_SCHEMA",
        "BAD_CLOUDEVENT",
    ]


def test_references_of_the_asyncapi_document_resolve() -> None:
    references = list(_references(ASYNCAPI))
    assert len(references) > 10
    for reference in references:
        file, _, pointer = reference.partition("#")
        target = json.loads((ROOT / "schemas" / file).read_text("utf-8")) if file else ASYNCAPI
        for step in filter(None, pointer.split("/")):
            target = target[step]


def _references(node: Any) -> Any:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    for child in node if isinstance(node, list) else ():
        yield from _references(child)


def test_shipped_rules_satisfy_the_schemas() -> None:
    data = ALERT["$defs"]["data"]["properties"]
    shipped = read_rules(ROOT / "rules.toml").rules
    assert [rule.id for rule in shipped if rule.scope == "window"] == [
        "purchase_frequency",
        "purchase_amount",
        "behaviour_surprise",
    ]
    for rule in shipped:
        jsonschema.validate(rule.model_dump(mode="json"), RULE)
        for name in ("reason", "severity", "action"):
            jsonschema.validate(getattr(rule, name), data[name])


@pytest.mark.parametrize(("schema", "model"), [(RULE, Rule), (SEGMENT, Segment)])
def test_definition_schema_lists_the_fields_of_the_definition(
    schema: dict[str, Any], model: type[Rule | Segment]
) -> None:
    record_only = {"applied_by", "applied_at"}
    assert schema["properties"].keys() - record_only == model.model_fields.keys()
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    assert set(schema["required"]) == required


def test_shipped_segments_satisfy_the_schema() -> None:
    for segment in read_segments(ROOT / "segments.toml").segments:
        jsonschema.validate(segment.model_dump(mode="json"), SEGMENT)
