"""Records of the topic user-consents: CloudEvents 1.0 in JSON, keyed by user_id.

A record holds the user's newest MAX_CHANGES changes, because compaction keeps one record of a key.
schemas/user-consents.schema.json is their schema.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from liveprofile.alerts.cloud_events import to_rfc3339
from liveprofile.consent.changes import MAX_CHANGES, PURPOSES, ConsentChange, in_order
from liveprofile.errors import InputError
from liveprofile.events.validation import EARLIEST_MS
from liveprofile.wire.user_records import LATEST_MS, RecordKind, read_fields

KIND = RecordKind(
    "liveprofile/consent",
    "liveprofile.user.consents",
    "https://liveprofile.example/schemas/user-consents.schema.json#/$defs/data",
)
MAX_TEXT = 256


class ConsentError(InputError):
    """A record or a row with a consent is invalid."""


def to_record(user_id: str, changes: Iterable[ConsentChange]) -> bytes:
    """The value of a user's record."""
    kept = in_order(changes)[:MAX_CHANGES]
    data = {"user_id": user_id, "changes": [change_json(each) for each in kept]}
    newest_ms = max((each.time_ms for each in kept), default=EARLIEST_MS)
    return KIND.value(user_id, to_rfc3339(newest_ms), data)


def read_record(key: bytes | None, value: bytes) -> tuple[str, list[ConsentChange]]:
    """The user and the changes of a record with a value. Raises ConsentError."""
    user_id, changes = read_fields(key, value, "user_id", "changes", ConsentError)
    if not isinstance(changes, list) or len(changes) > MAX_CHANGES:
        raise ConsentError(f"data.changes is no list of at most {MAX_CHANGES} changes")
    return user_id, [read_change(change) for change in changes]


def read_change(change: Any) -> ConsentChange:
    """A change from its JSON object. Raises ConsentError."""
    if not isinstance(change, dict):
        raise ConsentError("a change must be an object")
    if unknown := change.keys() - {"time", "purpose", "granted", "basis", "text_version"}:
        raise ConsentError(f"unknown field {sorted(unknown)[0]!r}")
    purpose, granted = change.get("purpose"), change.get("granted")
    if purpose not in PURPOSES:
        raise ConsentError(f"purpose {purpose!r}: must be one of {', '.join(PURPOSES)}")
    if not isinstance(granted, bool):
        raise ConsentError(f"granted {granted!r}: must be true or false")
    texts = [change.get(name, "") for name in ("basis", "text_version")]
    for name, text in zip(("basis", "text_version"), texts, strict=True):
        if not isinstance(text, str) or len(text) > MAX_TEXT:
            raise ConsentError(
                f"{name} {text!r:.40}: must be a text of at most {MAX_TEXT} characters"
            )
    return ConsentChange(parse_time_ms(change.get("time")), purpose, granted, *texts)


def change_json(change: ConsentChange) -> dict[str, Any]:
    fields = change._asdict()
    return {"time": to_rfc3339(fields.pop("time_ms")), **fields}


def parse_time_ms(value: Any) -> int:
    """Epoch milliseconds, or ISO 8601 with a date and a time; no zone: UTC. Raises ConsentError."""
    time_ms: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        time_ms = value
    elif isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
            time_ms = round(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1_000)
        except (ValueError, OverflowError):
            time_ms = None
    if time_ms is None or not EARLIEST_MS <= time_ms <= LATEST_MS:
        raise ConsentError(
            f"time {value!r:.40}: neither epoch milliseconds nor ISO 8601 from 2000 on"
        )
    return time_ms
