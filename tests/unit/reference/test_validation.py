"""The reference's validation of one record, against the checks in docs/data-contract.md."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.reference.validation import (
    REASONS,
    REASONS_WITH_DETAIL,
    Heartbeat,
    Rejected,
    ValidEvent,
    event_clock_ms,
    validate,
)
from tests.support.streams.corruptions import CORRUPTIONS
from tests.support.streams.seeded import poison_messages
from tests.support.streams.strategies import RECORD_MS, START_MS
from tests.unit.reference.examples import LIMITS, event, validated


@pytest.mark.parametrize(
    ("reason", "name", "corrupt"),
    [
        pytest.param(reason, name, corrupt, id=f"{reason}: {name}")
        for reason in REASONS
        for name, corrupt in CORRUPTIONS[reason]
    ],
)
def test_corrupt_event_is_rejected_for_its_reason(reason: str, name: str, corrupt: Any) -> None:
    result = validate(corrupt(event(price=1)), RECORD_MS, LIMITS)
    assert isinstance(result, Rejected) and result.reason == reason
    assert bool(result.detail) == (reason in REASONS_WITH_DETAIL)


@pytest.mark.parametrize(
    ("fields", "rejection"),
    [
        ({"event_id": None, "user_id": None}, ("MISSING_FIELD", "event_id")),
        ({"event_type": "", "event_time": []}, ("MISSING_FIELD", "event_type")),
        ({"user_id": "u\n", "event_type": "buy"}, ("BAD_ID", "")),
        ({"event_type": "buy", "event_time": "x"}, ("UNKNOWN_TYPE", "")),
        ({"event_time": 4_070_908_800_000, "price": -1}, ("FUTURE_TIME", "")),
        ({"quantity": -1, "price": "x"}, ("BAD_NUMBER", "price")),
        ({"place": {"lon": 200, "lat": -91}}, ("BAD_NUMBER", "place.lat")),
        ({"event_type": "heartbeat", "event_time": "x", "price": -1}, ("BAD_TIME", "")),
    ],
)
def test_first_failed_check_is_the_reason(
    fields: dict[str, Any], rejection: tuple[str, str]
) -> None:
    assert validated(**fields) == rejection


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        (1_700_000_100_000, 1_700_000_100_000),
        ("1700000100000", 1_700_000_100_000),
        ("2023-11-14T22:15Z", 1_700_000_100_000),
        ("2023-11-14 22:15:00", 1_700_000_100_000),
        ("2023-11-14T23:15:00.1+01:00", 1_700_000_100_100),
        ("2023-11-14T16:45:00.00999-0530", 1_700_000_100_009),
        ("2000-01-01T00:00:00", 946_684_800_000),
        ("2024-02-29T12:00:00Z", 1_709_208_000_000),
    ],
)
def test_event_time_is_parsed(text: Any, time_ms: int) -> None:
    assert validated(event_time=text).time_ms == time_ms


def test_event_time_over_ten_minutes_after_record_is_rejected() -> None:
    assert validated(event_time=RECORD_MS + 600_000).time_ms == RECORD_MS + 600_000
    assert validated(event_time=RECORD_MS + 600_001) == ("FUTURE_TIME", "")


@pytest.mark.parametrize(
    ("fields", "amount"),
    [
        ({}, 0.0),
        ({"quantity": 3}, 0.0),
        ({"price": 2.5}, 2.5),
        ({"price": "2.5", "quantity": "4"}, 10.0),
        ({"price": 2.5, "quantity": 0}, 0.0),
        ({"price": 2.5, "quantity": 4, "amount": -1}, -1.0),
        ({"price": None, "amount": "1e2"}, 100.0),
    ],
)
def test_amount_is_computed(fields: dict[str, Any], amount: float) -> None:
    assert validated(**fields).amount == amount


def test_optional_field_of_wrong_type_is_treated_as_missing() -> None:
    found = validated(
        item_id=[1], category_id={}, session_id=True, device_id=1.5, place="x", tags=1
    )
    assert (found.item, found.category, found.session, found.device) == ("", "", "", "")
    assert validated(item_id=7, category_id="a\x1fb").item == "7"
    assert validated(item_id=7, category_id="a\x1fb").category == "a_b"


@pytest.mark.parametrize("value", [True, False, 1.5, 1e3, None, [], {}])
def test_item_that_is_neither_string_nor_integer_is_unknown(value: Any) -> None:
    found = validated(item_id=value, category_id=value)
    assert (found.item, found.category) == ("", "")


def test_long_item_and_category_are_truncated() -> None:
    found = validated(item_id="\x1f" + "ü" * 299, category_id=10**299)
    assert found.item == "_" + "ü" * 255
    assert found.category == "1" + "0" * 255


@pytest.mark.parametrize("value", [True, 1.5, 1e3])
def test_id_that_is_neither_string_nor_integer_is_missing(value: Any) -> None:
    assert validated(event_id=value) == ("MISSING_FIELD", "event_id")
    assert validated(user_id=value) == ("MISSING_FIELD", "user_id")


@pytest.mark.parametrize("separator", ["\x1d", "\x1e", "\x1f"])
def test_raw_separator_in_payload_is_rejected(separator: str) -> None:
    plain = json.dumps(event())
    for payload in (plain + separator, separator + plain, plain.replace('"u"', f'"u{separator}"')):
        assert validate(payload.encode(), RECORD_MS, LIMITS) == ("NOT_JSON", "")
    # Escaped, the payload is valid JSON, but the id is invalid.
    assert validated(user_id=separator) == ("BAD_ID", "")


def test_payload_and_nesting_up_to_the_limits_are_valid() -> None:
    plain = json.dumps(event())
    assert isinstance(validate(plain.ljust(65_536).encode(), RECORD_MS, LIMITS), ValidEvent)
    deep = {levels: f'{plain[:-1]}, "x": {"[" * levels}{"]" * levels}}}' for levels in (998, 999)}
    assert isinstance(validate(deep[998].encode(), RECORD_MS, LIMITS), ValidEvent)
    assert validate(deep[999].encode(), RECORD_MS, LIMITS) == ("NOT_JSON", "")


def test_surrogate_pairs_are_valid() -> None:
    for text in (r'"\ud83d\ude00"', r'"\\ud800"', '"😀"'):
        payload = f'{json.dumps(event())[:-1]}, "text": {text}}}'
        assert isinstance(validate(payload.encode(), RECORD_MS, LIMITS), ValidEvent)


def test_poison_messages_are_valid_or_rejected() -> None:
    results = [validate(value, RECORD_MS, LIMITS) for _key, value in poison_messages(600, seed=5)]
    assert set(map(type, results)) == {ValidEvent, Heartbeat, Rejected}


def test_only_the_time_of_a_heartbeat_is_validated() -> None:
    fields = {"event_type": "heartbeat", "event_id": "\n", "user_id": [], "price": "free"}
    assert validated(**fields) == Heartbeat(START_MS)


@pytest.mark.parametrize(
    ("payload", "time_ms"),
    [
        (None, None),
        (b'{"event_time": 1700000000000', None),
        (b'[{"event_time": 1700000000000}]', None),
        (b'{"event_time": 1700000000000}', 1_700_000_000_000),
        (b'{"event_time": "2023-11-14T22:13:20Z", "x": "\xff"}', 1_700_000_000_000),
        (b'{"event_time": 4070908800000}', None),
        (b'{"event_time": "soon"}', None),
    ],
)
def test_event_clock_of_rejected_record(payload: bytes | None, time_ms: int | None) -> None:
    assert event_clock_ms(payload, RECORD_MS, LIMITS) == time_ms
