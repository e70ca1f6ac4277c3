"""Settings of what may be done with a person's data, and of who is one person."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from liveprofile.settings.sections import Section
from liveprofile.units import MINUTE_MS

MOST_IDS = 100  # of one person: MAX_IDS of liveprofile.identity.book


class ConsentSettings(Section):
    """What is allowed of a user who has neither granted nor withdrawn it, and late changes."""

    profiling: bool = Field(True, description="profiles from the user's events")
    recommendation: bool = Field(True, description="interests and next items in profiles")
    marketing: bool = Field(
        True, description="segment changes are sent, campaigns contact the user"
    )
    risk: bool = Field(True, description="fraud scores, and flags and alerts of both pipelines")
    training: bool = Field(True, description="rows of `liveprofile model backfill`")
    backwards_days: int = Field(
        30,
        ge=0,
        description="age up to which `liveprofile privacy consent backwards` looks at rows",
    )

    @property
    def defaults(self) -> dict[str, bool]:
        """By purpose."""
        return self.model_dump(exclude={"backwards_days"})


class MergeSettings(Section):
    """Ids that are one person (`liveprofile identity merge`)."""

    enabled: bool = Field(
        False, description="the job follows the topic of merges: a Python step for each event"
    )
    delay_ms: int = Field(
        MINUTE_MS,
        ge=0,
        description="a merge counts from so long after the command, when every worker knows it",
    )
    split_days: float = Field(
        30.0, ge=0, le=3_650, description="age of a merge up to which it can be split"
    )


class LoginSettings(Section):
    """`liveprofile identity link-logins`: anonymous ids that log in to an account."""

    anonymous_id_pattern: str = Field(
        "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
        description="all of an anonymous id, a regular expression; no account's id may match it",
    )
    ids_per_person: int = Field(
        90,
        ge=2,
        le=MOST_IDS,
        description="up to which logins add ids; `merge` adds more",
    )
    merges_in_all: int = Field(
        1_000_000, ge=1, description="up to which logins add merges: each worker keeps all"
    )

    @field_validator("anonymous_id_pattern")
    @classmethod
    def _check_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return value
