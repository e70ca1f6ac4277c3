"""Window ends, with and without an offset for each user."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from liveprofile.events.window_times import end_ms, stagger_offset_ms
from liveprofile.settings import WindowSettings
from tests.reference.windows import window_end_ms

STAGGERED = WindowSettings(length_ms=300_000, stagger_ms=10_000)


@given(time_ms=st.integers(946_684_800_000, 4_102_444_800_000), user_id=st.text(min_size=1))
@pytest.mark.parametrize("window", [WindowSettings(), STAGGERED])
def test_window_end_holds_the_event_and_matches_the_reference(
    window: WindowSettings, time_ms: int, user_id: str
) -> None:
    offset_ms = stagger_offset_ms(user_id, window)
    end = end_ms(time_ms, offset_ms, window)
    assert end - window.length_ms <= time_ms < end
    assert (end - offset_ms) % window.length_ms == 0
    assert end == window_end_ms(user_id, time_ms, window)


@pytest.mark.parametrize(
    ("length_ms", "stagger_ms", "reason"),
    [
        (300_000, 1_500, "whole seconds"),
        (300_000, 7_000, "multiple"),
        (3_600_000, 1_000, "at least 12000"),
    ],
)
def test_stagger_that_does_not_divide_the_window_is_rejected(
    length_ms: int, stagger_ms: int, reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        WindowSettings(length_ms=length_ms, stagger_ms=stagger_ms)
