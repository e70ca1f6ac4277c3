"""Seeded streams: events with injected faults, poison messages, and odd but readable payloads."""

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from liveprofile.units import DAY_MS
from tests.support.streams.corruptions import CORRUPTIONS

# The corruptions that `with_faults` injects: every reason, and two for NOT_JSON.
INJECTED_CORRUPTIONS = (
    # reason, name in tests.support.streams.corruptions.CORRUPTIONS
    ("TOO_LARGE", "65,537 characters"),
    ("BAD_ENCODING", "a byte that is invalid in UTF-8"),
    ("NOT_JSON", "truncated JSON"),
    ("NOT_JSON", "a tombstone"),
    ("MISSING_FIELD", "no user_id"),
    ("BAD_ID", "NUL in event_id"),
    ("UNKNOWN_TYPE", "an unknown type"),
    ("BAD_TIME", "February 30"),
    ("FUTURE_TIME", "2099 in milliseconds"),
    ("BAD_NUMBER", "a negative price"),
)
# Duplicates follow their original within this many events, as a producer's retries do.
DUPLICATE_WITHIN = 1_000
# Late events are injected after this share of the stream: by then every partition's watermark has
# advanced.
LATE_AFTER = 0.2


class Message(NamedTuple):
    key: bytes | None
    value: bytes | None


@dataclass
class StreamWithFaults:
    """Messages in sending order, and the indexes of the injected ones."""

    messages: list[Message] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    broken: dict[str, list[int]] = field(default_factory=dict)  # by reason


def with_faults(
    events: Iterable[dict[str, Any]],
    seed: int,
    duplicates: float = 0.01,
    late: float = 0.01,
    broken: float = 0.01,
    late_by_ms: int = 10 * DAY_MS,
) -> StreamWithFaults:
    """Injects about the given shares of duplicates, late events and broken events.

    `events` are valid, in time order, with event_time in milliseconds. A duplicate is an exact copy
    that follows its original. A late event is `late_by_ms` behind the stream. Late and broken
    events have event_ids of their own. Every message is keyed by its user.
    """
    rng = random.Random(seed)
    originals = list(events)
    corruptions = [(reason, _corruption(reason, name)) for reason, name in INJECTED_CORRUPTIONS]
    result = StreamWithFaults()
    pending: dict[int, list[Message]] = {}  # duplicates by the index of the event they follow
    for index, event in enumerate(originals):
        message = Message(_key(event), _json(event))
        result.messages.append(message)
        if rng.random() < duplicates:
            follows = min(index + rng.randrange(DUPLICATE_WITHIN), len(originals) - 1)
            pending.setdefault(follows, []).append(message)
        for duplicate in pending.pop(index, ()):
            result.duplicates.append(len(result.messages))
            result.messages.append(duplicate)
        if rng.random() < late / (1 - LATE_AFTER) and index >= LATE_AFTER * len(originals):
            late_fields = {
                "event_id": f"late-{seed}-{index}",
                "event_time": event["event_time"] - late_by_ms,
            }
            result.late.append(len(result.messages))
            result.messages.append(Message(_key(event), _json(event | late_fields)))
        if rng.random() < broken:
            reason, corrupt = corruptions[rng.randrange(len(corruptions))]
            value = corrupt(event | {"event_id": f"broken-{seed}-{index}"})
            result.broken.setdefault(reason, []).append(len(result.messages))
            result.messages.append(Message(_key(event), value))
    return result


def _corruption(reason: str, name: str) -> Callable[[dict[str, Any]], bytes | None]:
    return dict(CORRUPTIONS[reason])[name]


def _key(event: dict[str, Any]) -> bytes:
    return str(event["user_id"]).encode("utf-8")


def _json(event: dict[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


# --- poison messages ----------------------------------------------------------------------------

# {id}, {user} and {time} are placeholders. Most of these payloads must be rejected.
_POISON_TEXTS = (
    # separators of encoded state, escaped and raw, in fields that state keeps
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
    # duplicate and odd names
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
    # structure
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


def _flipped_bytes(rng: random.Random) -> bytes:
    value = bytearray(_event(rng, "text", '"abc"'))
    for _ in range(rng.randrange(1, 4)):
        value[rng.randrange(len(value))] = rng.randrange(256)
    return bytes(value)


def _event(rng: random.Random, name: str, value: str) -> bytes:
    text = '{"event_id":"{id}","user_id":"{user}","event_type":"view","event_time":{time},"%s":%s}'
    return _fill_placeholders(rng, text % (name, value))


def _fill_placeholders(rng: random.Random, text: str) -> bytes:
    for placeholder, value in (
        ("{id}", f"poison-{rng.getrandbits(64):016x}"),
        ("{user}", f"poisoned-{rng.randrange(5)}"),
        ("{time}", str(1_700_000_000_000 + rng.randrange(DAY_MS))),
    ):
        text = text.replace(placeholder, value)
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
    _random_bytes,
    _flipped_bytes,
    _nested,
    _unclosed,
    _long_string,
    _long_number,
    _many_fields,
)


def poison_messages(n: int, seed: int) -> list[Message]:
    """Returns `n` messages that must not stop the job, about equally many of each kind."""
    rng = random.Random(seed)
    kinds: list[Callable[[random.Random], bytes]] = [
        lambda rng, text=text: _fill_placeholders(rng, text) for text in _POISON_TEXTS
    ]
    kinds += _POISON_MAKERS
    order = [kinds[index % len(kinds)] for index in range(n)]
    rng.shuffle(order)
    return [Message(rng.choice((None, b"poisoned-1", b"\xff\x00")), kind(rng)) for kind in order]


# --- payload variants ---------------------------------------------------------------------------

_VARIANTS = {
    "event_id": ('"{id}"', "12", "true", "null", "{}", r'"\u0069{id}"', '"{id}}"'),
    "user_id": ('"{user}"', '"{user}"', "7", '""', '["{user}"]', '"event_time"'),
    "event_type": ('"view"', '"purchase"', '"purchase"', '"login"', '"heartbeat"', '"odd"'),
    "event_time": (
        "{time}", "{time}", '"{time}"', '"2023-11-14T22:20:00Z"', '"2023-11-14 22:20"', "-5",
        '"+{time}"', '" {time}"', '"{time}.0"', "{time}.5", "17000064000491234567", "5.0", '""',
    ),
    "item_id": ('"i-1"', '"user_id"', '"T"', "31", '"a}"', '"\ufffd"', r'"\""'),
    "category_id": ('"c"', '""', "null", "1.5", '"price"'),
    "price": (
        "31.54", "0", "31.50", "-1", "007", "1e3", "1e9", "1e18", "1234567890", '"5"', "null", "{}",
    ),
    "amount": ("12.5", "-3", '"4"', "1e2", "{}"),
    "quantity": ("2", "0.1234567", "1e9", "1e-9", "1e400", "[]"),
    "rating": ("4.5", "-1e9", '"1000000000"', "1000000001", "-1.1e9", "true"),
    "place": ('{"lat":1.5,"lon":2}', '{"lat":"x","lon":2}', "null"),
    "attributes": ('{"user_id":"n","event_time":5,"price":"x"}', '{"a":{"b":1},"amount":1}'),
    "tags": ('["user_id","b"]', '[{"event_id":"z"}]', "[1]"),
}  # fmt: skip
_SEPARATORS = ((",", ":"), (",", ":"), (", ", ": "), ("\t,", " :"))


def payload_variants(n: int, seed: int) -> list[Message]:
    """Returns `n` payloads with fields in any order and notation, some repeated, some damaged."""
    rng = random.Random(seed)
    required, optional = list(_VARIANTS)[:4], list(_VARIANTS)[4:]
    messages = []
    for number in range(n):
        names = required + rng.sample(optional, rng.randrange(5))
        if rng.random() < 0.2:
            names.append(rng.choice(names))
        rng.shuffle(names)
        comma, colon = rng.choice(_SEPARATORS)
        # Each field has its usual value, the first, in 80 %: otherwise few payloads would be valid.
        values = [
            _VARIANTS[name][rng.random() < 0.2 and rng.randrange(1, len(_VARIANTS[name]))]
            for name in names
        ]
        fields = zip(names, values, strict=True)
        text = "{" + comma.join(f'"{name}"{colon}{value}' for name, value in fields) + "}"
        text = text.replace("{time}", str(1_700_000_000_000 + number * 4_000))
        if rng.random() < 0.1:
            index = rng.randrange(len(text))
            damage = rng.choice(("", '"', "}", "{", ",", " ", "\x02"))
            text = text[:index] + damage + text[index + 1 :]
        messages.append(Message(None, _fill_placeholders(rng, text)))
    return messages
