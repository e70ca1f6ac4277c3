"""Where a user's windows end. The job has the same in SQL (jobs.sql.profile_views.ends)."""

from __future__ import annotations

import hashlib
from typing import TypeVar

import numpy as np

from liveprofile.config import WindowSettings

Times = TypeVar("Times", int, np.ndarray)

HASH_DIGITS = 3  # hexadecimal, of the MD5 of the user_id: SQL has no hash that Python has, but this


def shift_ms(user_id: str, window: WindowSettings) -> int:
    """By how much the user's windows lie behind multiples of their length."""
    if not window.stagger_ms:
        return 0
    text = hashlib.md5(user_id.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
    return int(text[:HASH_DIGITS], 16) % window.steps * window.stagger_ms


def end_ms(time_ms: Times, shift_ms: Times | int, window: WindowSettings) -> Times:
    """Of the window that an event of this time lies in."""
    return time_ms - (time_ms - shift_ms) % window.length_ms + window.length_ms
