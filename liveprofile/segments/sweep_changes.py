"""What a sweep changes: the memberships of stored profiles, evaluated at one time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from liveprofile.segments.definitions import SegmentSet
from liveprofile.segments.evaluation import Evaluation, evaluate
from liveprofile.segments.membership import (
    Cause,
    Evaluated,
    Membership,
    Memberships,
    MembershipWrite,
    next_membership,
    rewritten,
)
from liveprofile.segments.stored_profiles import ProfilePage

# Between the write times of the profile's window (revisions 0 to 999) and of the next window, which
# ends at least a second later.
_AFTER_WINDOW_US = 1_000


class SweepPlan(NamedTuple):
    """How a sweep evaluates."""

    sweep: str
    time_ms: int
    decay_days: float
    rewrite_after_ms: int


class PageChanges(NamedTuple):
    """The result for one page."""

    writes: list[MembershipWrite]
    newer: list[str]  # users whose memberships belong to a later profile than the page's
    evaluation: Evaluation


def page_changes(
    page: ProfilePage,
    stored: Mapping[str, Memberships],
    segments: SegmentSet,
    plan: SweepPlan,
) -> PageChanges:
    """Compares the segments of stored profiles at `plan.time_ms` with the stored memberships.

    stored: the memberships of the page's users, read after the page. Removed segments lose their
    members, PAUSED ones keep them.
    """
    evaluation = evaluate(segments, page.inputs_at(plan.time_ms, plan.decay_days))
    evaluated = {segment.id for segment in segments.evaluated}
    writes: list[MembershipWrite] = []
    newer: list[str] = []
    window_ends_ms = page.window_end_ms.tolist()
    for row, (user_id, names) in enumerate(zip(page.user_ids, evaluation.names(), strict=True)):
        known, end_ms = stored.get(user_id, {}), window_ends_ms[row]
        if not names and not known:
            continue
        if any(old.window_end_ms > end_ms for old in known.values()):
            newer.append(user_id)
            continue
        for segment_id in names | known.keys():
            old = known.get(segment_id)
            if segment_id in evaluated:
                write = _evaluated_write(
                    user_id, segment_id, old, segment_id in names, end_ms, evaluation, row, plan
                )
            elif segment_id not in segments.by_id:
                write = leave(user_id, segment_id, old, "removed", plan)
            else:
                write = None
            if write is not None:
                writes.append(write)
    return PageChanges(writes, newer, evaluation)


def _evaluated_write(
    user_id: str,
    segment_id: str,
    old: Membership | None,
    holds: bool,
    window_end_ms: int,
    evaluation: Evaluation,
    row: int,
    plan: SweepPlan,
) -> MembershipWrite | None:
    segment = evaluation.segments.by_id[segment_id]
    at = Evaluated(
        window_end_ms, plan.time_ms, segment.version, plan.sweep, _write_time_us(old, window_end_ms)
    )
    if holds != (old is not None and old.member):
        new = next_membership(old, holds, at, evaluation.evidence(segment_id, row))
        return MembershipWrite(user_id, segment_id, new, True, segment.state == "ACTIVE")
    if old is not None and old.member and _is_old(old, window_end_ms, plan):
        return MembershipWrite(user_id, segment_id, rewritten(old, at), False, False)
    return None


def _is_old(old: Membership, window_end_ms: int, plan: SweepPlan) -> bool:
    """Whether the profile has been written much later than the membership."""
    return window_end_ms - old.window_end_ms >= plan.rewrite_after_ms


def leave(
    user_id: str, segment_id: str, old: Membership | None, cause: Cause, plan: SweepPlan
) -> MembershipWrite | None:
    """Ends the membership of a segment or a user that no longer exists; None if there is none."""
    if old is None or not old.member:
        return None
    at = Evaluated(
        old.window_end_ms,
        plan.time_ms,
        old.version,
        plan.sweep,
        _write_time_us(old, old.window_end_ms),
    )
    new = next_membership(old, False, at, {}, cause)
    return MembershipWrite(user_id, segment_id, new, True, True)


def _write_time_us(old: Membership | None, window_end_ms: int) -> int:
    after_window_us = window_end_ms * 1_000 + _AFTER_WINDOW_US
    return after_window_us if old is None else max(after_window_us, old.write_time_us + 1)


class SegmentCounts:
    """Members of each segment and of each pair of segments, over all pages of a sweep."""

    def __init__(self, stored: Mapping[str, Mapping[str, int]] | None = None, users: int = 0):
        self.users = users
        self.overlaps: dict[str, dict[str, int]] = {
            name: dict(others) for name, others in (stored or {}).items()
        }

    def add(self, evaluation: Evaluation, users: int) -> None:
        self.users += users
        names = list(evaluation.members)
        if not names:
            return
        member_NS = np.column_stack([evaluation.members[name] for name in names])
        both_SS = member_NS.T.astype(np.int64) @ member_NS.astype(np.int64)
        for name, row in zip(names, both_SS.tolist(), strict=True):
            counts = self.overlaps.setdefault(name, {})
            for other, count in zip(names, row, strict=True):
                counts[other] = counts.get(other, 0) + count

    def copy(self) -> dict[str, dict[str, int]]:
        return {name: dict(others) for name, others in self.overlaps.items()}

    def members(self, segment_id: str) -> int:
        return self.overlaps.get(segment_id, {}).get(segment_id, 0)
