"""The sink of `job.store = "none"`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from liveprofile.rules.flag_history import NoFlagHistory


class NullSink(NoFlagHistory):
    """Stores nothing, for both pipelines. Follows the contract of udfs/profile/sink.py."""

    drift = None

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]:
        return {user_id: {} for user_id in user_ids}

    def begin(self, rows: Sequence[Any]) -> None:
        """Drops the rows."""

    def wait(self) -> None:
        """Returns at once."""

    def close(self) -> None:
        """Does nothing."""
