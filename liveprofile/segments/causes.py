"""Why a sweep finds a change: an attribute from elsewhere, the passage of time, or a definition."""

from __future__ import annotations

import numpy as np
import orjson

from liveprofile.rules.attribute_columns import ATTRIBUTE, attribute_column
from liveprofile.segments.evaluation import Evaluation
from liveprofile.segments.features import SEGMENT
from liveprofile.segments.membership import Cause, Memberships


def sweep_cause(
    evaluation: Evaluation,
    row: int,
    known: Memberships,
    known_definitions: bool,
    segment_id: str,
) -> Cause:
    """The cause of a change whose definition is that of the stored membership, if there is one.

    known: the user's stored memberships. known_definitions: an earlier sweep has evaluated all
    users with these definitions, so that a user who was never in the segment has changed since.
    """
    if segment_id not in known and not known_definitions:
        return "definition"
    if segment_id not in evaluation.segments.read_attributes:
        return "time"
    was_member = segment_id in known and known[segment_id].member
    held = _held_with_earlier_attributes(evaluation, row, known, segment_id)
    return "attribute" if held == was_member else "time"


def _held_with_earlier_attributes(
    evaluation: Evaluation, row: int, known: Memberships, segment_id: str
) -> bool:
    """Whether the segment would hold now with the attributes as of the last change.

    Somebody who was never in the segment had none of its attributes.
    """
    stored = known.get(segment_id)
    earlier = {} if stored is None else orjson.loads(stored.reason)["values"]
    condition = evaluation.segments.by_id[segment_id].condition
    columns = {name: evaluation.columns[name][row : row + 1] for name in condition.names}
    for call in condition.calls:
        if call.function == ATTRIBUTE:
            values = {call.argument: earlier.get(str(call))}
            columns[call] = attribute_column(call.argument, [values])
        elif call.function == SEGMENT:
            held = _held_with_earlier_attributes(evaluation, row, known, call.argument)
            columns[call] = np.array([held])
        else:
            columns[call] = evaluation.columns[call][row : row + 1]
    return bool(condition(columns, 1)[0])
