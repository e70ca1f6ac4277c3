"""Finds the membership changes of a batch of windows, each exactly once whatever fails.

The store is read only for users whose memberships the worker does not know. What the worker knows
is what it has stored itself: Flink sends all windows of a user to one worker, in time order. A
sweep writes memberships too, so while one runs (SegmentSet.sweeping) nothing is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from liveprofile.segments.definitions import Segment, SegmentSet
from liveprofile.segments.membership import (
    Evaluated,
    Membership,
    Memberships,
    MembershipWrite,
    Values,
    next_membership,
    stored_change,
)

MAX_USERS = 200_000  # about 150 bytes each


class ChangeKey(NamedTuple):
    """A change that the job may have stored for a window."""

    user_id: str
    segment_id: str
    window_end_ms: int


class MembershipReader(Protocol):
    """Reads stored memberships. The sinks of the profile pipeline implement it."""

    def memberships(self, user_ids: Iterable[str]) -> dict[str, Memberships]:
        """Returns the stored memberships of each user, by segment."""

    def stored_changes(self, keys: Iterable[ChangeKey]) -> dict[ChangeKey, Membership]:
        """Returns the changes that the job has stored for these windows."""


class EvaluatedWindow(NamedTuple):
    """The segments of a user's window."""

    user_id: str
    window_end_ms: int
    write_time_us: int
    names: frozenset[str]  # of the segments that are true, SHADOW ones too
    values: Values
    may_announce: bool = True  # the user allows that changes are sent


class _Known(NamedTuple):
    """What the worker has stored about a user."""

    until_ms: int  # end of the latest window
    members: frozenset[str]
    rewrite_ms: float  # a window that ends later must write the memberships again
    may_announce: bool


class MembershipPolicy:
    """Finds the changes of windows and of replayed windows.

    A window that is replayed finds that a later evaluation is stored. Then it changes nothing, but
    a change that was stored for this window is returned again: the failure may have lost its event.

    rewrite_after_ms: a membership that was written this long ago is written again.
    """

    def __init__(self, store: MembershipReader, rewrite_after_ms: int):
        self._store, self._rewrite_after_ms = store, rewrite_after_ms
        self._users: dict[str, _Known] = {}
        self._found: dict[str, _Known] = {}  # of the batch that is being stored
        self._sweep: tuple[str, bool] = ("", False)
        self._sets: dict[frozenset[str], frozenset[str]] = {}  # users share equal sets

    def changes(
        self, windows: Sequence[EvaluatedWindow], segments: SegmentSet
    ) -> list[list[MembershipWrite]]:
        """Returns what to store for each window. windows: those of a user in time order.

        Raises StoreError. Call `stored` when everything is stored.
        """
        if self._sweep != (segments.sweep, segments.sweeping):
            self._users.clear()
            self._sweep = (segments.sweep, segments.sweeping)
        evaluated = {segment.id: segment for segment in segments.evaluated}
        unknown = {
            window.user_id for window in windows if not self._is_unchanged(window, evaluated)
        }
        stored = self._store.memberships(unknown) if unknown else {}
        replayed = [
            ChangeKey(window.user_id, segment_id, window.window_end_ms)
            for window in windows
            for segment_id, known in stored.get(window.user_id, {}).items()
            if known.window_end_ms >= window.window_end_ms
        ]
        stored_changes = self._store.stored_changes(replayed) if replayed else {}
        self._found = {}
        return [
            self._changes(window, evaluated, stored[window.user_id], stored_changes)
            if window.user_id in unknown
            else self._unchanged(window)
            for window in windows
        ]

    def stored(self) -> None:
        """Keeps what the last batch has changed: every row of it is stored."""
        if not self._sweep[1]:
            if len(self._users) + len(self._found) > MAX_USERS:
                self._users.clear()
            self._users |= self._found
        self._found = {}

    def forget(self, user_id: str) -> None:
        """Drops what is known of a user, whose memberships were deleted."""
        self._users.pop(user_id, None)

    def _is_unchanged(self, window: EvaluatedWindow, evaluated: Mapping[str, Segment]) -> bool:
        known = self._users.get(window.user_id)
        return (
            known is not None
            and known.until_ms < window.window_end_ms < known.rewrite_ms
            and known.may_announce == window.may_announce
            and (
                known.members == window.names  # spares the next line for most windows
                or known.members & evaluated.keys() == window.names
            )
        )

    def _unchanged(self, window: EvaluatedWindow) -> list[MembershipWrite]:
        known = self._found.get(window.user_id) or self._users[window.user_id]
        self._found[window.user_id] = known._replace(until_ms=window.window_end_ms)
        return []

    def _changes(
        self,
        window: EvaluatedWindow,
        evaluated: Mapping[str, Segment],
        known: Memberships,
        stored_changes: Mapping[ChangeKey, Membership],
    ) -> list[MembershipWrite]:
        """Returns what to store, and updates `known` to the state after the window."""
        writes: list[MembershipWrite] = []
        user_id, end_ms, may_announce = window.user_id, window.window_end_ms, window.may_announce
        at = Evaluated(user_id, end_ms, end_ms, window.write_time_us, may_announce=may_announce)
        for segment_id in sorted(window.names | known.keys()):
            old = known.get(segment_id)
            if old is not None and old.window_end_ms >= end_ms:
                stored = stored_changes.get(ChangeKey(user_id, segment_id, end_ms))
                if stored is not None:
                    writes.append(stored_change(user_id, segment_id, stored, may_announce))
                continue
            if segment_id not in evaluated:
                continue
            holds = segment_id in window.names
            segment, rewrite_after_ms = evaluated[segment_id], self._rewrite_after_ms
            write = next_membership(at, segment, old, holds, window.values, rewrite_after_ms)
            if write is not None:
                known[segment_id] = write.membership
                writes.append(write)
        self._keep(window, evaluated, known)
        return writes

    def _keep(
        self, window: EvaluatedWindow, evaluated: Mapping[str, Segment], known: Memberships
    ) -> None:
        members = frozenset(name for name, row in known.items() if row.member)
        rewritten = members & evaluated.keys()
        oldest_ms = min((known[name].window_end_ms for name in rewritten), default=None)
        latest_ms = max((row.window_end_ms for row in known.values()), default=0)
        self._found[window.user_id] = _Known(
            max(window.window_end_ms, latest_ms),
            self._sets.setdefault(members, members),
            float("inf") if oldest_ms is None else oldest_ms + self._rewrite_after_ms,
            window.may_announce,
        )
