"""The stores that a pipeline test looks into: one each a process, since the job runs in it."""

from __future__ import annotations

from liveprofile.config import Settings
from udfs.event_store import EventStore, MemoryEventStore
from udfs.store import MemoryStore, ProfileStore

_current: list[MemoryStore] = []
_current_events: list[MemoryEventStore] = []


def renew() -> MemoryStore:
    _current[:] = [MemoryStore()]
    return _current[0]


def open_shared(settings: Settings, embedding_dim: int) -> ProfileStore:
    """Given to the operator by name, so that its unpickled copy finds the same store."""
    return _current[0]


def renew_events() -> MemoryEventStore:
    _current_events[:] = [MemoryEventStore()]
    return _current_events[0]


def open_shared_events(settings: Settings) -> EventStore:
    """As open_shared, for the event lane."""
    return _current_events[0]
