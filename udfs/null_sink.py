"""The sink of `job.store = "none"`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from liveprofile.rules.flag_history import NoFlagHistory


class NullSink(NoFlagHistory):
    """Stores nothing. Serves both pipelines: implements ProfileSink and ScoringSink."""

    drift_store = None

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]:
        return {user_id: {} for user_id in user_ids}

    def write(self, rows: Sequence[Any]) -> None:
        """Drops the rows."""

    def flush(self) -> None:
        """Returns at once."""

    def close(self) -> None:
        """Does nothing."""
