"""Records of the topic: their schema, and which are refused."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import orjson
import pytest

from liveprofile.consent.changes import MAX_CHANGES, ConsentChange
from liveprofile.consent.records import ConsentError, read_change, read_record, to_record
from tests.support.paths import ROOT

SCHEMA = json.loads((ROOT / "schemas/user-consents.schema.json").read_text("utf-8"))
CHANGES = [
    ConsentChange(1_767_605_700_000, "marketing", False, "consent", "2026-01"),
    ConsentChange(1_767_605_700_000, "profiling", True),
    ConsentChange(1_767_605_600_123, "marketing", True, "consent", "2025-03"),
]


def test_a_record_fits_its_schema_and_reads_back() -> None:
    value = to_record("ü42", CHANGES)
    jsonschema.Draft202012Validator(SCHEMA).validate(orjson.loads(value))
    assert read_record("ü42".encode(), value) == ("ü42", CHANGES)
    assert to_record("ü42", list(reversed(CHANGES))) == value


def test_examples_of_the_schema_are_read() -> None:
    for example in SCHEMA["examples"]:
        user, changes = read_record(example["subject"].encode(), orjson.dumps(example))
        assert user == example["subject"] and len(changes) == len(example["data"]["changes"])


def test_a_record_holds_the_newest_changes_only() -> None:
    many = [ConsentChange(1_767_605_700_000 + n, "risk", True) for n in range(MAX_CHANGES + 50)]
    _, kept = read_record(b"u", to_record("u", many))
    assert kept == list(reversed(many))[:MAX_CHANGES]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (b"u", b"{", "no CloudEvent"),
        (b"u", b"[]", "no CloudEvent"),
        (b"u", b'{"data": {"user_id": "u"}}', "no CloudEvent"),
        (b"u", b'{"data": {"user_id": "v", "changes": []}}', "not the record's key"),
        (None, b'{"data": {"user_id": "v", "changes": []}}', "not the record's key"),
        (b"u", b'{"data": {"user_id": "u", "changes": {}}}', "data.changes"),
        (b"u", b'{"data": {"user_id": "u", "changes": [7]}}', "must be an object"),
    ],
)
def test_an_invalid_record_is_refused(key: bytes | None, value: bytes, message: str) -> None:
    with pytest.raises(ConsentError, match=message):
        read_record(key, value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("purpose", "sales", "must be one of profiling"),
        ("purpose", ["risk"], "must be one of profiling"),
        ("granted", "yes", "must be true or false"),
        ("granted", 1, "must be true or false"),
        ("basis", "x" * 257, "at most 256 characters"),
        ("time", "yesterday", "neither epoch milliseconds"),
        ("time", None, "neither epoch milliseconds"),
        ("time", True, "neither epoch milliseconds"),
        ("time", "1999-12-31T23:59:59Z", "neither epoch milliseconds"),
        ("time", 10**18, "neither epoch milliseconds"),
        ("colour", "red", "unknown field 'colour'"),
    ],
)
def test_an_invalid_change_is_refused(field: str, value: Any, message: str) -> None:
    change = {"time": "2026-01-05T09:35:00Z", "purpose": "risk", "granted": True}
    assert read_change(change) == ConsentChange(1_767_605_700_000, "risk", True)
    with pytest.raises(ConsentError, match=message):
        read_change(change | {field: value})
