"""Numbers and times as people write them in files."""

import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime, tzinfo
from typing import Any

# Spaces between thousands may be of three kinds.
_GROUP = "[ \u00a0\u202f'’]"
# Dots between thousands are optional. 12.50 is no number here: its dot would be lost.
_COMMA_NUMBER = re.compile(rf"-?(\d+|\d{{1,3}}(\.\d{{3}})+|\d{{1,3}}({_GROUP}\d{{3}})+)(,\d+)?")
# 1,234 is no number here: its comma may be a decimal mark.
_GROUPED_NUMBER = re.compile(rf"-?(\d{{1,3}}(,\d{{3}})+\.\d+|\d{{1,3}}({_GROUP}\d{{3}})+(\.\d+)?)")
_CURRENCY = (
    r"[€$£¥₩₪₫₱₴₸₹₺₽]|R\$|zł|Kč|kr\.?|Ft|lei|Fr\.|EUR|USD|GBP|CHF|PLN|CZK|SEK|NOK|DKK|HUF|RON|BGN"
    r"|TRY|UAH|JPY|CNY|INR|BRL|MXN|CAD|AUD|NZD|ZAR"
)
_CURRENCY_OF = re.compile(rf"-?\s*(?P<first>{_CURRENCY})?.*?(?P<last>{_CURRENCY})?", re.DOTALL)
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = "%Y-%m-%d"


def number_of(text: str, decimal: str, currency: str = "") -> float | None:
    """The number in a text with this decimal mark; None if it is none.

    currency: may stand before or after the number. Another one makes it no number.
    """
    text = text.strip()
    if currency:  # -$5, $-5 and 5 $ become -5, -5 and 5
        sign = "-" if text.startswith("-") else ""
        rest = text.removeprefix("-").strip()
        rest = rest.removeprefix(currency) if rest.startswith(currency) else rest
        text = sign + rest.removesuffix(currency).strip()
    if decimal == ",":
        if not _COMMA_NUMBER.fullmatch(text):
            return None
        text = re.sub(rf"\.|{_GROUP}", "", text).replace(",", ".")
    elif _GROUPED_NUMBER.fullmatch(text):
        text = re.sub(rf",|{_GROUP}", "", text)
    return finite(text)


def currency_of(texts: Iterable[str]) -> str:
    """The currency that most of the texts begin or end with; "" if most have none."""
    found: Counter[str] = Counter()
    for text in texts:
        match = _CURRENCY_OF.fullmatch(text.strip())
        found[match["first"] or match["last"] or "" if match else ""] += 1
    return found.most_common(1)[0][0] if found else ""


def finite(text: str | None) -> float | None:
    """A number of Python's form; None if it is none, or infinite."""
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and abs(value) < float("inf") else None


def time_ms(value: Any, unit: str, time_format: str, zone: tzinfo) -> int | None:
    """A time of a file in epoch milliseconds, rounded down; None if the value is none.

    value: a text, a number, a date or a datetime. unit, time_format: as in a mapping, but `day`
    with a format. zone: of times without one.
    """
    if isinstance(value, str):
        if time_format:
            value = _parsed(value, time_format)
        elif unit == "iso":
            value = iso(re.sub(" UTC$", "+00:00", value))
        else:
            value = int(value) if re.fullmatch(r"-?\d{1,20}", value) else finite(value)
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        delta = (value if value.tzinfo else value.replace(tzinfo=zone)) - _EPOCH
        return (delta.days * 86_400 + delta.seconds) * 1_000 + delta.microseconds // 1_000
    if isinstance(value, int | float) and unit in _PER_SECOND and abs(value) < 1e21:
        time = value * 1_000 // _PER_SECOND[unit]
        return int(time) if abs(time) < 1e15 else None
    return None


def iso(text: str) -> datetime | None:
    """A text in ISO 8601 with a time of day; None if it is none."""
    if not re.match(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", text):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def check_format(text: str, day_only: bool = False) -> str:
    """Returns a format of strptime that tells day and time, or just the day. Raises ValueError."""
    example = datetime(2026, 11, 26, 13, 5)
    expected = example.replace(hour=0, minute=0) if day_only else example
    try:
        found = datetime.strptime(example.strftime(text), text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no format such as %d.%m.%Y %H:%M:%S: {error}") from None
    if found.replace(tzinfo=None) != expected:
        parts = "just the day" if day_only else "day and time"
        raise ValueError(f'{text!r} does not tell {parts} (unit = "day" for days only)')
    return text


def _parsed(text: str, time_format: str) -> datetime | None:
    try:
        return datetime.strptime(text.strip(), time_format)
    except ValueError:
        return None
