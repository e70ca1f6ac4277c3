"""The shipped schemas agree with the data contract, and their examples are valid."""

import json
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.alerts import cloud_event
from liveprofile.kafka.topics import topic_configs
from liveprofile.rules.flags import Flag
from liveprofile.rules.rules import Rule, read_rules
from liveprofile.segments.segments import Segment, read_segments
from liveprofile.settings import TopicSettings
from tests.reference.validation import REASONS
from tests.support.paths import ROOT
from tests.support.streams.corruptions import CORRUPTIONS
from tests.support.streams.strategies import RECORD_MS, START_MS, payload, valid_events

SCHEMAS = {
    file.name.removesuffix(".schema.json"): json.loads(file.read_text("utf-8"))
    for file in (ROOT / "schemas").glob("*.schema.json")
}
EVENT, ALERT = SCHEMAS["behavior-event"], SCHEMAS["risk-alert"]
RULE, SEGMENT = SCHEMAS["risk-rule"], SCHEMAS["segment-definition"]
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


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_schema_is_valid_and_its_examples_satisfy_it(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    for example in schema.get("examples", ()):
        jsonschema.Draft202012Validator(schema).validate(example)


@given(st.data())
def test_valid_event_satisfies_the_schema(data: st.DataObject) -> None:
    time_ms = data.draw(st.integers(START_MS, RECORD_MS))
    user_id = data.draw(st.sampled_from(["u", 7, "ü", "x" * 256]))
    event = data.draw(valid_events("e1", user_id, time_ms))
    EVENTS.validate(json.loads(payload(event)) | {"loyalty": {"level": 3}})
    EVENTS.validate({"event_type": "heartbeat", "event_time": time_ms})


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
    elsewhere = json.loads(cloud_event(flag, row, "urn:shop:eu"))
    assert not list(ALERTS.iter_errors(elsewhere))
    assert elsewhere["source"] == "urn:shop:eu/profile-job"
    assert not ALERTS.is_valid(elsewhere | {"source": "urn:shop:eu"})
    assert not ALERTS.is_valid(elsewhere | {"type": "com.example.risk.flag"})
    for name in ALERT["required"]:
        assert not ALERTS.is_valid({key: alert[key] for key in alert if key != name}), name
    for change in ({"severity": "fatal"}, {"value": "7.8"}, {"message": ""}):
        assert not ALERTS.is_valid(alert | {"data": alert["data"] | change}), change
    at_event = json.loads(cloud_event(flag._replace(event_id="e1", rule_version=3), row))["data"]
    assert (at_event["event_id"], at_event["rule_version"]) == ("e1", 3)


def test_asyncapi_document_lists_the_topics_of_the_settings() -> None:
    addresses = {channel["address"] for channel in ASYNCAPI["channels"].values()}
    topics = TopicSettings()
    assert addresses == set(topic_configs(topics))
    headers = ASYNCAPI["components"]["messages"]["rejectedEvent"]["headers"]
    others = (
        "UNREADABLE SCORING_FAILED NO_CONSENT ERASED BAD_FEEDBACK BAD_MAGIC BAD_BODY"
        " UNKNOWN_SCHEMA BAD_CLOUDEVENT"
    )
    assert headers["properties"]["reason"]["enum"] == [*REASONS, *others.split()]


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


def test_shipped_rules_and_segments_satisfy_the_schemas() -> None:
    data = ALERT["$defs"]["data"]["properties"]
    shipped = read_rules(ROOT / "rules.toml").rules
    assert shipped
    for rule in shipped:
        jsonschema.validate(rule.model_dump(mode="json"), RULE)
        for name in ("reason", "severity", "action"):
            jsonschema.validate(getattr(rule, name), data[name])
    for segment in read_segments(ROOT / "segments.toml").segments:
        jsonschema.validate(segment.model_dump(mode="json"), SEGMENT)


@pytest.mark.parametrize(("schema", "model"), [(RULE, Rule), (SEGMENT, Segment)])
def test_definition_schema_lists_the_fields_of_the_definition(
    schema: dict[str, Any], model: type[Rule | Segment]
) -> None:
    record_only = {"applied_by", "applied_at"}
    assert schema["properties"].keys() - record_only == model.model_fields.keys()
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    assert set(schema["required"]) == required
