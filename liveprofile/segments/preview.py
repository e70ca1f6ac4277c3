"""What a change of definitions would do to the users of each segment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from liveprofile.segments.definitions import SegmentSet
from liveprofile.segments.evaluation import evaluate
from liveprofile.segments.stored_profiles import ProfilePage

EXAMPLES = 5


class SegmentPreview(NamedTuple):
    """The users of one segment by the present and by the new definitions."""

    segment_id: str
    users_now: int
    users_then: int
    enter: int
    leave: int
    entering: list[str]  # a few of the users who enter
    leaving: list[str]


def preview(
    pages: Iterable[ProfilePage],
    now: SegmentSet,
    then: SegmentSet,
    time_ms: int,
    decay_days: float,
    examples: int = EXAMPLES,
) -> tuple[int, list[SegmentPreview]]:
    """Evaluates two sets of definitions at `time_ms` for all users.

    Returns the number of users and the segments that either set evaluates, by id.
    """
    names = sorted({segment.id for both in (now, then) for segment in both.evaluated})
    found = {name: SegmentPreview(name, 0, 0, 0, 0, [], []) for name in names}
    users = 0
    for page in pages:
        users += len(page.user_ids)
        inputs = page.inputs_at(time_ms, decay_days)
        before, after = (evaluate(segments, inputs).members for segments in (now, then))
        nobody = page.used_coupon & False
        for name in names:
            old, new = before.get(name, nobody), after.get(name, nobody)
            entering, leaving = (new & ~old).nonzero()[0], (old & ~new).nonzero()[0]
            known = found[name]
            found[name] = SegmentPreview(
                name,
                known.users_now + int(old.sum()),
                known.users_then + int(new.sum()),
                known.enter + len(entering),
                known.leave + len(leaving),
                (known.entering + [page.user_ids[i] for i in entering[:examples]])[:examples],
                (known.leaving + [page.user_ids[i] for i in leaving[:examples]])[:examples],
            )
    return users, list(found.values())
