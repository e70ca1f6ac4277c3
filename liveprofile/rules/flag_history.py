"""A flag history without flags, for evaluations that read no store."""

from __future__ import annotations

from collections.abc import Sequence

from liveprofile.rules.flags import FlagHistory, FlagQuery


class NoFlagHistory:
    """Reports no earlier flag and no rule as true before, so every rule that is true raises one."""

    def flag_history(self, queries: Sequence[FlagQuery]) -> list[FlagHistory]:
        return [FlagHistory()] * len(queries)
