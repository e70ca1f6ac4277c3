"""The sink of `job.store = "none"`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from liveprofile.attributes.statements import Statement
from liveprofile.rules.flag_policy import NoFlagHistory
from liveprofile.segments.membership import Membership, Memberships
from liveprofile.segments.policy import ChangeKey


class NullSink(NoFlagHistory):
    """Stores nothing. Serves both pipelines: implements ProfileSink and ScoringSink."""

    drift_store = None

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]:
        return {user_id: {} for user_id in user_ids}

    def statements(self, user_ids: Iterable[str]) -> dict[str, list[Statement]]:
        return {user_id: [] for user_id in user_ids}

    def memberships(self, user_ids: Iterable[str]) -> dict[str, Memberships]:
        return {user_id: {} for user_id in user_ids}

    def stored_changes(self, keys: Iterable[ChangeKey]) -> dict[ChangeKey, Membership]:
        return {}

    def later_sums(self, keys: Sequence[Any]) -> list[None]:
        return [None] * len(keys)

    def write(self, rows: Sequence[Any]) -> None:
        """Drops the rows."""

    def flush(self) -> None:
        """Returns at once."""

    def close(self) -> None:
        """Does nothing."""
