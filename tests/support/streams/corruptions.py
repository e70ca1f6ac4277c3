"""Corruptions of a valid event, by the reason for which validation must reject the result."""

import json
from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
Corruption = tuple[str, Callable[[Event], bytes | None]]  # name, function to the payload

FUTURE_MS = 4_070_908_800_000  # 2099-01-01, after every Kafka timestamp of the tests


def _json(event: Event) -> bytes:
    return json.dumps(event).encode("utf-8")


def _with(**fields: Any) -> Callable[[Event], bytes]:
    return lambda event: _json(event | fields)


def _without(field: str) -> Callable[[Event], bytes]:
    return lambda event: _json({name: value for name, value in event.items() if name != field})


def _raw(ends_with: bytes) -> Callable[[Event], bytes]:
    """Appends a member whose value, and the rest of the payload, is `ends_with`."""
    return lambda event: _json(event)[:-1] + b', "text": ' + ends_with


def _constant(value: bytes | None) -> Callable[[Event], bytes | None]:
    return lambda event: value


def _padded(filler: str) -> Callable[[Event], bytes]:
    """Pads the payload to one character more than the default limit."""

    def pad(event: Event) -> bytes:
        short = len(json.dumps(event | {"text": ""}))
        whole = json.dumps(event | {"text": filler * (65_537 - short)}, ensure_ascii=False)
        # Without ASCII escapes some strings are shorter than above: fill up with spaces.
        return (whole + " " * (65_537 - len(whole))).encode("utf-8")

    return pad


CORRUPTIONS: dict[str, list[Corruption]] = {
    "TOO_LARGE": [
        ("65,537 characters", _padded("x")),
        ("65,537 two-byte characters", _padded("ü")),
    ],
    "BAD_ENCODING": [
        ("a byte that is invalid in UTF-8", _raw(b'"\xff"}')),
        ("a truncated character", _raw(b'"\xe5\x90"}')),
        ("an overlong encoding", _raw(b'"\xc0\xaf"}')),
        ("an encoded surrogate", _raw(b'"\xed\xa0\x80"}')),
        ("a lone high surrogate", _raw(b'"\\ud800"}')),
        ("a lone low surrogate", _raw(b'"\\uDC00"}')),
        ("surrogates in the wrong order", _raw(b'"\\udc00\\ud800"}')),
        ("a high surrogate before a letter", _raw(b'"\\ud83dx\\ude00"}')),
        ("a lone surrogate after a backslash", _raw(b'"\\\\\\ud800"}')),
    ],
    "NOT_JSON": [
        ("a tombstone", _constant(None)),
        ("an empty payload", _constant(b"")),
        ("truncated JSON", lambda event: _json(event)[:-1]),
        ("a list", lambda event: b"[" + _json(event) + b"]"),
        ("a number", _constant(b"17")),
        ("null", _constant(b"null")),
        ("plain text", _constant(b"hello")),
        ("NaN", _raw(b"NaN}")),
        ("a control character in a string", _raw(b'"a\nb"}')),
        ("single quotes", _raw(b"'a'}")),
        ("a trailing comma", _raw(b'"a",}')),
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
        ("a line feed in user_id", _with(user_id="u1\n")),
        ("a group separator in user_id", _with(user_id="\x1d")),
        ("a C1 control character in user_id", _with(user_id="u\x85")),
        ("text from right to left in event_id", _with(event_id="\u202ee1")),
    ],
    "UNKNOWN_TYPE": [
        ("an unknown type", _with(event_type="buy")),
        ("upper case", _with(event_type="VIEW")),
        ("a trailing space", _with(event_type="view ")),
        ("a number", _with(event_type=3)),
        ("true", _with(event_type=True)),
    ],
    "BAD_TIME": [
        ("a word", _with(event_time="yesterday")),
        ("negative", _with(event_time=-1)),
        ("a fraction", _with(event_time=1.5)),
        ("true", _with(event_time=True)),
        ("before 2000", _with(event_time="1999-12-31T23:59:59.999Z")),
        ("epoch seconds", _with(event_time=1_700_000_000)),
        ("16 digits", _with(event_time="1700000000000000")),
        ("February 30", _with(event_time="2023-02-30T10:00:00Z")),
        ("hour 25", _with(event_time="2023-11-14T25:00:00Z")),
        ("minute 60", _with(event_time="2023-11-14T10:60:00Z")),
        ("a date without a time", _with(event_time="2023-11-14")),
        ("a named time zone", _with(event_time="2023-11-14T10:00:00 CET")),
        ("a space at the end", _with(event_time="2023-11-14T10:00:00Z ")),
    ],
    "FUTURE_TIME": [
        ("2099 in milliseconds", _with(event_time=FUTURE_MS)),
        ("2099 in ISO 8601", _with(event_time="2099-01-01T00:00:00+01:00")),
        ("epoch microseconds", _with(event_time="999999999999999")),
    ],
    "BAD_NUMBER": [
        ("a negative price", _with(price=-0.01)),
        ("a word as price", _with(price="free")),
        ("an empty price", _with(price="")),
        ("a price with a comma", _with(price="1,5")),
        ("a price with a space", _with(price=" 1")),
        ("a price that ends in a point", _with(price="1.")),
        ("a list as price", _with(price=[1])),
        ("true as price", _with(price=True)),
        ("NaN as text", _with(price="NaN")),
        ("a negative quantity", _with(price=1, quantity="-1")),
        ("an object as amount", _with(amount={"value": 1}, price=None, quantity=None)),
        ("an amount above 1e9", _with(amount=1_000_000_001, price=None, quantity=None)),
        (
            "an amount outside the range of doubles",
            _with(amount="-1e400", price=None, quantity=None),
        ),
        ("a word as rating", _with(rating="good")),
        ("a latitude of 91", _with(place={"lat": 91, "lon": 0})),
        ("a longitude of -180.5", _with(place={"lat": 0, "lon": -180.5})),
    ],
}
