"""What a rule's cool-down needs to know of earlier flags."""

from __future__ import annotations

from collections.abc import Sequence

from liveprofile.rules.flags import FlagHistory, FlagQuery


class NoFlagHistory:
    """No flag was ever raised: every rule that is true raises one."""

    def flag_history(self, queries: Sequence[FlagQuery]) -> list[FlagHistory]:
        return [FlagHistory(was_true=False, last_raised_ms=None)] * len(queries)
