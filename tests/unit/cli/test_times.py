"""Times and durations of options."""

from __future__ import annotations

import time

import pytest

from cli.common import parse_duration_ms, parse_since_ms
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS


def test_durations_are_parsed_or_rejected() -> None:
    assert [parse_duration_ms(text, "--for") for text in ("30m", "8h", "3d")] == [
        30 * MINUTE_MS,
        8 * HOUR_MS,
        3 * DAY_MS,
    ]
    for wrong in ("", "8", "h", "-1h", "8 h", "1w", "0h"):
        with pytest.raises(InputError, match="a number above 0 with m, h or d"):
            parse_duration_ms(wrong, "--for")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1511658300000", 1_511_658_300_000),
        ("2017-11-26T01:05", 1_511_658_300_000),
        ("2017-11-26T02:05+01:00", 1_511_658_300_000),
        ("2017-11-26", 1_511_654_400_000),
    ],
)
def test_since_is_a_time_in_utc_unless_it_has_a_zone(text: str, expected: int) -> None:
    assert parse_since_ms(text) == expected


def test_since_may_be_a_duration_before_now() -> None:
    assert parse_since_ms("2h") == pytest.approx(time.time() * 1_000 - 2 * HOUR_MS, abs=5_000)
