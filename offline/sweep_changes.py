"""What a sweep changes: the memberships of stored profiles, evaluated at one time."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from liveprofile.segments.evaluation import Evaluation, evaluate
from liveprofile.segments.membership import (
    Cause,
    Evaluated,
    Membership,
    Memberships,
    MembershipWrite,
    ended_membership,
    next_membership,
)
from liveprofile.segments.segments import SegmentSet
from liveprofile.segments.stored_profiles import ProfilePage


class SweepPlan(NamedTuple):
    """How a sweep evaluates."""

    sweep: str
    time_ms: int
    decay_days: float
    rewrite_after_ms: int
    may_announce: Callable[[str], bool] = lambda user_id: True  # a user allows events of changes
    # Whether a user was erased after the beginning of the window that ends at a time.
    is_erased: Callable[[str, int], bool] = lambda user_id, end_ms: False
    known_definitions: bool = False  # an earlier sweep has evaluated all users with them


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
    evaluated = {segment.id: segment for segment in segments.evaluated}
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
        values = partial(evaluation.evidence, row=row)
        for segment_id in sorted(names | known.keys()):
            old = known.get(segment_id)
            if segment_id in evaluated:
                at = _evaluated(user_id, end_ms, page.write_time_us[row], old, plan)
                # A user who was never in the segment has changed since the last sweep, if that one
                # had these definitions.
                is_new = old is None and not plan.known_definitions
                write = next_membership(
                    at,
                    evaluated[segment_id],
                    old,
                    segment_id in names,
                    values,
                    plan.rewrite_after_ms,
                    "definition" if is_new else "time",
                )
            elif old is not None and segment_id not in segments.by_id:
                write = leave(user_id, segment_id, old, "removed", plan)
            else:
                write = None
            if write is not None:
                writes.append(write)
    return PageChanges(writes, newer, evaluation)


def leave(
    user_id: str, segment_id: str, old: Membership, cause: Cause, plan: SweepPlan
) -> MembershipWrite | None:
    """Ends the membership of a segment or a user that no longer exists; None if there is none."""
    at = _evaluated(user_id, old.window_end_ms, 0, old, plan)
    return ended_membership(at, segment_id, old, cause)


def _evaluated(
    user_id: str, window_end_ms: int, profile_us: int, old: Membership | None, plan: SweepPlan
) -> Evaluated:
    """Writes after the writes of the profile and of the old row.

    The user's next window ends at least a second later, and writes later than this.
    """
    write_time_us = max(profile_us, 0 if old is None else old.write_time_us) + 1
    may_announce = plan.may_announce(user_id)
    return Evaluated(user_id, window_end_ms, plan.time_ms, write_time_us, plan.sweep, may_announce)
