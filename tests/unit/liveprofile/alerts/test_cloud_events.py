"""What the CloudEvents of the product share: origin, type, trace."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from liveprofile.alerts.cloud_events import (
    ALERT_TYPE,
    EventOrigin,
    is_type,
    origin_of,
    traceparent,
    window_cause,
)
from liveprofile.settings import JobSettings


def test_default_origin_sends_what_earlier_versions_sent() -> None:
    origin = origin_of(JobSettings())
    assert (origin.job, origin.type_of(ALERT_TYPE)) == ("liveprofile/profile-job", ALERT_TYPE)


def test_prefix_is_a_reversed_dns_name() -> None:
    origin = origin_of(JobSettings(event_type_prefix="com.example.shop-1"))
    assert origin == EventOrigin("liveprofile", "com.example.shop-1")
    assert origin.type_of(ALERT_TYPE) == "com.example.shop-1.liveprofile.risk.flag"
    for bad in ("com.", ".com", "com example", "Com", "a..b"):
        with pytest.raises(ValidationError, match="event_type_prefix"):
            JobSettings(event_type_prefix=bad)


def test_type_is_recognised_with_any_prefix() -> None:
    assert is_type(ALERT_TYPE, ALERT_TYPE)
    assert is_type("com.example.liveprofile.risk.flag", ALERT_TYPE)
    assert not is_type("com.exampleliveprofile.risk.flag", ALERT_TYPE)
    assert not is_type("liveprofile.risk.flags", ALERT_TYPE)


def test_trace_is_that_of_the_cause_and_the_same_in_every_copy() -> None:
    cause = window_cause("user \ud800", 1_764_000_000_000)
    first, copy = traceparent("flag", *cause), traceparent("flag", *cause)
    assert first == copy
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", first)
    other_event = traceparent("other", *cause)
    assert other_event[:35] == first[:35] and other_event != first
    assert traceparent("flag", *window_cause("user", 1))[:35] != first[:35]
