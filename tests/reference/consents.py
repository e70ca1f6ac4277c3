"""The consents of docs/privacy.md in plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Change(NamedTuple):
    time_ms: int
    purpose: str
    granted: bool


def is_allowed(changes: Sequence[Change], purpose: str, at_ms: int) -> bool:
    """By default yes; of changes at one time, a withdrawal counts."""
    past = [
        (each.time_ms, not each.granted)
        for each in changes
        if each.purpose == purpose and each.time_ms <= at_ms
    ]
    return not max(past)[1] if past else True
