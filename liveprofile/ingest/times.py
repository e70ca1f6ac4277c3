"""Times in files: formats that are not ISO 8601, and which column has the time of the events."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from liveprofile.ingest.numbers import finite

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


MOST_SHARE = 0.9
# Of two readings of a date, the one that spans so many times fewer days is right.
MUCH_LONGER = 3.0
NO_ZONE = "times without a zone are UTC; else set zone"
LOCAL = "local times, or UTC? set zone, such as Europe/Berlin"
DAY_ONLY = "no time of day: all events of a day are at midnight, so the order within a day is lost"


class FoundTime(NamedTuple):
    """A column read as times."""

    section: dict[str, str]  # [time] of the mapping; empty if there is no time
    note: str  # what a person has to look at; empty: nothing
    in_order: bool  # the rows are sorted by it
    rank: int = 0  # the lower, the better


def find_time(columns: dict[str, list[Any]], named: str | None) -> FoundTime:
    """named: the column whose name says that it is the time."""
    readings = {
        name: reading for name in columns if (reading := _reading(columns, name)) is not None
    }
    best = min(readings.values(), key=lambda each: each.rank, default=None)
    reading = readings.get(named, best) if named is not None else best
    if reading is None:
        if named is None:
            return FoundTime({}, "the column with the time of the event", True)
        example = next(iter(present(columns[named])), "")
        note = f"{example!r} is neither ISO 8601 (2026-11-26T01:00) nor a count since 1970"
        return FoundTime({"column": named}, f"{note}: set format", True)
    chosen = "" if reading.section["column"] == named else "chosen by its values"
    return reading._replace(note="; ".join(filter(None, [chosen, reading.note])))


def _reading(columns: dict[str, list[Any]], name: str) -> FoundTime | None:
    """A column as times; None if it has none."""
    values = present(columns[name])
    unit = _time_unit(values)
    if unit is not None:
        note = NO_ZONE if unit == "iso" and not any(map(_has_zone, values)) else ""
        ordered = [str(value) for value in values] if unit == "iso" else list(map(_float, values))
        section = {"column": name} | ({} if unit == "iso" else {"unit": unit})
        in_order = all(earlier <= later for earlier, later in itertools.pairwise(ordered))
        return FoundTime(section, note, in_order)
    if found := formats_of(values, MOST_SHARE):
        return _by_format(1, {"column": name}, values, found, LOCAL)
    days = formats_of(values, MOST_SHARE, DAYS)
    if not days:
        return None
    clocks = {
        other: formats
        for other in columns
        if other != name and (formats := formats_of(present(columns[other]), MOST_SHARE, CLOCKS))
    }
    if not clocks:
        section = {"column": name, "unit": "day"}
        return _by_format(3, section, values, days, DAY_ONLY)
    clock, formats = next(iter(clocks.items()))
    texts = [f"{day} {at}" for day, at in zip(columns[name], columns[clock], strict=True)]
    joined = [f"{day} {at}" for day in days for at in formats[:1]]
    return _by_format(2, {"column": name, "clock": clock}, texts, joined, LOCAL)


def _by_format(
    rank: int, section: dict[str, str], texts: list[str], formats: list[str], note: str
) -> FoundTime:
    """The reading with the format that orders the rows best; asks if two do so equally."""
    orders = [_order(texts, each) for each in formats]
    best = min(range(len(formats)), key=lambda index: (orders[index].falls, orders[index].days))
    rivals = [
        formats[index]
        for index, order in enumerate(orders)
        if index != best
        and order.falls == orders[best].falls
        and order.days < MUCH_LONGER * orders[best].days
    ]
    if rivals:  # FORMATS has the day first
        best = min(best, formats.index(rivals[0]))
        other = next(each for each in (formats[best], *rivals) if each != formats[best])
        note = f"it may also be {other}: is the day first?"
    elif len(formats) > 1:
        note = f"day and month by the order of the rows; {note}"
    chosen = {} if formats[best] == DAY else {"format": formats[best]}
    return FoundTime(section | chosen, note, orders[best].falls == 0, rank)


class _Order(NamedTuple):
    falls: int  # rows that are earlier than the row before
    days: int  # from the first to the last time


def _order(texts: Sequence[str], time_format: str) -> _Order:
    parsed = (parse_time(text, time_format) for text in texts)
    moments = [moment for moment in parsed if moment is not None]
    falls = sum(earlier > later for earlier, later in itertools.pairwise(moments))
    return _Order(falls, (max(moments) - min(moments)).days if moments else 0)


def _time_unit(values: list[Any]) -> str | None:
    """The unit of a column of times: iso, s, ms, us or ns; None if they are no times."""
    if not values:
        return None
    if most(lambda value: isinstance(value, date) or iso(value) is not None, values):
        return "iso"
    if not most(is_plain_number, values):
        return None
    median = statistics.median(_float(value) for value in values if is_plain_number(value))
    # From 2001 to 2100.
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)):
        if 1e9 * factor <= median < 4.1e9 * factor:
            return unit
    return None


def iso(value: Any) -> datetime | None:
    """A text in ISO 8601 with a time of day; None if it is none."""
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", value):
        return None
    try:
        return datetime.fromisoformat(value.removesuffix(" UTC"))
    except ValueError:
        return None


def _has_zone(value: Any) -> bool:
    moment = value if isinstance(value, datetime) else iso(value)
    return moment is not None and moment.tzinfo is not None


def is_plain_number(value: Any) -> bool:
    return not isinstance(value, bool) and _float(value) is not None


def _float(value: Any) -> float | None:
    return finite(str(value)) if isinstance(value, (str, int, float)) else None


def most(is_expected: Callable[[Any], bool], values: list[Any]) -> bool:
    """Whether nearly all values are as expected; the job rejects the events of the others."""
    there = present(values)
    return sum(map(is_expected, there)) >= MOST_SHARE * len(there)


def present(values: list[Any]) -> list[Any]:
    return [value for value in values if value is not None and value != ""]
