"""The ends of a user's windows. jobs/sql/expressions.py computes the same in SQL."""

import hashlib
from typing import TypeVar

import numpy as np

from liveprofile.settings import WindowSettings

Times = TypeVar("Times", int, np.ndarray)

HASH_DIGITS = 3  # hexadecimal digits of the user_id's MD5, the only hash that SQL and Python share


def stagger_offset_ms(user_id: str, window: WindowSettings) -> int:
    """Returns the offset of the user's windows from multiples of their length."""
    if not window.stagger_ms:
        return 0
    text = hashlib.md5(user_id.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
    return int(text[:HASH_DIGITS], 16) % window.steps * window.stagger_ms


def end_ms(time_ms: Times, offset_ms: Times | int, window: WindowSettings) -> Times:
    """Returns the end of the window that holds an event at `time_ms`.

    offset_ms: the user's `stagger_offset_ms`.
    """
    return time_ms - (time_ms - offset_ms) % window.length_ms + window.length_ms
