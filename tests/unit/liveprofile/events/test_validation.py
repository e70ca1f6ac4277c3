"""Validation and window ends in Python agree with the reference, on hostile records too."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from liveprofile.events.validation import (
    TYPES,
    AcceptedEvent,
    EventType,
    Heartbeat,
    RejectedError,
    accept,
    validate,
)
from liveprofile.events.window_times import end_ms, stagger_offset_ms
from liveprofile.settings import LimitSettings, WindowSettings
from tests.reference import validation as reference
from tests.reference.windows import window_end_ms
from tests.support.streams.corruptions import CORRUPTIONS
from tests.support.streams.seeded import poison_messages
from tests.support.streams.strategies import RECORD_MS, START_MS

LIMITS = LimitSettings()
EVENT = {
    "event_id": "e1",
    "user_id": "u1",
    "event_type": "purchase",
    "event_time": START_MS,
    "category_id": "books",
    "price": 3,
}


OWN_TYPES = {"Order Paid": ("purchase", {"tax": (0.0, 100.0), "plan": None})}
ALL_TYPES = TYPES | {name: EventType(*own) for name, own in OWN_TYPES.items()}


def payload(**fields: Any) -> bytes:
    return json.dumps(EVENT | fields).encode()


def assert_same(value: bytes | None, timestamp_ms: int = RECORD_MS) -> None:
    expected = reference.validate(value, timestamp_ms, LIMITS, OWN_TYPES)
    try:
        actual = validate(value, timestamp_ms, LIMITS, ALL_TYPES)
    except RejectedError as error:
        assert isinstance(expected, reference.Rejected), (value, expected)
        reason, detail = error.args
        assert reason == expected.reason, (value, expected)
        assert not expected.detail or detail == expected.detail
        return
    if isinstance(expected, reference.ValidEvent):
        assert isinstance(actual, AcceptedEvent), (value, expected)
        assert actual[:6] == expected[:6]
        assert actual.amount == pytest.approx(expected.amount)
        assert (actual.anonymous_id or "") == expected.anonymous_id
    else:
        assert isinstance(expected, reference.Heartbeat), (value, expected)
        assert actual == Heartbeat(expected.time_ms)


@pytest.mark.parametrize(
    "corrupt",
    [
        pytest.param(corrupt, id=f"{reason}: {name}")
        for reason, corruptions in CORRUPTIONS.items()
        for name, corrupt in corruptions
    ],
)
def test_corrupt_event_is_rejected(corrupt) -> None:
    assert_same(corrupt(EVENT))
    assert accept(corrupt(EVENT), RECORD_MS, LIMITS, ALL_TYPES) is None


def test_poison_messages_are_accepted_as_by_the_reference() -> None:
    for _, value in poison_messages(3_000, seed=5):
        assert_same(value)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(payload(price=10**400), id="price of 400 digits"),
        pytest.param(payload(note=10**400), id="other number of 400 digits"),
        pytest.param(payload()[:-1] + b', "note": 1e400}', id="other number beyond doubles"),
        pytest.param(payload()[:-1] + b', "price": 1e400}', id="price beyond doubles"),
        pytest.param(payload()[:-1] + b', "note": ' + b"1" * 1_000 + b"}", id="1,000 digits"),
        pytest.param(payload()[:-1] + b', "note": ' + b"1" * 1_001 + b"}", id="1,001 digits"),
        pytest.param(payload(text="1" * 2_000), id="2,000 digits as text"),
        pytest.param(payload(event_id=2**70, user_id=2**64), id="ids beyond 64 bits"),
        pytest.param(payload(category_id=2**70), id="category beyond 64 bits"),
        pytest.param(payload(**{"n" * 50_000: 1}), id="name of 50,000 characters"),
        pytest.param(payload(**{"n" * 50_001: 1}), id="name of 50,001 characters"),
        pytest.param(payload()[:-1] + b', "a": ' + b"[" * 998 + b"]" * 998 + b"}", id="999 levels"),
        pytest.param(
            payload()[:-1] + b', "a": ' + b"[" * 999 + b"]" * 999 + b"}", id="1000 levels"
        ),
        pytest.param(payload(text="[" * 5_000), id="brackets in a text"),
        pytest.param(b"x" * 5_000_000, id="5 MB"),
        pytest.param(payload(text="ü" * 60_000), id="60,000 two-byte characters"),
        pytest.param(payload(price=1e5, quantity=1e5), id="product too large"),
        pytest.param(payload(event_time=RECORD_MS + 600_001), id="fast clock"),
        pytest.param(payload(event_time=RECORD_MS + 600_000), id="clock at the limit"),
        pytest.param(payload(event_time="2023-11-14T22:15:00.9999+18:00"), id="largest zone"),
        pytest.param(payload(event_time="2023-11-14T22:15+18:01"), id="zone too large"),
        pytest.param(payload(event_time="0001-01-01T00:00+10:00"), id="before year 1"),
        pytest.param(payload(category_id="a\x1fb" + "c" * 300), id="category with separator"),
        pytest.param(payload()[:-1] + b', "user_id": "u2"}', id="name that occurs twice"),
    ],
)
def test_hostile_event_is_judged_as_by_the_reference(value: bytes) -> None:
    assert_same(value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a1", "a1"), (7, "7"), (2**70, str(2**70)), ("ü" * 256, "ü" * 256), (None, None), ("", ""),
        ("x" * 257, ""), ("a\x9f", ""), ("\u2066", ""), (10**256, ""), (True, ""), (1.5, ""),
        ({}, ""),
    ],
)  # fmt: skip
def test_anonymous_id_that_is_no_id_never_rejects_its_event(given: Any, expected: Any) -> None:
    value = payload(anonymous_id=given)
    assert_same(value)
    event = accept(value, RECORD_MS, LIMITS, ALL_TYPES)
    assert isinstance(event, AcceptedEvent) and event.anonymous_id == expected


@given(
    st.dictionaries(
        st.sampled_from(
            [*EVENT, *("quantity", "amount", "rating", "place", "anonymous_id", "attributes")]
        ),
        st.one_of(
            st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False),
            st.text(max_size=5),
            st.sampled_from(["1e5", "-1", " 1", "1.", "heartbeat", "view", "x" * 256, "x" * 257]),
            st.just("Order Paid"),
            st.builds(dict, tax=st.sampled_from([0, 100, 100.1, "-1", True, None, []])),
            st.sampled_from([0, 1e9, 1.1e9, 1e6, RECORD_MS + 600_000, RECORD_MS + 600_001]),
            st.sampled_from(["2024-02-29 10:00", "2023-02-30T00:00:00Z", "1999-12-31T23:59:59Z"]),
            st.builds(dict, lat=st.sampled_from([90, 91, "91"]), lon=st.sampled_from([180, -181])),
            st.just([]),
        ),
    )
)  # fmt: skip
def test_random_field_values_are_judged_as_by_the_reference(fields: dict[str, Any]) -> None:
    assert_same(json.dumps(EVENT | fields).encode())
    assert_same(json.dumps(EVENT | fields | {"event_type": "Order Paid"}).encode())


STAGGERED = WindowSettings(length_ms=300_000, stagger_ms=10_000)


@given(time_ms=st.integers(946_684_800_000, 4_102_444_800_000), user_id=st.text(min_size=1))
@pytest.mark.parametrize("window", [WindowSettings(), STAGGERED])
def test_window_end_holds_the_event_and_matches_the_reference(
    window: WindowSettings, time_ms: int, user_id: str
) -> None:
    offset_ms = stagger_offset_ms(user_id, window)
    end = end_ms(time_ms, offset_ms, window)
    assert end - window.length_ms <= time_ms < end
    assert (end - offset_ms) % window.length_ms == 0
    assert end == window_end_ms(user_id, time_ms, window)


@pytest.mark.parametrize(
    ("length_ms", "stagger_ms", "reason"),
    [
        (300_000, 1_500, "whole seconds"),
        (300_000, 7_000, "multiple"),
        (3_600_000, 1_000, "at least 12000"),
    ],
)
def test_stagger_that_does_not_divide_the_window_is_rejected(
    length_ms: int, stagger_ms: int, reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        WindowSettings(length_ms=length_ms, stagger_ms=stagger_ms)
