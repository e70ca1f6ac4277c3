"""Records of the topic user-erasures: CloudEvents 1.0 in JSON, keyed by user_id.

schemas/user-erasures.schema.json is their schema.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import orjson

from liveprofile.alerts.cloud_events import to_rfc3339
from liveprofile.errors import InputError
from liveprofile.events.validation import EARLIEST_MS

CONTENT_TYPE = {"content-type": "application/cloudevents+json"}
TYPE = "liveprofile.user.erased"
SCHEMA = "https://liveprofile.example/schemas/user-erasures.schema.json#/$defs/data"
LATEST_MS = 253_402_300_799_999  # 9999


class ErasureError(InputError):
    """A record of an erasure is invalid."""


def key_of(user_id: str) -> bytes:
    """The key of a user's record."""
    return user_id.encode("utf-8", "surrogatepass")


def to_record(user_id: str, before_ms: int) -> bytes:
    """The value of the record that erases everything of a user before a time."""
    time = to_rfc3339(before_ms)
    event = {
        "specversion": "1.0",
        "id": hashlib.sha256(key_of(f"{user_id}\x1f{before_ms}")).hexdigest()[:32],
        "source": "liveprofile/erase",
        "type": TYPE,
        "subject": user_id,
        "time": time,
        "datacontenttype": "application/json",
        "dataschema": SCHEMA,
        "data": {"user_id": user_id, "before": time},
    }
    return orjson.dumps(event)


def read_record(key: bytes | None, value: bytes) -> tuple[str, int]:
    """The user, and the time in ms before which everything is erased. Raises ErasureError."""
    try:
        data = orjson.loads(value)["data"]
        user_id, text = data["user_id"], data["before"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ErasureError(f"no CloudEvent with data.user_id and data.before: {error}") from None
    if not isinstance(user_id, str) or not user_id or (key or b"") != key_of(user_id):
        raise ErasureError("data.user_id is not the record's key")
    try:
        time = datetime.fromisoformat(text)
        before_ms = round(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1_000)
    except (TypeError, ValueError, OverflowError):
        raise ErasureError(f"data.before {text!r:.40} is no ISO 8601 time") from None
    if not EARLIEST_MS <= before_ms <= LATEST_MS:
        raise ErasureError(f"data.before {text!r:.40} is not between 2000 and 9999")
    return user_id, before_ms
