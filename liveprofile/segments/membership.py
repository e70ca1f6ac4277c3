"""Who is in a segment, and what changes when a profile is evaluated again.

A membership is stored for each user and segment that has ever been true, and written only when it
changes or becomes old. Evaluations of a user are ordered by the profile's window, then by the time
of the evaluation: a later window always wins over a sweep of an earlier profile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import orjson

from liveprofile.alerts.cloud_events import (
    DEFAULT_ORIGIN,
    EventOrigin,
    to_rfc3339,
    traceparent,
    window_cause,
)
from liveprofile.segments.definitions import Segment
from liveprofile.wire.tokens import FIELD
from liveprofile.wire.user_records import RecordKind

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


def change_event(write: MembershipWrite, origin: EventOrigin = DEFAULT_ORIGIN) -> bytes:
    """Returns a CloudEvent in structured JSON (schemas/segment-change.schema.json)."""
    membership = write.membership
    reason = orjson.loads(membership.reason)
    event_id = change_id(write.user_id, write.segment_id, membership)
    cause = (
        ("sweep", write.user_id, str(membership.since_ms))
        if membership.sweep
        else window_cause(write.user_id, membership.window_end_ms)
    )
    source = f"{origin.source}/segment-sweep" if membership.sweep else origin.job
    kind = RecordKind(source, origin.type_of(f"liveprofile.segment.{write.change}"), _SCHEMA)
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
    time, trace = to_rfc3339(membership.since_ms), traceparent(event_id, *cause)
    return kind.value(write.user_id, time, data, event_id, traceparent=trace)
