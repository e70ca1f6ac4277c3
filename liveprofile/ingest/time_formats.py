"""Times that are not ISO 8601: `format` of a mapping, and which format a column has."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = "%Y-%m-%d"
# Each day first, then month first: for a column that fits both, a person has to decide.
_DATES = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%d.%m.%y", "%m/%d/%y")
CLOCKS = ("%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%I:%M:%S %p", "%I:%M %p")
FORMATS = tuple(f"{date} {clock}" for date in _DATES for clock in CLOCKS)
DAYS = (DAY, *_DATES)
SAMPLE = 500
_EXAMPLE = datetime(2026, 11, 26, 13, 5)


def check_format(text: str, day_only: bool = False) -> str:
    """Returns a format of strptime that tells day and time, or just the day. Raises ValueError."""
    expected = _EXAMPLE.replace(hour=0, minute=0) if day_only else _EXAMPLE
    try:
        found = datetime.strptime(_EXAMPLE.strftime(text), text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no format such as %d.%m.%Y %H:%M:%S: {error}") from None
    if day_only and found.date() == _EXAMPLE.date() and found != expected:
        raise ValueError(f"{text!r} tells more than the day: remove unit")
    if found.replace(tzinfo=None) != expected:
        parts = "year, month or day" if day_only else "year, month, day, hour or minute"
        more = "" if day_only else ' (unit = "day" if the file tells the day only)'
        raise ValueError(f"{text!r} lacks {parts}{more}")
    return text


def parse_time(text: str | None, time_format: str) -> datetime | None:
    """A time in this format; None if the text is not."""
    if text is None:
        return None
    try:
        return datetime.strptime(text.strip(), time_format)
    except ValueError:
        return None


def epoch_ms(moment: datetime) -> int:
    """moment: with a time zone. Rounded down."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000 + delta.microseconds // 1_000


def formats_of(values: Sequence[str], share: float, among: Sequence[str] = FORMATS) -> list[str]:
    """The formats that at least this share of the first values have."""
    sample = [value for value in values[:SAMPLE] if isinstance(value, str)]
    return [
        each
        for each in among
        if sample
        and sum(parse_time(value, each) is not None for value in sample) >= share * len(sample)
    ]
