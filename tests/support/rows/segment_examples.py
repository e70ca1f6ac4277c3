"""Segment definitions, records of their topic, and inputs of segments."""

from typing import Any

import numpy as np

from liveprofile.kafka.records import Record
from liveprofile.segments.features import SEGMENT_FEATURES, SegmentInputs
from liveprofile.segments.segments import SEGMENTS, Segment, SegmentSet, read_segments
from tests.support.paths import ROOT

SHIPPED_SEGMENTS = read_segments(ROOT / "segments.toml")

SEGMENTS_TOML = """\
version = "1"

[[segments]]
id = "buyer"
when = "purchases >= 3"
owner = "marketing"
description = "Bought three times"
"""


def segment(segment_id: str, when: str, **changes: Any) -> Segment:
    return Segment(
        id=segment_id, when=when, **({"owner": "marketing", "description": "A test"} | changes)
    )


def segments(**conditions: str) -> SegmentSet:
    """A set with a segment for each condition."""
    found, faults = SEGMENTS.valid_set(segment(name, when) for name, when in conditions.items())
    assert not faults
    return found


def segment_set(*found: Segment, version: str = "1") -> SegmentSet:
    return SegmentSet(version=version, segments=found)


def segment_record(key: str, value: bytes | None) -> Record:
    return Record("segment-definitions", 0, 0, 0, key.encode(), value, {})


def segment_inputs(
    interests: list[dict[str, float]] | None = None,
    affinity: list[dict[str, float]] | None = None,
    **known: list[float],
) -> SegmentInputs:
    """Inputs of n users; features that are not given are NaN."""
    given = [values for values in (*known.values(), interests, affinity) if values is not None]
    n = len(given[0])
    features = dict.fromkeys(SEGMENT_FEATURES, np.full(n, np.nan))
    features |= {name: np.array(values, np.float64) for name, values in known.items()}
    return SegmentInputs(features, interests or [{}] * n, affinity or [{}] * n)
