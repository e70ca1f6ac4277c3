"""Records of the topic user-erasures: CloudEvents 1.0 in JSON, keyed by user_id.

schemas/user-erasures.schema.json is their schema.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from liveprofile.alerts.cloud_events import to_rfc3339
from liveprofile.errors import InputError
from liveprofile.events.validation import EARLIEST_MS
from liveprofile.wire.user_records import LATEST_MS, RecordKind, key_of, read_fields

KIND = RecordKind(
    "liveprofile/erase",
    "liveprofile.user.erased",
    "https://liveprofile.example/schemas/user-erasures.schema.json#/$defs/data",
)


class ErasureError(InputError):
    """A record of an erasure is invalid."""


def to_record(user_id: str, before_ms: int) -> bytes:
    """The value of the record that erases everything of a user before a time."""
    time = to_rfc3339(before_ms)
    event_id = hashlib.sha256(key_of(f"{user_id}\x1f{before_ms}")).hexdigest()[:32]
    return KIND.value(user_id, time, {"user_id": user_id, "before": time}, event_id)


def read_record(key: bytes | None, value: bytes) -> tuple[str, int]:
    """The user, and the time in ms before which everything is erased. Raises ErasureError."""
    user_id, text = read_fields(key, value, "user_id", "before", ErasureError)
    if not user_id:
        raise ErasureError("data.user_id is not the record's key")
    try:
        time = datetime.fromisoformat(text)
        before_ms = round(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1_000)
    except (TypeError, ValueError, OverflowError):
        raise ErasureError(f"data.before {text!r:.40} is no ISO 8601 time") from None
    if not EARLIEST_MS <= before_ms <= LATEST_MS:
        raise ErasureError(f"data.before {text!r:.40} is not between 2000 and 9999")
    return user_id, before_ms
