"""Settings of what may be done with a person's data, and of who is one person."""

from __future__ import annotations

import re
from typing import Literal, get_args

from pydantic import Field, field_validator

from liveprofile.settings.sections import Section
from liveprofile.units import MINUTE_MS

Purpose = Literal["profiling", "recommendation", "marketing", "risk", "training"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


class ConsentSettings(Section):
    """What is allowed of a user who has neither granted nor withdrawn it, and late changes."""

    granted: tuple[Purpose, ...] = Field(
        PURPOSES,
        description="purposes that a user allows who has said nothing: profiling (profiles),"
        " recommendation (interests and next items), marketing (segment changes, campaigns), risk"
        " (scores, flags, alerts), training (rows of `liveprofile model backfill`)",
    )
    backwards_days: int = Field(
        30,
        ge=0,
        description="age up to which `liveprofile privacy consent backwards` looks at rows",
    )

    @property
    def defaults(self) -> dict[str, bool]:
        """By purpose."""
        return {purpose: purpose in self.granted for purpose in PURPOSES}


class MergeSettings(Section):
    """Ids that are one person (`liveprofile identity merge`)."""

    enabled: bool = Field(
        False,
        description="whether several ids can be one person"
        " (docs/privacy.md#one-person-several-ids); costs a Python step for each event",
    )
    delay_ms: int = Field(
        MINUTE_MS,
        ge=0,
        description="a merge counts from so long after the command, when every worker knows it",
    )


class LoginSettings(Section):
    """`liveprofile identity link-logins`: anonymous ids that log in to an account."""

    anonymous_id_pattern: str = Field(
        "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
        description="a regular expression that all of an anonymous id matches, and no account's id"
        " (docs/privacy.md#logins). Keep it simple: clients choose the text",
    )

    @field_validator("anonymous_id_pattern")
    @classmethod
    def _check_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return value
