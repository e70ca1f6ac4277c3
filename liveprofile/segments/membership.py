"""Who is in a segment, and what changes when a profile is evaluated again, each change once.

A membership is stored for each user and segment that has ever been true, and written only when it
changes or becomes old. Evaluations of a user are ordered by the profile's window, then by the time
of the evaluation: a later window always wins over a sweep of an earlier profile.

The store is read only for users whose memberships the worker does not know. What the worker knows
is what it has stored itself: Flink sends all windows of a user to one worker, in time order. A
sweep writes memberships too, so while one runs (SegmentSet.sweeping) nothing is kept.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import orjson

from liveprofile.segments.segments import Segment, SegmentSet
from liveprofile.wire import output_records
from liveprofile.wire.tokens import FIELD
from liveprofile.wire.user_records import DEFAULT_SOURCE, RecordKind, job_source, to_rfc3339

# time: something else than a window, such as an attribute that has expired
Cause = Literal["window", "time", "definition", "expired", "removed"]


class Membership(NamedTuple):
    """A row of user_segment: a user and a segment that has been true at least once."""

    member: bool
    since_ms: int  # of the last change: the window's end or the time of the sweep
    number: int  # of changes: odd for members, even for others
    announced: bool  # `member` as of the last event that was sent
    window_end_ms: int  # the profile that was evaluated when the row was written
    version: int  # of the definition, at the last change
    sweep: str  # the sweep that made the last change; "" for the job
    reason: str  # JSON of the last change: cause and what the condition read
    write_time_us: int


Memberships = dict[str, Membership]  # of one user, by segment


class MembershipWrite(NamedTuple):
    """A row to store: a change, which is sent unless its segment is SHADOW, or an old row again."""

    user_id: str
    segment_id: str
    membership: Membership
    is_change: bool
    is_sent: bool

    @property
    def change(self) -> Literal["entered", "left"]:
        return "entered" if self.membership.member else "left"


Values = Callable[[str], Mapping[str, Any]]  # what a segment's condition read


class Evaluated(NamedTuple):
    """One evaluation of a user's profile."""

    user_id: str
    window_end_ms: int  # of the profile
    time_ms: int  # of the evaluation: the window's end for the job
    write_time_us: int
    sweep: str = ""  # "" for the job
    # Whether the user allows events: without it every segment is as a SHADOW one, and what has
    # changed meanwhile is sent once it is allowed.
    may_announce: bool = True


def next_membership(
    at: Evaluated,
    segment: Segment,
    known: Membership | None,
    holds: bool,
    values: Values,
    rewrite_after_ms: int,
    cause: Cause = "window",
) -> MembershipWrite | None:
    """Returns what to store after an evaluation, None if nothing changes.

    known: None if the segment was never true. A change of a SHADOW segment that has become ACTIVE
    is written again, with its event. A membership that was written `rewrite_after_ms` ago is
    written again, so that it does not expire. cause: why a segment has changed whose definition has
    not.
    """
    is_active = segment.state == "ACTIVE" and at.may_announce
    if holds != (known is not None and known.member):
        is_redefined = known is not None and known.version != segment.version
        announced = holds if is_active else known is not None and known.announced
        reason = {"cause": "definition" if is_redefined else cause, "values": values(segment.id)}
        new = _changed(at, known, holds, announced, segment.version, reason)
        return MembershipWrite(at.user_id, segment.id, new, True, is_active)
    if known is None:
        return None
    if is_active and known.announced != known.member:
        new, is_change = known._replace(announced=known.member, sweep=at.sweep), True
    elif known.member and at.window_end_ms - known.window_end_ms >= rewrite_after_ms:
        new, is_change = known, False
    else:
        return None
    new = new._replace(window_end_ms=at.window_end_ms, write_time_us=at.write_time_us)
    return MembershipWrite(at.user_id, segment.id, new, is_change, is_change and is_active)


def stored_change(
    user_id: str, segment_id: str, membership: Membership, may_announce: bool = True
) -> MembershipWrite:
    """A change that is stored already, to be stored and sent again."""
    is_sent = may_announce and membership.announced == membership.member
    return MembershipWrite(user_id, segment_id, membership, True, is_sent)


def ended_membership(
    at: Evaluated, segment_id: str, known: Membership, cause: Cause
) -> MembershipWrite | None:
    """Ends a membership whose segment or profile no longer exists; None if there is none.

    Its event is sent if the user is a member as far as was sent, and allows it.
    """
    if not known.member:
        return None
    new = _changed(at, known, False, False, known.version, {"cause": cause, "values": {}})
    is_sent = known.announced and at.may_announce
    return MembershipWrite(at.user_id, segment_id, new, True, is_sent)


def _changed(
    at: Evaluated,
    known: Membership | None,
    member: bool,
    announced: bool,
    version: int,
    reason: Mapping[str, Any],
) -> Membership:
    return Membership(
        member=member,
        # Two changes have different times, also if a sweep's clock is ahead of the window's end.
        since_ms=at.time_ms if known is None else max(at.time_ms, known.since_ms + 1),
        number=1 if known is None else known.number + 1,
        announced=announced,
        window_end_ms=at.window_end_ms,
        version=version,
        sweep=at.sweep,
        reason=orjson.dumps(reason).decode(),
        write_time_us=at.write_time_us,
    )


def change_id(user_id: str, segment_id: str, membership: Membership) -> str:
    """A deterministic id, the same for every copy of a change."""
    change = "entered" if membership.member else "left"
    text = FIELD.join((user_id, segment_id, change, str(membership.since_ms)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


_SCHEMA = "https://liveprofile.example/schemas/segment-change.schema.json#/$defs/data"


def change_event(write: MembershipWrite, event_source: str = DEFAULT_SOURCE) -> bytes:
    """Returns a CloudEvent in structured JSON (schemas/segment-change.schema.json)."""
    membership = write.membership
    reason = orjson.loads(membership.reason)
    event_id = change_id(write.user_id, write.segment_id, membership)
    source = f"{event_source}/segment-sweep" if membership.sweep else job_source(event_source)
    kind = RecordKind(source, f"liveprofile.segment.{write.change}", _SCHEMA)
    data = {
        "user_id": write.user_id,
        "segment_id": write.segment_id,
        "segment_version": membership.version,
        "change": write.change,
        "number": membership.number,
        "cause": reason["cause"],
        "values": reason["values"],
        "window_end": to_rfc3339(membership.window_end_ms),
    }
    return kind.value(write.user_id, to_rfc3339(membership.since_ms), data, event_id)


def change_records(
    topic: str, writes: Sequence[MembershipWrite], event_source: str = DEFAULT_SOURCE
) -> list[str]:
    """Returns an output record for each change that is sent."""
    return [
        output_records.record(topic, write.user_id, change_event(write, event_source).decode())
        for write in writes
        if write.is_sent
    ]


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
            and known.members & evaluated.keys() == window.names
        )

    def _unchanged(self, window: EvaluatedWindow) -> list[MembershipWrite]:
        known = self._found.get(window.user_id) or self._users[window.user_id]
        self._found[window.user_id] = _Known(window.window_end_ms, *known[1:])
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
        user_id, end_ms, written_us, _, values, may_announce = window
        at = Evaluated(user_id, end_ms, end_ms, written_us, may_announce=may_announce)
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
            write = next_membership(at, segment, old, holds, values, rewrite_after_ms)
            if write is not None:
                known[segment_id] = write.membership
                writes.append(write)
        members = frozenset(name for name, row in known.items() if row.member)
        rewritten = members & evaluated.keys()
        oldest_ms = min((known[name].window_end_ms for name in rewritten), default=None)
        latest_ms = max((row.window_end_ms for row in known.values()), default=0)
        self._found[user_id] = _Known(
            max(end_ms, latest_ms),
            self._sets.setdefault(members, members),
            float("inf") if oldest_ms is None else oldest_ms + self._rewrite_after_ms,
            may_announce,
        )
        return writes
