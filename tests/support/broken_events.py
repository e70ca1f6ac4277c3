"""Ways to break a valid event, by the reason each must be rejected for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
Break = tuple[str, Callable[[Event], bytes | None]]  # a name, and what makes the payload

FUTURE_MS = 4_070_908_800_000  # 2099-01-01: later than any Kafka timestamp of a test


def _json(event: Event) -> bytes:
    return json.dumps(event).encode("utf-8")


def _with(**fields: Any) -> Callable[[Event], bytes]:
    return lambda event: _json(event | fields)


def _without(field: str) -> Callable[[Event], bytes]:
    return lambda event: _json({name: value for name, value in event.items() if name != field})


def _raw(ends_with: bytes) -> Callable[[Event], bytes]:
    """The event with one more member, written as given."""
    return lambda event: _json(event)[:-1] + b', "text": ' + ends_with


def _constant(value: bytes | None) -> Callable[[Event], bytes | None]:
    return lambda event: value


def _padded(filler: str) -> Callable[[Event], bytes]:
    """One character more than the default limit."""

    def pad(event: Event) -> bytes:
        short = len(json.dumps(event | {"text": ""}))
        whole = json.dumps(event | {"text": filler * (65_537 - short)}, ensure_ascii=False)
        # Texts that json.dumps wrote as escapes above may now be shorter.
        return (whole + " " * (65_537 - len(whole))).encode("utf-8")

    return pad


BREAKS: dict[str, list[Break]] = {
    "TOO_LARGE": [("65,537 characters", _padded("x")), ("of two bytes", _padded("ü"))],
    "BAD_ENCODING": [
        ("a byte that UTF-8 has not", _raw(b'"\xff"}')),
        ("half a character", _raw(b'"\xe5\x90"}')),
        ("an overlong form", _raw(b'"\xc0\xaf"}')),
        ("a surrogate as bytes", _raw(b'"\xed\xa0\x80"}')),
        ("a high surrogate alone", _raw(b'"\\ud800"}')),
        ("a low surrogate alone", _raw(b'"\\uDC00"}')),
        ("surrogates the wrong way round", _raw(b'"\\udc00\\ud800"}')),
        ("a high surrogate before a letter", _raw(b'"\\ud83dx\\ude00"}')),
        ("a lone surrogate after a backslash", _raw(b'"\\\\\\ud800"}')),
    ],
    "NOT_JSON": [
        ("a tombstone", _constant(None)),
        ("nothing", _constant(b"")),
        ("cut short", lambda event: _json(event)[:-1]),
        ("a list", lambda event: b"[" + _json(event) + b"]"),
        ("a number", _constant(b"17")),
        ("null", _constant(b"null")),
        ("plain text", _constant(b"hello")),
        ("NaN", _raw(b"NaN}")),
        ("a control character in a string", _raw(b'"a\nb"}')),
        ("single quotes", _raw(b"'a'}")),
        ("a comma too much", _raw(b'"a",}')),
    ],
    "MISSING_FIELD": [
        ("no event_id", _without("event_id")),
        ("event_id null", _with(event_id=None)),
        ("event_id empty", _with(event_id="")),
        ("event_id an object", _with(event_id={"id": 1})),
        ("no user_id", _without("user_id")),
        ("user_id a list", _with(user_id=["u"])),
        ("no event_type", _without("event_type")),
        ("event_type null", _with(event_type=None)),
        ("no event_time", _without("event_time")),
        ("event_time empty", _with(event_time="")),
        ("event_id and event_time missing", _with(event_id=None, event_time=None)),
    ],
    "BAD_ID": [
        ("event_id of 257 characters", _with(event_id="e" * 257)),
        ("user_id of 257 characters", _with(user_id="ü" * 257)),
        ("NUL in event_id", _with(event_id="a\x00b")),
        ("a unit separator in event_id", _with(event_id="a\x1fb")),
        ("a line end in user_id", _with(user_id="u1\n")),
        ("a group separator in user_id", _with(user_id="\x1d")),
    ],
    "UNKNOWN_TYPE": [
        ("another word", _with(event_type="buy")),
        ("capitals", _with(event_type="VIEW")),
        ("a space", _with(event_type="view ")),
        ("a number", _with(event_type=3)),
        ("true", _with(event_type=True)),
    ],
    "BAD_TIME": [
        ("a word", _with(event_time="yesterday")),
        ("negative", _with(event_time=-1)),
        ("a fraction", _with(event_time=1.5)),
        ("true", _with(event_time=True)),
        ("before 2000", _with(event_time="1999-12-31T23:59:59.999Z")),
        ("seconds", _with(event_time=1_700_000_000)),
        ("16 digits", _with(event_time="1700000000000000")),
        ("February 30", _with(event_time="2023-02-30T10:00:00Z")),
        ("hour 25", _with(event_time="2023-11-14T25:00:00Z")),
        ("minute 60", _with(event_time="2023-11-14T10:60:00Z")),
        ("a date alone", _with(event_time="2023-11-14")),
        ("a named zone", _with(event_time="2023-11-14T10:00:00 CET")),
        ("a space behind", _with(event_time="2023-11-14T10:00:00Z ")),
    ],
    "FUTURE_TIME": [
        ("2099 in milliseconds", _with(event_time=FUTURE_MS)),
        ("2099 as ISO", _with(event_time="2099-01-01T00:00:00+01:00")),
        ("microseconds", _with(event_time="999999999999999")),
    ],
    "BAD_NUMBER": [
        ("a negative price", _with(price=-0.01)),
        ("a word as price", _with(price="free")),
        ("an empty price", _with(price="")),
        ("a price with a comma", _with(price="1,5")),
        ("a price with a space", _with(price=" 1")),
        ("a price without a last digit", _with(price="1.")),
        ("a list as price", _with(price=[1])),
        ("true as price", _with(price=True)),
        ("NaN as text", _with(price="NaN")),
        ("a negative quantity", _with(price=1, quantity="-1")),
        ("an object as amount", _with(amount={"value": 1}, price=None, quantity=None)),
        ("an amount beyond 1e9", _with(amount=1_000_000_001, price=None, quantity=None)),
        ("an amount beyond doubles", _with(amount="-1e400", price=None, quantity=None)),
        ("a rating as word", _with(rating="good")),
        ("a latitude of 91", _with(place={"lat": 91, "lon": 0})),
        ("a longitude of -180.5", _with(place={"lat": 0, "lon": -180.5})),
    ],
}
