"""Evaluates the segments of n users at once, and what a change of definitions would do to them."""

from collections.abc import Iterable
from itertools import compress
from typing import Annotated, Any, NamedTuple

import numpy as np
from typing_extensions import Doc

from liveprofile.rules.conditions import (
    ATTRIBUTE,
    AttributeValue,
    TextCall,
    attribute_column,
    plain_value,
)
from liveprofile.segments.features import AFFINITY, INTEREST, SEGMENT, SegmentInputs
from liveprofile.segments.segments import SegmentSet
from liveprofile.segments.stored_profiles import ProfilePage


class Evaluation(NamedTuple):
    """The segments of n users."""

    segments: SegmentSet
    members: dict[str, np.ndarray]  # (n,) bool by segment, those that are not PAUSED
    columns: dict[str | TextCall, np.ndarray]  # (n,) of all that the conditions read

    def names(self, state: str | None = None) -> list[frozenset[str]]:
        """n: the names of each user's segments, of one state or of all."""
        names = [
            segment.id for segment in self.segments.evaluated if state in (None, segment.state)
        ]
        if not names:
            return [frozenset()] * self._rows
        member_NS = np.column_stack([self.members[name] for name in names]).tolist()
        return [frozenset(compress(names, holds)) for holds in member_NS]

    def evidence(self, segment_id: str, row: int) -> dict[str, Any]:
        """What the segment's condition read of one user: {name: value}; unknown values are None."""
        condition = self.segments.by_id[segment_id].condition
        return {
            str(name): _known(self.columns[name][row])
            for name in (*condition.names, *condition.calls)
        }

    @property
    def _rows(self) -> int:
        return len(next(iter(self.columns.values()), ()))


def _known(value: np.generic | AttributeValue | None) -> AttributeValue | None:
    plain = None if value is None else plain_value(value)
    return None if plain != plain else plain  # NaN is unknown


def evaluate(segments: SegmentSet, inputs: SegmentInputs) -> Evaluation:
    """Evaluates the segments that are not PAUSED.

    A category that is not among a user's ten has interest and affinity 0.
    """
    rows = len(inputs.interests)
    columns: dict[str | TextCall, np.ndarray] = dict(inputs.features)
    tables = {INTEREST: inputs.interests, AFFINITY: inputs.affinity}
    members: dict[str, np.ndarray] = {}
    for segment in segments.evaluated:
        condition = segment.condition
        for call in condition.calls:
            if call in columns:
                continue
            if call.function == SEGMENT:
                columns[call] = members[call.argument]
            elif call.function == ATTRIBUTE:
                columns[call] = attribute_column(call.argument, inputs.attributes or [{}] * rows)
            else:
                column = [one.get(call.argument, 0.0) for one in tables[call.function]]
                columns[call] = np.array(column)
        members[segment.id] = condition(columns, rows)
    return Evaluation(segments, members, columns)


class SegmentPreview(NamedTuple):
    """The users of one segment by the present and by the new definitions."""

    segment_id: str
    users_now: int
    users_then: int
    enter: int
    leave: int
    entering: Annotated[list[str], Doc("a few of the users who enter")]
    leaving: list[str]


def preview(
    pages: Iterable[ProfilePage],
    now: SegmentSet,
    then: SegmentSet,
    time_ms: int,
    decay_days: float,
    examples: int = 5,
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
