"""In-memory sinks of the running pipeline test, shared with the job, which runs in its process."""

from __future__ import annotations

from liveprofile.settings import Settings
from tests.support.memory.sinks import MemoryProfileSink, MemoryScoringSink

_profile_sinks: list[MemoryProfileSink] = []
_scoring_sinks: list[MemoryScoringSink] = []


def new_profile_sink() -> MemoryProfileSink:
    _profile_sinks[:] = [MemoryProfileSink()]
    return _profile_sinks[0]


def open_shared_profile_sink(settings: Settings, embedding_dim: int) -> MemoryProfileSink:
    """Returns the current sink. The UDF is pickled with this function's name, not with the sink."""
    return _profile_sinks[0]


def new_scoring_sink() -> MemoryScoringSink:
    _scoring_sinks[:] = [MemoryScoringSink()]
    return _scoring_sinks[0]


def open_shared_scoring_sink(settings: Settings) -> MemoryScoringSink:
    """Returns the current sink, as open_shared_profile_sink does."""
    return _scoring_sinks[0]
