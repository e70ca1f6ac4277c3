"""The preview of a mapping gives the reasons of the data contract's reference."""

from __future__ import annotations

import json
from typing import Any

import pytest

from liveprofile.ingest.preview import rejection
from liveprofile.settings import load
from tests.reference.validation import Rejected, validate

NOW_MS = 1_700_000_000_000
LIMITS = load(limits={"payload_chars": 2_000}).limits
EVENT = {
    "event_id": "1",
    "user_id": "42",
    "event_type": "purchase",
    "event_time": NOW_MS,
    "price": 2.5,
    "quantity": 2,
}
CHANGES: list[dict[str, Any]] = [
    {},
    *({"event_id": value} for value in (None, "", {}, [], 7, "x" * 256, "x" * 257, "a\tb")),
    *({"user_id": value} for value in (None, "", ["42"], 7, "x" * 257, "\x01")),
    *({"event_type": value} for value in (None, "", "odd", "View", "login")),
    *(
        {"event_time": value}
        for value in (
            None, "", str(NOW_MS), "2023-11-14T22:20:00Z", "2023-11-14 22:13", "yesterday", -5, 5,
            "1999-12-31T23:59:59Z", "2023-02-30T00:00:00Z", NOW_MS + 600_000, NOW_MS + 600_001,
        )
    ),
    *(
        {name: value}
        for name in ("price", "quantity", "amount", "rating")
        for value in (None, 0, -1, 1e9, 1.1e9, "5", "5.", "-0.5", "1e3", "x", True, {}, "")
    ),
    *({"place": {"lat": lat, "lon": 0}} for lat in (90, 91, -91, "x")),
    *({"place": {"lat": 0, "lon": lon}} for lon in (180, -181)),
    {"price": 1e6, "quantity": 1e6},
    {"price": 1e6, "quantity": 1e6, "amount": 3},
    {"text": "x" * 2_000},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: json.dumps(change)[:60])
def test_preview_agrees_with_the_reference(change: dict[str, Any]) -> None:
    payload = json.dumps(EVENT | change).encode()
    expected = validate(payload, NOW_MS, LIMITS)
    found = rejection(payload, NOW_MS, LIMITS)
    assert (found and found[0]) == (expected.reason if isinstance(expected, Rejected) else None)
    if isinstance(expected, Rejected) and expected.detail:
        assert found[1] == expected.detail
