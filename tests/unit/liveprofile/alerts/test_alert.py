"""Parsing and writing of alert payloads."""

from __future__ import annotations

import json

import pytest

from liveprofile.alerts.consumer.alert import InvalidAlert, read_alert
from tests.unit.liveprofile.alerts.fake_kafka import EXAMPLE, an_alert


def test_unknown_fields_of_an_alert_are_kept():
    alert = read_alert(json.dumps(EXAMPLE | {"traceparent": "00-1"}).encode())
    sent = json.loads(alert.to_json())
    assert sent == EXAMPLE | {"traceparent": "00-1"}


def test_alert_of_an_earlier_version_is_parsed():
    newer = ("event_id", "rule_version", "rule_state", "reasons")
    data = {name: value for name, value in EXAMPLE["data"].items() if name not in newer}
    alert = read_alert(json.dumps(EXAMPLE | {"data": data}).encode())
    assert alert.data.event_id is None and alert.data.reasons == ()


def test_error_names_the_invalid_field():
    with pytest.raises(InvalidAlert, match=r"data\.severity: "):
        an_alert(severity="fatal")


def test_type_of_a_deployment_with_a_prefix_is_an_alert():
    prefixed = EXAMPLE | {"type": "com.example.shop.liveprofile.risk.flag"}
    assert read_alert(json.dumps(prefixed).encode()).type == prefixed["type"]
    assert read_alert(json.dumps(EXAMPLE | {"type": "notliveprofile.risk.flag"}).encode()) is None


def test_event_of_another_type_returns_none():
    assert read_alert(json.dumps(EXAMPLE | {"type": "liveprofile.risk.drift"}).encode()) is None
