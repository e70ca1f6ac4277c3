"""Records of the topic user-merges: CloudEvents 1.0 in JSON, keyed by the alias.

A record holds all merges of an alias, because compaction keeps one record of a key.
schemas/user-merges.schema.json is their schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from liveprofile.alerts.cloud_events import to_rfc3339
from liveprofile.events.validation import EARLIEST_MS
from liveprofile.identity.merges import Merge, MergeError, check_merges
from liveprofile.ingest.translation import parse_time_ms
from liveprofile.wire.tokens import ID_CHARS
from liveprofile.wire.user_records import LATEST_MS, RecordKind, read_fields

KIND = RecordKind(
    "liveprofile/merge",
    "liveprofile.user.merged",
    "https://liveprofile.example/schemas/user-merges.schema.json#/$defs/data",
)


def to_record(alias_id: str, merges: Sequence[Merge]) -> bytes:
    """The value of an alias's record; `merges` has one at least."""
    data = {"alias_id": alias_id, "merges": [merge_json(each) for each in merges]}
    last = merges[-1]
    time = to_rfc3339(last.since_ms if last.until_ms is None else last.until_ms)
    return KIND.value(alias_id, time, data)


def merge_json(merge: Merge) -> dict[str, str]:
    fields = {"user_id": merge.user_id, "since": to_rfc3339(merge.since_ms)}
    return fields if merge.until_ms is None else fields | {"until": to_rfc3339(merge.until_ms)}


def read_record(key: bytes | None, value: bytes) -> tuple[str, list[Merge]]:
    """The alias and its merges in the order of time. Raises MergeError."""
    alias_id, merges = read_fields(key, value, "alias_id", "merges", MergeError)
    if not alias_id:
        raise MergeError("data.alias_id is not the record's key")
    if not isinstance(merges, list):
        raise MergeError("data.merges is no list")
    found = [_read_merge(each) for each in merges]
    check_merges(alias_id, found)
    return alias_id, found


def _read_merge(value: Any) -> Merge:
    if not isinstance(value, dict):
        raise MergeError("a merge must be an object")
    user_id = value.get("user_id")
    if not isinstance(user_id, str) or not 0 < len(user_id) <= ID_CHARS:
        raise MergeError(f"user_id must be a text of 1 to {ID_CHARS} characters")
    until = value.get("until")
    return Merge(
        user_id,
        _time_ms("since", value.get("since")),
        None if until is None else _time_ms("until", until),
    )


def _time_ms(name: str, text: Any) -> int:
    time_ms = parse_time_ms(text) if isinstance(text, str) else None
    if time_ms is None or not EARLIEST_MS <= time_ms <= LATEST_MS:
        raise MergeError(f"{name} {text!r:.40} is no ISO 8601 time from 2000 on")
    return time_ms
