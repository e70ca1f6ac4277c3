"""Numbers and times as people read them."""

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

EMPTY = "–"


def utc(time_ms: int | None) -> str:
    """Epoch milliseconds as 2017-11-26 01:05:00; a dash for None."""
    if time_ms is None:
        return EMPTY
    return datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def number(value: float | None, decimals: int = 2) -> str:
    """At most so many decimals: 1,234.5; a dash for None and NaN."""
    if value is None or not math.isfinite(value):
        return EMPTY
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def money(value: float | None) -> str:
    """With two decimals: 36.20; a dash for None and NaN."""
    return EMPTY if value is None or not math.isfinite(value) else f"{value:,.2f}"


def plural(value: float, unit: str) -> str:
    """1 day, 1.5 days."""
    text = number(value, 1)
    return f"{text} {unit}" if text == "1" else f"{text} {unit}s"


def share(value: float | None) -> str:
    """A share or probability in percent; a dash for None and NaN."""
    if value is None or not math.isfinite(value):
        return EMPTY
    percent = 100 * value
    return "< 1 %" if 0 < percent < 1 else f"{percent:.0f} %"


def points(value: float | None) -> str:
    """A difference of shares in percentage points; a dash for None."""
    return EMPTY if value is None else f"{number(100 * value, 1)} points"


def words(name: str) -> str:
    """An identifier as words: step_up_verification as step up verification."""
    return name.replace("_", " ").lower()


def listed(parts: list[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def sentence(text: str) -> str:
    """The text of an error, which has neither a capital letter nor a full stop, as a sentence."""
    return text[:1].upper() + text[1:].removesuffix(".") + "." if text else ""


MAX_LIST_ITEMS = 8
FACT_DECIMALS = 6


def facts(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The values of a document with their names, nested ones after the name of their group."""
    for key, value in values.items():
        name = f"{prefix}{words(key)}"
        if isinstance(value, Mapping):
            yield from facts(value, f"{name}, ")
        else:
            yield name, written(value, FACT_DECIMALS)


def written(value: object, decimals: int = 2) -> str:
    """A value of a document: numbers as `number` writes them, the first items of a list."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return number(value, decimals)
        case list() | tuple():
            shown = ", ".join(written(each, decimals) for each in value[:MAX_LIST_ITEMS])
            rest = len(value) - MAX_LIST_ITEMS
            return f"{shown} and {rest} more" if rest > 0 else shown or "none"
    return EMPTY if value is None else str(value)
