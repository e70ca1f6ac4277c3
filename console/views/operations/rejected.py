"""Rejected records, and the payload that is sent instead of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from console.formats import words
from liveprofile.ingest.rejected import RejectedRecord

PAYLOAD_CHARS = 100


class RejectedRow(NamedTuple):
    id: str
    time_ms: int
    reason: str
    detail: str
    original: str
    payload: str  # its start


class RejectedDetail(NamedTuple):
    row: RejectedRow
    payload: str
    notes: list[str]


def rejected_row(record: RejectedRecord) -> RejectedRow:
    text = text_of(record)
    return RejectedRow(
        record.id,
        record.rejected_at_ms,
        words(record.reason),
        record.detail,
        f"{record.topic}/{record.partition} offset {record.offset}",
        text if len(text) <= PAYLOAD_CHARS else f"{text[:PAYLOAD_CHARS]}…",
    )


def rejected_detail(record: RejectedRecord) -> RejectedDetail:
    notes = []
    if record.claimed:
        notes.append("Its event_id is taken: a corrected event needs another.")
    if record.truncated:
        notes.append("The payload is truncated: the original record has all of it.")
    if record.payload is None:
        notes.append("The record has no payload.")
    return RejectedDetail(rejected_row(record), text_of(record), notes)


def reasons(records: Sequence[RejectedRecord]) -> list[tuple[str, int]]:
    """How many records have each reason, most frequent first."""
    return Counter(record.reason for record in records).most_common()


def text_of(record: RejectedRecord) -> str:
    return record.as_dict()["payload"] or ""


def sent_payload(record: RejectedRecord, text: str) -> bytes:
    """What a form has sent. Browsers send a line break as CR LF; an unedited text is the record."""
    lines = text.replace("\r\n", "\n")
    is_same = record.payload is not None and lines == text_of(record).replace("\r\n", "\n")
    return record.payload if is_same else lines.encode()
