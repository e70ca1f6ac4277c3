"""Records about a user in a topic that is keyed by user ids: CloudEvents 1.0 in JSON."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from liveprofile.errors import InputError
from liveprofile.units import SECOND_MS

DEFAULT_SOURCE = "liveprofile"  # of JobSettings.event_source
CONTENT_TYPE = {"content-type": "application/cloudevents+json"}
# The key of the record that says that a topic holds all that its table in Cassandra holds. A topic
# that was deleted and created again lacks it.
WHOLE_KEY = b"\x00"
# Times that records may have: from 2000 (events, too) to the end of 9999.
EARLIEST_MS, LATEST_MS = 946_684_800_000, 253_402_300_799_999


def key_of(user_id: str) -> bytes:
    """The key of a user's record."""
    return user_id.encode("utf-8", "surrogatepass")


def user_of(key: bytes | None) -> str:
    """The user of a record's key; "" without a key. Raises InputError if it is no text."""
    try:
        return (key or b"").decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise InputError(f"the key is no text: {error.reason}") from None


def job_source(event_source: str) -> str:
    """The `source` of the events that the job sends. event_source: tells deployments apart."""
    return f"{event_source}/profile-job"


def to_rfc3339(time_ms: int) -> str:
    """Returns the time as RFC 3339 in UTC, with milliseconds."""
    moment = datetime.fromtimestamp(time_ms / SECOND_MS, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class RecordKind(NamedTuple):
    """What all records of a kind have in common: attributes of their CloudEvents."""

    source: str
    event_type: str
    schema: str = ""

    def value(
        self, subject: str, time: str, data: dict[str, Any], event_id: str | None = None
    ) -> bytes:
        """CloudEvents 1.0 structured JSON.

        subject: mostly the user's id. time: RFC 3339. event_id: by default a hash of the data.
        """
        event = {
            "specversion": "1.0",
            "id": event_id or hashlib.sha256(orjson.dumps(data)).hexdigest()[:32],
            "source": self.source,
            "type": self.event_type,
            "subject": subject,
            "time": time,
            "datacontenttype": "application/json",
            **({"dataschema": self.schema} if self.schema else {}),
            "data": data,
        }
        return orjson.dumps(event)


def read_fields(
    key: bytes | None, value: bytes, user_field: str, field: str, error: type[InputError]
) -> tuple[str, Any]:
    """The user and a field of a record's data. Raises `error` if the key is not the user's."""
    try:
        data = orjson.loads(value)["data"]
        user_id, found = data[user_field], data[field]
    except (orjson.JSONDecodeError, KeyError, TypeError) as cause:
        raise error(f"no CloudEvent with data.{user_field} and data.{field}: {cause}") from None
    if not isinstance(user_id, str) or (key or b"") != key_of(user_id):
        raise error(f"data.{user_field} is not the record's key")
    return user_id, found


def read_time_ms(name: str, value: Any, error: type[InputError]) -> int:
    """Epoch milliseconds, or ISO 8601 with an offset, as epoch milliseconds. Raises `error`."""
    time_ms = value if type(value) is int else None
    if isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
            time_ms = round(time.timestamp() * 1_000) if time.tzinfo else None
        except (ValueError, OverflowError):
            pass
    if time_ms is None or not EARLIEST_MS <= time_ms <= LATEST_MS:
        expected = "neither epoch milliseconds nor ISO 8601 with an offset, from 2000 to 9999"
        raise error(f"{name} {value!r:.40}: {expected}")
    return time_ms
