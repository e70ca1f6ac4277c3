"""The format of segment definitions, and their validation (docs/segments.md).

Definitions come from a TOML file or, one per record, from the topic segment-definitions
(liveprofile/feeds/definition_topics.py). Conditions are those of rules
(liveprofile/rules/conditions.py).
"""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property, lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import Literal

from pydantic import Field

from liveprofile.rules.conditions import (
    ATTRIBUTE,
    Condition,
    FunctionKind,
    ValueKind,
    parse_condition,
)
from liveprofile.rules.definition_kinds import (
    Definition,
    DefinitionKind,
    DefinitionProblem,
    DefinitionsError,
    DefinitionSet,
    condition_problems,
)
from liveprofile.segments.features import AFFINITY, INTEREST, SEGMENT, SEGMENT_FEATURES

SegmentState = Literal["ACTIVE", "SHADOW", "PAUSED"]

_NAMES: Mapping[str, ValueKind] = dict.fromkeys(SEGMENT_FEATURES, "number")
_FUNCTIONS: Mapping[str, FunctionKind] = {
    INTEREST: "number",
    AFFINITY: "number",
    SEGMENT: "condition",
    ATTRIBUTE: "attribute",
}


class Segment(Definition):
    """One segment.

    ACTIVE: users of the segment are stored and changes are sent. SHADOW: stored, not sent.
    PAUSED: not evaluated; members stay as they are.
    """

    when: str = Field(min_length=1)
    owner: str = Field(min_length=1, max_length=200)
    description: str = Field(min_length=1, max_length=1_000)
    state: SegmentState = "ACTIVE"

    @property
    def condition(self) -> Condition:
        return _condition(self.when)

    @property
    def references(self) -> list[str]:
        """The segments that `when` reads."""
        return [call.argument for call in self.condition.calls if call.function == SEGMENT]


class SegmentSet(DefinitionSet):
    """All segments in force."""

    segments: tuple[Segment, ...]
    # A sweep (offline/sweep.py) that changes stored memberships beside the job, or the last.
    sweep: str = ""
    sweeping: bool = False

    @cached_property
    def by_id(self) -> dict[str, Segment]:
        return {segment.id: segment for segment in self.segments}

    @cached_property
    def evaluated(self) -> list[Segment]:
        """The segments that are not PAUSED, each after those that it reads."""
        order = TopologicalSorter({segment.id: segment.references for segment in self.segments})
        found = (self.by_id[name] for name in order.static_order())
        return [segment for segment in found if segment.state != "PAUSED"]

    @cached_property
    def attributes(self) -> frozenset[str]:
        """What the segments that are evaluated read by attribute("name")."""
        return frozenset(name for each in self.evaluated for name in each.condition.attributes)


class SegmentsError(DefinitionsError):
    """The definitions are invalid."""

    kind = "segment"
    plural = "segments"


def reference_problems(segments: Iterable[Segment]) -> list[DefinitionProblem]:
    """The faults of `segment("name")`: unknown or paused segments, and cycles."""
    by_id = {segment.id: segment for segment in segments}
    problems = [
        DefinitionProblem(segment.id, "when", reason)
        for segment in by_id.values()
        for reason in _reference_faults(segment, by_id)
    ]
    if problems:
        return problems
    order = TopologicalSorter({name: segment.references for name, segment in by_id.items()})
    try:
        order.prepare()
    except CycleError as error:
        names: list[str] = error.args[1]
        path = " -> ".join(reversed(names))
        return [
            DefinitionProblem(name, "when", f"reads itself: {path}") for name in sorted({*names})
        ]
    return []


def _reference_faults(segment: Segment, by_id: Mapping[str, Segment]) -> Iterator[str]:
    for name in segment.references:
        if name not in by_id:
            close = get_close_matches(name, by_id, 1)
            yield f"unknown segment {name}" + (f"; {close[0]}?" if close else "")
        elif by_id[name].state == "PAUSED" and segment.state != "PAUSED":
            yield f"segment {name} is PAUSED, so nobody knows its users"


@lru_cache(maxsize=1_024)
def _condition(when: str) -> Condition:
    return parse_condition(when, _NAMES, {}, _FUNCTIONS)


SEGMENTS = DefinitionKind(
    SegmentsError,
    Segment,
    SegmentSet,
    faults=lambda segment: condition_problems(segment, segment.when),
    faults_of_all=reference_problems,
)
read_segments = SEGMENTS.read_file
