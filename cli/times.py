"""Parses the times and durations that are given to options."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from liveprofile.errors import InputError
from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS

UNITS_MS = {"m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}


def parse_duration_ms(text: str, option: str) -> int:
    """Parses a duration such as 30m, 8h or 3d, of at least a minute. Raises InputError."""
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if not match or not int(match[1]):
        raise InputError(f"{option} {text!r}: not a number above 0 with m, h or d, such as 8h")
    return int(match[1]) * UNITS_MS[match[2]]


def parse_since_ms(text: str, option: str = "--since") -> int:
    """Parses a duration before now, an ISO time (UTC if it has no zone) or epoch milliseconds.

    Returns epoch milliseconds. Raises InputError.
    """
    if re.fullmatch(r"\d{1,6}[mhd]", text):
        return time.time_ns() // 1_000_000 - parse_duration_ms(text, option)
    if re.fullmatch(r"\d{9,15}", text):
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
        return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1_000)
    except (ValueError, OverflowError):
        raise InputError(
            f"{option} {text!r}: neither a duration such as 30m, 2h or 7d, nor a time such as"
            " 2026-11-26T01:00, nor epoch milliseconds"
        ) from None


AtOption = Annotated[
    int | None,
    typer.Option(
        "--at",
        metavar="TIME",
        help="Churn and spend at this time instead of now: 7d ago, or a time such as 2026-11-26.",
        parser=lambda text: parse_since_ms(text, "--at"),
        show_default=False,
    ),
]
SinceOption = Annotated[
    int | None,
    typer.Option(
        "--since",
        metavar="TIME",
        help="Only since then: 30m, 2h or 7d ago, or a time (UTC) such as 2026-11-26,"
        " 2026-11-26T01:00 or epoch milliseconds.",
        parser=parse_since_ms,
        show_default=False,
    ),
]
