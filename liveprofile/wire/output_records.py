"""What the operator has to tell other systems: alerts, and events it could not use.

A message is one string that `jobs.profile_job.messages` splits again: topic, key, reason, detail,
record topic, partition, offset (separated by FIELD; an alert leaves the last five empty), then
WINDOW, then the value.
"""

from __future__ import annotations

from typing import NamedTuple

from liveprofile.wire.tokens import EVENT, FIELD, WINDOW

_CONTROL = str.maketrans(dict.fromkeys((FIELD, EVENT, WINDOW), "_"))


def _message(head: tuple[str, ...], value: str) -> str:
    return FIELD.join(part.translate(_CONTROL) for part in head) + WINDOW + value


def plain(topic: str, key: str, value: str) -> str:
    """A record of a key and a value only."""
    return _message((topic, key, "", "", "", "", ""), value)


def rejected(topic: str, events_topic: str, user_id: str, event: Refused) -> str:
    head = (topic, user_id, event.reason, event.detail)
    return _message((*head, events_topic, event.partition, event.offset), event.payload)


class Refused(NamedTuple):
    """An event that the SQL let through and that can't be used after all."""

    reason: str
    detail: str
    partition: str
    offset: str
    payload: str
