"""What is erased, of whom, and the records that say so."""

from __future__ import annotations

import json
import random

import jsonschema
import numpy as np
import orjson
import pytest

from liveprofile.privacy.erasure_records import ErasureError, read_record, to_record
from liveprofile.privacy.erasures import (
    ErasureBook,
    HashedErasureBook,
    first_window_ms,
    later_flags,
)
from liveprofile.rules.flags import FlagHistory, RowPosition
from liveprofile.wire.entity_lists import hash_code
from liveprofile.wire.user_records import key_of
from tests.support.paths import ROOT

SCHEMA = json.loads((ROOT / "schemas/user-erasures.schema.json").read_text("utf-8"))
TIME_MS = 1_767_605_700_123


def test_a_record_fits_its_schema_and_reads_back() -> None:
    value = to_record("ü42", TIME_MS)
    jsonschema.Draft202012Validator(SCHEMA).validate(orjson.loads(value))
    assert read_record("ü42".encode(), value) == ("ü42", TIME_MS)
    assert key_of("ü42") == "ü42".encode()
    assert to_record("ü42", TIME_MS) == value
    assert orjson.loads(to_record("ü42", TIME_MS + 1))["id"] != orjson.loads(value)["id"]


def test_examples_of_the_schema_are_read() -> None:
    for example in SCHEMA["examples"]:
        user, before_ms = read_record(example["subject"].encode(), orjson.dumps(example))
        assert (user, before_ms) == (example["subject"], 1_767_605_700_000)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (b"u", b"{", "no CloudEvent"),
        (b"u", b"[]", "no CloudEvent"),
        (b"u", b'{"data": {"user_id": "u"}}', "no CloudEvent"),
        (b"u", b'{"data": {"user_id": "v", "before": "2026-01-05"}}', "not the record's key"),
        (None, b'{"data": {"user_id": "v", "before": "2026-01-05"}}', "not the record's key"),
        (b"", b'{"data": {"user_id": "", "before": "2026-01-05"}}', "not the record's key"),
        (b"u", b'{"data": {"user_id": "u", "before": "now"}}', "no ISO 8601 time"),
        (b"u", b'{"data": {"user_id": "u", "before": 7}}', "no ISO 8601 time"),
        (b"u", b'{"data": {"user_id": "u", "before": "1970-01-01"}}', "between 2000 and 9999"),
    ],
)
def test_an_invalid_record_is_refused(key: bytes | None, value: bytes, message: str) -> None:
    with pytest.raises(ErasureError, match=message):
        read_record(key, value)


def test_the_latest_erasure_of_a_user_counts() -> None:
    book = ErasureBook()
    for before_ms in (5, 9, 7):
        book.put("a", before_ms)
    assert "a" in book and "b" not in book and len(book) == 1
    assert [book.is_erased("a", time_ms) for time_ms in (0, 8, 9)] == [True, True, False]
    assert book.before_ms("a") == 9 and not book.is_erased("b", 0)
    book.put("a", None)
    assert book.before_ms("a") is None and not book.is_erased("a", 0)


@pytest.mark.parametrize("seed", range(5))
def test_events_in_lists_are_erased_by_hash_and_time(seed: int) -> None:
    rng, book = random.Random(seed), HashedErasureBook()
    users = [f"user-{number}" for number in range(400)]
    erased = {user: rng.randrange(100) for user in rng.sample(users, 40)}
    for user, before_ms in erased.items():
        book.put(user, before_ms)
    events = [(rng.choice(users), rng.randrange(100)) for _ in range(2_000)]
    codes = np.array([hash_code(user) for user, _ in events], np.int32)
    found = book.erased(codes, np.array([time_ms for _, time_ms in events], np.int64))
    assert found.tolist() == [time_ms < erased.get(user, 0) for user, time_ms in events]
    assert found.sum() > 20
    assert len(book.erased(np.empty(0, np.int32), np.empty(0, np.int64))) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0), ("a", 97), ("ab", 3_105), ("zzzzzz", 685_785_664), ("polygenelubricants", -(2**31))],
)
def test_hash_is_that_of_java_without_its_sign(text: str, expected: int) -> None:
    assert hash_code(text) == expected


@pytest.mark.parametrize(
    ("start_ms", "before_ms", "expected"),
    [(1_000, 1_000, 1_000), (1_000, 901, 1_000), (1_000, 900, 900), (1_000, 350, 400)],
)
def test_first_window_after_an_erasure_begins_at_or_after_it(
    start_ms: int, before_ms: int, expected: int
) -> None:
    assert first_window_ms(start_ms, before_ms, 100) == expected


def test_flags_of_later_rows_stay() -> None:
    history = FlagHistory(RowPosition(50), True, 40, 90, False)
    assert later_flags(history, 40) == history
    assert later_flags(history, 50) == history._replace(last_raised_ms=None)
    assert later_flags(history, 51) == FlagHistory(None, False, None, 90, False)
