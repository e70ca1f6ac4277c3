"""Frequency caps: how often campaigns may contact a user."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field


class Cap(BaseModel):
    """A user is left out with so many contacts of other campaigns in a span before the start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    contacts: int = Field(ge=1)
    span_ms: int = Field(ge=1)


class Contact(NamedTuple):
    """A stored contact of a user."""

    start_ms: int  # of the campaign
    campaign: str


def is_at_cap(contacts: Iterable[Contact], own: Contact, cap: Cap) -> bool:
    """Whether a user with these contacts must not get the contact `own`.

    Contacts of campaigns that start later count too, unless `own` is stored already: of two
    campaigns that were planned at once, the one that starts first keeps the user.
    """
    stored = set(contacts)
    others = {each for each in stored if each.campaign != own.campaign}
    recent = {each for each in others if each.start_ms >= own.start_ms - cap.span_ms}
    if own in stored:
        recent = {each for each in recent if each < own}
    return len(recent) >= cap.contacts
