"""How far before a range an audit reads."""

from __future__ import annotations

from typing import NamedTuple

from liveprofile.settings import Settings


class LookBack(NamedTuple):
    """Times from which an audit of a range reads. The first two are record timestamps."""

    input_ms: int
    outputs_ms: int  # rejected and late topic
    first_window_ms: int  # all records of windows that start at this time or later are read


def look_back(begin_ms: int, settings: Settings) -> LookBack:
    """Returns where to read for a range whose records have timestamps of `begin_ms` or later."""
    window, skew_ms = settings.window, settings.limits.max_clock_skew_ms
    # An earlier copy, or a record of the same window, is at most this much older.
    apart_ms = max(settings.state.dedup_ttl_ms, window.length_ms + window.out_of_orderness_ms)
    # The first record of a window may be max_clock_skew_ms ahead of its timestamp.
    input_ms = begin_ms - apart_ms - skew_ms
    # The brokers' clocks may differ: they stamp the topics' records.
    return LookBack(input_ms, input_ms - skew_ms, begin_ms - apart_ms)
