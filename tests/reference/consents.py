"""The consents of docs/privacy.md in plain Python: what a job may do that learns of some too late.

A stream is sent in parts. Before each part all changes that happen in it are known, except for late
ones, which are known after it. After a failure the job may decide again, and knows more by then.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

PURPOSES = ("profiling", "recommendation", "marketing", "risk", "training")


class Change(NamedTuple):
    time_ms: int
    purpose: str
    granted: bool


Changes = Mapping[str, Sequence[Change]]  # by user


def is_allowed(changes: Sequence[Change], purpose: str, at_ms: int) -> bool:
    """By default yes; of changes at one time, a withdrawal counts."""
    past = [
        (each.time_ms, not each.granted)
        for each in changes
        if each.purpose == purpose and each.time_ms <= at_ms
    ]
    return not max(past)[1] if past else True


class Knowledge:
    """What is known of the consents at each part of a stream.

    starts_ms: of the parts. late: by part, the changes that are known after it only.
    """

    def __init__(self, starts_ms: Sequence[int], on_time: Changes, late: Sequence[Changes]):
        self._starts_ms, self._late = starts_ms, late
        self._stages: list[dict[str, list[Change]]] = []
        known = {user: list(changes) for user, changes in on_time.items()}
        for after in ({}, *late):
            known = {
                user: [*known.get(user, ()), *after.get(user, ())] for user in known | dict(after)
            }
            self._stages.append(known)

    def finally_allowed(self, user: str, purpose: str, at_ms: int) -> bool:
        """With all changes known."""
        return is_allowed(self._stages[-1].get(user, ()), purpose, at_ms)

    def allowed_during(self, user: str, purpose: str, start_ms: int, end_ms: int) -> bool:
        """Whether any moment from start to end (exclusive) is allowed, with all changes known."""
        changes = self._stages[-1].get(user, ())
        moments = [start_ms, *(c.time_ms for c in changes if start_ms < c.time_ms < end_ms)]
        return any(is_allowed(changes, purpose, at_ms) for at_ms in moments)

    def decisions(self, user: str, purpose: str, at_ms: int, event_ms: int) -> frozenset[bool]:
        """What the job may have decided about a time, of an event or a window with the event."""
        part = sum(start_ms <= event_ms for start_ms in self._starts_ms) - 1
        return frozenset(
            is_allowed(stage.get(user, ()), purpose, at_ms) for stage in self._stages[part:]
        )
