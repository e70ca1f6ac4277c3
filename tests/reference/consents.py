"""The consents of docs/privacy.md in plain Python."""

from collections.abc import Iterable
from typing import Any


def is_allowed(changes: Iterable[Any], purpose: str, at_ms: int) -> bool:
    """By default yes; of changes at one time, a withdrawal counts.

    changes: each has `time_ms`, `purpose` and `granted`.
    """
    past = [
        (each.time_ms, not each.granted)
        for each in changes
        if each.purpose == purpose and each.time_ms <= at_ms
    ]
    return not max(past)[1] if past else True
