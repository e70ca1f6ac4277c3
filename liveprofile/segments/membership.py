"""Who is in a segment, and what changes when a profile is evaluated again.

A membership is stored for each user and segment that has ever been true, and written only when it
changes or becomes old. Evaluations of a user are ordered by the profile's window, then by the time
of the evaluation: a later window always wins over a sweep of an earlier profile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import orjson

from liveprofile.wire.tokens import FIELD

Cause = Literal["window", "time", "definition", "expired", "removed"]


class Membership(NamedTuple):
    """A row of user_segment: a user and a segment that has been true at least once."""

    member: bool
    since_ms: int  # of the last change: the window's end or the time of the sweep
    number: int  # of changes: odd for members, even for others
    window_end_ms: int  # the profile that was evaluated when the row was written
    version: int  # of the definition, at the last change
    sweep: str  # the sweep that made the last change; "" for the job
    reason: str  # JSON of the last change: cause and what the condition read
    write_time_us: int


Memberships = dict[str, Membership]  # of one user, by segment


class MembershipWrite(NamedTuple):
    """A row to store. A change has an event too; otherwise an old row is written again."""

    user_id: str
    segment_id: str
    membership: Membership
    is_change: bool
    is_sent: bool  # a change of an ACTIVE segment

    @property
    def change(self) -> Literal["entered", "left"]:
        return "entered" if self.membership.member else "left"


class Evaluated(NamedTuple):
    """One evaluation of one user and segment."""

    window_end_ms: int  # of the profile
    time_ms: int  # of the evaluation: the window's end for the job
    version: int  # of the definition
    sweep: str  # "" for the job
    write_time_us: int


def next_membership(
    known: Membership | None,
    holds: bool,
    at: Evaluated,
    values: Mapping[str, Any],
    cause: Cause | None = None,
) -> Membership | None:
    """Returns the membership after an evaluation if it changes, else None.

    known: None if the segment was never true. values: what the condition read. cause: None: it
    follows from `known`.
    """
    if holds == (known is not None and known.member):
        return None
    return Membership(
        member=holds,
        # Two changes have different times, also if a sweep's clock is ahead of the window's end.
        since_ms=at.time_ms if known is None else max(at.time_ms, known.since_ms + 1),
        number=1 if known is None else known.number + 1,
        window_end_ms=at.window_end_ms,
        version=at.version,
        sweep=at.sweep,
        reason=orjson.dumps({"cause": cause or _cause(known, at), "values": dict(values)}).decode(),
        write_time_us=at.write_time_us,
    )


def _cause(known: Membership | None, at: Evaluated) -> Cause:
    if known is not None and known.version != at.version:
        return "definition"
    if not at.sweep:
        return "window"
    return "definition" if known is None else "time"


def rewritten(known: Membership, at: Evaluated) -> Membership:
    """The same membership, written again by a later evaluation, so that it does not expire."""
    return known._replace(window_end_ms=at.window_end_ms, write_time_us=at.write_time_us)


def change_id(user_id: str, segment_id: str, membership: Membership) -> str:
    """A deterministic id, the same for every copy of a change."""
    change = "entered" if membership.member else "left"
    text = FIELD.join((user_id, segment_id, change, str(membership.since_ms)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
