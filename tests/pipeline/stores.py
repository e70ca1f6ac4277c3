"""The store that a pipeline test looks into: one for the process, since the job runs in it."""

from __future__ import annotations

from liveprofile.config import Settings
from udfs.store import MemoryStore, ProfileStore

_current: list[MemoryStore] = []


def renew() -> MemoryStore:
    _current[:] = [MemoryStore()]
    return _current[0]


def open_shared(settings: Settings, embedding_dim: int) -> ProfileStore:
    """Given to the operator by name, so that its unpickled copy finds the same store."""
    return _current[0]
