"""Seeded streams: faults injected into real data, and poison that must not stop the job."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from liveprofile.units import DAY_MS
from tests.support.broken_events import BREAKS

# What `mixed` breaks: every reason, and NOT_JSON in two ways.
BROKEN_KINDS = (
    # reason, name in tests.support.broken_events.BREAKS
    ("TOO_LARGE", "65,537 characters"),
    ("BAD_ENCODING", "a byte that UTF-8 has not"),
    ("NOT_JSON", "cut short"),
    ("NOT_JSON", "a tombstone"),
    ("MISSING_FIELD", "no user_id"),
    ("BAD_ID", "NUL in event_id"),
    ("UNKNOWN_TYPE", "another word"),
    ("BAD_TIME", "February 30"),
    ("FUTURE_TIME", "2099 in milliseconds"),
    ("BAD_NUMBER", "a negative price"),
)
# Duplicates follow their original within this many records, as a producer's retries do.
DUPLICATE_WITHIN = 1_000
# Late events come only after this share of the stream, when every partition's time has moved on.
LATE_AFTER = 0.2


class Message(NamedTuple):
    key: bytes | None
    value: bytes | None


@dataclass
class Mixed:
    """Messages in sending order, and the indexes of the injected ones by kind."""

    messages: list[Message] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    broken: dict[str, list[int]] = field(default_factory=dict)  # by reason

    @property
    def injected(self) -> int:
        return len(self.duplicates) + len(self.late) + sum(map(len, self.broken.values()))


def mixed(
    events: Iterable[dict[str, Any]],
    seed: int,
    duplicates: float = 0.01,
    late: float = 0.01,
    broken: float = 0.01,
    late_by_ms: int = 10 * DAY_MS,
) -> Mixed:
    """Valid `events` (event_time in milliseconds, in order of time) and about the given shares of
    exact copies, of events far behind the stream and of broken ones, all keyed by the event's user.

    Copies come after their original; late and broken ones have event_ids of their own.
    """
    rng = random.Random(seed)
    originals = list(events)
    breakers = [(reason, _breaker(reason, name)) for reason, name in BROKEN_KINDS]
    result = Mixed()
    pending: dict[int, list[Message]] = {}  # copies by the index of the event they follow
    for index, event in enumerate(originals):
        message = Message(_key(event), _json(event))
        result.messages.append(message)
        if rng.random() < duplicates:
            follows = min(index + rng.randrange(DUPLICATE_WITHIN), len(originals) - 1)
            pending.setdefault(follows, []).append(message)
        for copy in pending.pop(index, ()):
            result.duplicates.append(len(result.messages))
            result.messages.append(copy)
        if rng.random() < late / (1 - LATE_AFTER) and index >= LATE_AFTER * len(originals):
            behind = {
                "event_id": f"late-{seed}-{index}",
                "event_time": event["event_time"] - late_by_ms,
            }
            result.late.append(len(result.messages))
            result.messages.append(Message(_key(event), _json(event | behind)))
        if rng.random() < broken:
            reason, breaker = breakers[rng.randrange(len(breakers))]
            value = breaker(event | {"event_id": f"broken-{seed}-{index}"})
            result.broken.setdefault(reason, []).append(len(result.messages))
            result.messages.append(Message(_key(event), value))
    return result


def _breaker(reason: str, name: str) -> Callable[[dict[str, Any]], bytes | None]:
    return dict(BREAKS[reason])[name]


def _key(event: dict[str, Any]) -> bytes:
    return str(event["user_id"]).encode("utf-8")


def _json(event: dict[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


# --- poison -----------------------------------------------------------------------------------

# With {id}, {user} and {time} filled in. Some are valid, most must be rejected.
_POISON_TEXTS = (
    # separators of packed state, escaped and raw, where text is kept
    r'{"event_id":"{id}\u001d\u001e\u001f","user_id":"{user}","event_type":"view","event_time":{time}}',
    r'{"event_id":"{id}","user_id":"\u001f{user}","event_type":"view","event_time":{time}}',
    r'{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time},"item_id":"a\u001fb\u001ec","category_id":"\u001d"}',
    '{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time},"item_id":"a\x1fb"}',
    r'{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time},"item_id":"\u0000","category_id":"\u0000"}',
    r'{"event_id":"{id}\u0000","user_id":"{user}","event_type":"view","event_time":{time}}',
    # escapes
    r'{"event_id":"{id}","user_id":"{user}","event_type":"\u0076iew","event_time":{time}}',
    r'{"event_id":"{id}\ud83d\ude00","user_id":"{user}","event_type":"view","event_time":{time}}',
    r'{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time},"text":"\\ud800"}',
    r'{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time},"text":"\ud800"}',
    r'{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time},"\udfff":1}',
    # keys that come twice, odd keys
    '{"event_id":"x","event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time}}',
    '{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time},"":1,"$.price":-1,"a.b[0]":2}',
    r'{"event\u005fid":"{id}","user_id":"{user}","event_type":"view","event_time":{time}}',
    # numbers
    '{"event_id":"{id}","user_id":"{user}","event_type":"purchase","event_time":{time},"price":1e400}',
    '{"event_id":"{id}","user_id":"{user}","event_type":"purchase","event_time":{time},"price":NaN}',
    '{"event_id":"{id}","user_id":"{user}","event_type":"purchase","event_time":{time},"price":-Infinity}',
    '{"event_id":"{id}","user_id":"{user}","event_type":"purchase","event_time":{time},"amount":"Infinity"}',
    '{"event_id":"{id}","user_id":"{user}","event_type":"purchase","event_time":{time},"price":1e-400,"quantity":-0}',
    '{"event_id":"{id}","user_id":"{user}","event_type":"purchase","event_time":{time},"price":1000000000,"quantity":1000000000}',
    '{"event_id":"{id}","user_id":"{user}","event_type":"purchase","event_time":{time},"price":0x10}',
    '{"event_id":"{id}","user_id":"{user}","event_type":"purchase","event_time":{time},"extra":123456789012345678901234567890}',
    '{"event_id":123456789012345678901234567890,"user_id":-0,"event_type":"view","event_time":{time}}',
    '{"event_id":true,"user_id":1.5,"event_type":"view","event_time":{time}}',
    '{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":1e12}',
    '{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":99999999999999999999}',
    '{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":"0000-00-00T00:00:00Z"}',
    '{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":"2023-11-14T10:00:00+99:99"}',
    # shapes
    '\ufeff{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time}}',
    '{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time}} trailing',
    '{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time}}{"event_id":"y"}',
    '{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time}}\x00',
    '{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time}}\x1e',
    '{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time}}\x1e1\x1f2',
    '{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time}}\x1f\x1f\x1e\x1d',
    '{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time}}\x1d',
    '{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time},"place":[1,2],"tags":{},"attributes":[]}',
    '{"event_id":["{id}"],"user_id":{"a":1},"event_type":[],"event_time":{}}',
    '{"event_type":"heartbeat"}',
    '{"event_type":"heartbeat","event_time":{time},"event_id":{},"user_id":[]}',
    '[]', '{}', '""', '"{id}"', 'true', '-', '{', '}', '[[[[', '{"a"', '\\', '/**/{}',
)  # fmt: skip


def _random_bytes(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 300))


def _flipped(rng: random.Random) -> bytes:
    value = bytearray(_event(rng, "text", '"abc"'))
    for _ in range(rng.randrange(1, 4)):
        value[rng.randrange(len(value))] = rng.randrange(256)
    return bytes(value)


def _event(rng: random.Random, name: str, value: str) -> bytes:
    text = '{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time},"%s":%s}'
    return _filled(rng, text % (name, value))


def _filled(rng: random.Random, text: str) -> bytes:
    for place, value in (
        ("{id}", f"poison-{rng.getrandbits(64):016x}"),
        ("{user}", f"poisoned-{rng.randrange(5)}"),
        ("{time}", str(1_700_000_000_000 + rng.randrange(DAY_MS))),
    ):
        text = text.replace(place, value)
    return text.encode("utf-8")


def _nested(rng: random.Random) -> bytes:
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
    depth = rng.choice((200, 900, 1_100, 5_000, 10_000))
    return _event(rng, "attributes", opening * depth + "1" + closing * depth)


def _unclosed(rng: random.Random) -> bytes:
    return b"[" * rng.choice((100, 1_000, 60_000))


def _long_string(rng: random.Random) -> bytes:
    name = rng.choice(("text", "item_id", "category_id", "session_id", "tags"))
    text = rng.choice("x√") * 10_000 if name == "tags" else "x" * 60_000
    return _event(rng, name, json.dumps(text))


def _long_number(rng: random.Random) -> bytes:
    digits = "9" * rng.choice((20, 400, 999, 1_001, 5_000))
    return _event(rng, rng.choice(("price", "rating", "item_id", "extra")), digits)


def _many_fields(rng: random.Random) -> bytes:
    return _event(rng, "a", "1," + ",".join(f'"f{index}":{index}' for index in range(4_000)))


_POISON_MAKERS: tuple[Callable[[random.Random], bytes], ...] = (
    _random_bytes, _flipped, _nested, _unclosed, _long_string, _long_number, _many_fields,
)  # fmt: skip


def poison(n: int, seed: int) -> list[Message]:
    """`n` payloads of which none may stop the job; each kind comes about equally often."""
    rng = random.Random(seed)
    kinds: list[Callable[[random.Random], bytes]] = [
        lambda rng, text=text: _filled(rng, text) for text in _POISON_TEXTS
    ]
    kinds += _POISON_MAKERS
    order = [kinds[index % len(kinds)] for index in range(n)]
    rng.shuffle(order)
    return [Message(rng.choice((None, b"poisoned-1", b"\xff\x00")), kind(rng)) for kind in order]


# --- the same fields, written in many ways ------------------------------------------------------

_WRITTEN = {
    "event_id": ('"{id}"', "12", "true", "null", "{}", r'"\u0069{id}"', '"{id}}"'),
    "user_id": ('"{user}"', '"{user}"', "7", '""', '["{user}"]', '"event_time"'),
    "event_type": ('"view"', '"purchase"', '"purchase"', '"login"', '"heartbeat"', '"odd"'),
    "event_time": (
        "{time}", "{time}", '"{time}"', '"2023-11-14T22:20:00Z"', '"2023-11-14 22:20"', "-5",
        '"+{time}"', '" {time}"', '"{time}.0"', "{time}.5", "17000064000491234567", "5.0", '""',
    ),
    "item_id": ('"i-1"', '"user_id"', '"T"', "31", '"a}"', '"\ufffd"', r'"\""'),
    "category_id": ('"c"', '""', "null", "1.5", '"price"'),
    "price": ("31.54", "0", "31.50", "-1", "007", "1e3", "1234567890", '"5"', "null", "{}"),
    "amount": ("12.5", "-3", '"4"', "1e2", "{}"),
    "quantity": ("2", "0.1234567", "1e400", "[]"),
    "rating": ("4.5", "-1e9", '"1000000000"', "1000000001", "-1.1e9", "true"),
    "place": ('{"lat":1.5,"lon":2}', '{"lat":"x","lon":2}', "null"),
    "attributes": ('{"user_id":"n","event_time":5,"price":"x"}', '{"a":{"b":1},"amount":1}'),
    "tags": ('["user_id","b"]', '[{"event_id":"z"}]', "[1]"),
}  # fmt: skip
_BETWEEN = ((",", ":"), (",", ":"), (", ", ": "), ("\t,", " :"))


def written_anyhow(n: int, seed: int) -> list[Message]:
    """`n` payloads with few or many fields, in any order, some of them twice, some damaged."""
    rng = random.Random(seed)
    required, optional = list(_WRITTEN)[:4], list(_WRITTEN)[4:]
    messages = []
    for number in range(n):
        names = required + rng.sample(optional, rng.randrange(5))
        if rng.random() < 0.2:
            names.append(rng.choice(names))
        rng.shuffle(names)
        comma, colon = rng.choice(_BETWEEN)
        # The first way of each field is the usual one: else hardly any payload would be valid.
        values = [_WRITTEN[name][rng.random() < 0.2 and rng.randrange(1, len(_WRITTEN[name]))]
                  for name in names]  # fmt: skip
        fields = zip(names, values, strict=True)
        text = "{" + comma.join(f'"{name}"{colon}{value}' for name, value in fields) + "}"
        text = text.replace("{time}", str(1_700_000_000_000 + number * 4_000))
        if rng.random() < 0.1:
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice(("", '"', "}", "{", ",", " ", "\x02")) + text[at + 1 :]
        messages.append(Message(None, _filled(rng, text)))
    return messages
