"""Rejected records as they are read, and what a correction may be."""

from __future__ import annotations

import json

import pytest

from liveprofile.errors import InputError
from liveprofile.ingest.rejected import (
    RejectedRecord,
    correct,
    parse_id,
    parse_record,
    read_corrections,
)
from liveprofile.kafka.records import Record

PAYLOAD = b'{"event_id":"e1","user_id":42,"event_type":"view","price":"x"}'
HEADERS = {
    "reason": b"BAD_NUMBER",
    "detail": b"price",
    "topic": b"behavior-events",
    "partition": b"3",
    "offset": b"99",
}
REJECTED = RejectedRecord(
    "0:17", 1_000, "BAD_NUMBER", "price", "behavior-events", 3, 99, False, PAYLOAD
)


def record(headers: dict[str, bytes], value: bytes | None = PAYLOAD) -> Record:
    return Record("behavior-events-rejected", 0, 17, 1_000, None, value, headers)


def corrected(**changes: object) -> bytes:
    return json.dumps(json.loads(PAYLOAD) | {"price": 9.5} | changes).encode()


def test_record_has_its_reason_and_its_original_position() -> None:
    assert parse_record(record(HEADERS)) == REJECTED
    truncated = parse_record(record(HEADERS | {"truncated": b"true"}, b"\xff"))
    assert truncated.truncated and truncated.as_dict()["payload"] == "\ufffd"
    with pytest.raises(InputError, match="no rejected record: it has the headers reason"):
        parse_record(record({"reason": b"BAD_NUMBER"}))


def test_correction_is_keyed_by_user_and_names_the_original_record() -> None:
    sent = correct(REJECTED, corrected())
    assert (sent.topic, sent.key, sent.value) == ("behavior-events", b"42", corrected())
    assert sent.headers == {
        "resent_topic": "behavior-events",
        "resent_partition": "3",
        "resent_offset": "99",
        "resent_reason": "BAD_NUMBER",
    }


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (PAYLOAD, "unchanged, so it is BAD_NUMBER again"),
        (b"{", "not JSON"),
        (b"[1]", "a JSON object with user_id"),
        (corrected(user_id=""), "a JSON object with user_id"),
        (corrected(user_id=True), "a JSON object with user_id"),
    ],
)
def test_correction_that_would_be_rejected_again_is_refused(payload: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        correct(REJECTED, payload)


def test_event_of_the_future_may_be_sent_unchanged() -> None:
    assert correct(REJECTED._replace(reason="FUTURE_TIME"), PAYLOAD).value == PAYLOAD


@pytest.mark.parametrize(
    ("reason", "detail"),
    [("TOO_MANY", "events"), ("SCORING_FAILED", ""), ("UNREADABLE", ""), ("NOT_JSON", "parser")],
)
def test_event_id_that_the_job_has_taken_is_refused(reason: str, detail: str) -> None:
    claimed = REJECTED._replace(reason=reason, detail=detail)
    with pytest.raises(InputError, match="has taken its event_id"):
        correct(claimed, corrected())
    assert correct(claimed, corrected(event_id="e2")).key == b"42"


def test_corrections_are_lines_or_an_array_with_objects_or_texts() -> None:
    rows = [{"id": "0:1", "payload": {"a": 1}, "reason": "x"}, {"id": "2:3", "payload": '{"a":2}'}]
    expected = {"0:1": b'{"a":1}', "2:3": b'{"a":2}'}
    assert read_corrections("\n".join(map(json.dumps, rows)) + "\n", "f") == expected
    assert read_corrections(json.dumps(rows), "f") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "f: not JSON"),
        ('{"payload": {}}', "f row 1: must be an object with id and payload"),
        ('{"id": "0:1"}', "f row 1: must be an object with id and payload"),
        ('{"id": "x", "payload": {}}', "'x' is no id of a rejected record"),
        ('{"id": "0:1", "payload": {}}\n{"id": "0:1", "payload": {}}', "row 2: 0:1 occurs twice"),
    ],
)
def test_wrong_file_of_corrections_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_corrections(text, "f")


def test_id_is_partition_and_offset() -> None:
    assert parse_id("3:99") == (3, 99)
    for wrong in ("", "3", "3:", "a:1", "-1:2", "1:2:3"):
        with pytest.raises(InputError, match="is no id of a rejected record"):
            parse_id(wrong)
