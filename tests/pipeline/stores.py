"""The stores that a pipeline test looks into: one each a process, since the job runs in it."""

from __future__ import annotations

from liveprofile.config import Settings
from tests.support.memory_sinks import MemoryProfileSink, MemoryScoringSink
from udfs.profile.sink import ProfileSink
from udfs.scoring.sink import ScoringSink

_current: list[MemoryProfileSink] = []
_current_events: list[MemoryScoringSink] = []


def renew() -> MemoryProfileSink:
    _current[:] = [MemoryProfileSink()]
    return _current[0]


def open_shared(settings: Settings, embedding_dim: int) -> ProfileSink:
    """Given to the operator by name, so that its unpickled copy finds the same store."""
    return _current[0]


def renew_events() -> MemoryScoringSink:
    _current_events[:] = [MemoryScoringSink()]
    return _current_events[0]


def open_shared_events(settings: Settings) -> ScoringSink:
    """As open_shared, for the event lane."""
    return _current_events[0]
