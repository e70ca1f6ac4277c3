"""Pace of a replay and the heartbeat that closes its last windows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.errors import InputError
from liveprofile.ingest.replay import Pace, closing_time_ms, replay
from liveprofile.ingest.translation import EventRecords
from liveprofile.settings import Settings, WindowSettings
from tests.reference.windows import window_end_ms


def events(*times_ms: int | None) -> EventRecords:
    return EventRecords([None] * len(times_ms), [b"{}"] * len(times_ms), list(times_ms))


def test_replay_at_full_speed_has_no_due_times():
    assert Pace(None, None).due_s(events(1, 2)) is None


def test_rate_continues_across_batches():
    pace = Pace(rate=10, speed=None)
    assert pace.due_s(events(None, None)).tolist() == [0, 0.1]
    assert pace.due_s(events(None)).tolist() == [0.2]


def test_speed_follows_event_times_and_due_times_never_decrease():
    pace = Pace(rate=None, speed=2)
    assert pace.due_s(events(None, 10_000, 14_000, 12_000, None)).tolist() == [0, 0, 2, 2, 2]
    assert pace.due_s(events(None, 13_000, 20_000)).tolist() == [2, 2, 5]


@given(st.integers(0, 10**13), st.integers(1_000, 10**8), st.integers(1, 10**6))
def test_closing_heartbeat_moves_the_watermark_past_the_last_window(
    last_ms, length_ms, out_of_orderness_ms
):
    window = WindowSettings(length_ms=length_ms, out_of_orderness_ms=out_of_orderness_ms)
    watermark_ms = closing_time_ms(last_ms, window) - out_of_orderness_ms
    window_end_ms = last_ms - last_ms % length_ms + length_ms
    assert window_end_ms <= watermark_ms <= window_end_ms + length_ms


@given(st.integers(0, 10**13), st.text(min_size=1))
def test_closing_heartbeat_moves_the_watermark_past_the_last_staggered_window(last_ms, user_id):
    window = WindowSettings(length_ms=300_000, stagger_ms=10_000)
    watermark_ms = closing_time_ms(last_ms, window) - window.out_of_orderness_ms
    end_ms = window_end_ms(user_id, last_ms, window)
    assert end_ms <= watermark_ms <= end_ms + 2 * window.length_ms


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1, "speed": 1}, "set rate or speed, not both"),
        ({"rate": 0}, "rate = 0: must be above 0"),
        ({"speed": -1}, "speed = -1: must be above 0"),
    ],
)
def test_invalid_pace_is_rejected_before_the_file_is_read(options, message):
    with pytest.raises(InputError, match=message):
        replay("nowhere.csv", None, Settings(), **options)
