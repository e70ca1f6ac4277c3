"""Values of options that the commands of this folder share."""

from __future__ import annotations

import re

from liveprofile.errors import InputError
from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS

_UNITS_MS = {"m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}


def span_ms(option: str, text: str) -> int:
    """Milliseconds of a span such as 30m, 48h or 14d. Raises InputError."""
    match = re.fullmatch(r"(\d{1,5})([mhd])", text)
    if not match or not int(match[1]):
        raise InputError(
            f"{option} {text!r}: not a number of minutes, hours or days such as 30m, 48h or 14d"
        )
    return int(match[1]) * _UNITS_MS[match[2]]


def event_types(option: str, text: str, at_least: int = 1) -> list[str]:
    """Event types separated by commas. Raises InputError."""
    from liveprofile.wire.tokens import EVENT_TYPES

    names = text.split(",")
    for name in names:
        if name not in EVENT_TYPES:
            raise InputError(f"{option} {name!r}: not one of {', '.join(EVENT_TYPES)}")
    if len(names) < at_least:
        raise InputError(f"{option} {text!r}: give {at_least} or more, separated by commas")
    return names
