"""Hypothesis strategies for streams of behaviour events.

A generated stream is a list of `Record`s in arrival order. All records of a user are in one
partition.
"""

import json
import zlib
from datetime import datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS
from tests.reference.validation import EPOCH, REASONS, TYPES
from tests.reference.windows import Record
from tests.support.streams.corruptions import CORRUPTIONS

START_MS = 1_700_000_100_000  # 2023-11-14 22:15 UTC, the start of a 5-minute window
LATEST_MS = START_MS + 400 * DAY_MS
RECORD_MS = 1_750_000_000_000  # Kafka timestamp of all records, after LATEST_MS

_TYPES = st.sampled_from(TYPES + ("purchase",) * 6 + ("view",) * 6)
_ODD_IDS = st.one_of(
    st.sampled_from(
        ["ü-Ω-名前", "😀", "a b", 'quo"te', "back\\slash", "it's", "%41", "{x}", "a/b", "x" * 256,
         "\x7f", "\u2028", "\ufeff", "null", " ", "٣", "_"]
    ),
    st.text(
        st.characters(exclude_categories=["Cs"], min_codepoint=0x20), min_size=1, max_size=12
    ),
)  # fmt: skip
_IDS = st.one_of(st.integers(0, 10**9), st.from_regex(r"[a-z0-9-]{1,12}", fullmatch=True), _ODD_IDS)
_CATEGORIES = st.one_of(
    st.sampled_from(["shoes", "books", "games", "Käse", "a", "b"]), st.integers(1, 5), st.none()
)
_ITEMS = st.one_of(st.integers(1, 20), st.sampled_from(["i-1", "i-2", "名", "\x1f"]), st.none())
_MONEY = st.integers(0, 100_000).map(lambda cents: cents / 100)
_NUMBERS = st.one_of(
    _MONEY,
    _MONEY.map(str),
    st.integers(0, 500),
    st.sampled_from(["007", "1e2", "1.5E+1", "2.5e-1", "-0", 0, 1e9, None]),
)
_SHORT_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_SESSIONS = st.sampled_from(["s1", "s2", "s3", 7, None])

_OPTIONAL = {
    "item_id": _ITEMS,
    "category_id": _CATEGORIES,
    "price": _NUMBERS,
    "quantity": st.one_of(st.integers(0, 9), st.sampled_from(["3", 0.5, None])),
    # Not larger: in a sum, or squared, a double would lose the digits of other amounts.
    "amount": st.one_of(_NUMBERS, st.sampled_from([-12.5, "-3", -1e6])),
    "rating": st.sampled_from([1, 4.5, "5", -1, None]),
    "place": st.sampled_from([None, {}, {"lat": 48.1, "lon": 11.6}, {"lat": "-90"}, {"lon": 180}]),
    "session_id": _SESSIONS,
    "device_id": _SESSIONS,
    "coupon_id": st.sampled_from(["SAVE5", "", None]),
    "campaign_id": st.just("spring"),
    "channel": st.sampled_from(["app", "web"]),
    "text": _SHORT_TEXT,
    "query": _SHORT_TEXT,
    "tags": st.lists(_SHORT_TEXT, max_size=2),
    "media_embedding": st.sampled_from(
        [None, {"encoder": "clip", "vector": [0.5, -1]}, {"encoder": "clip", "vector": [1, 2, 3]}]
    ),
    "friend_id": st.just("f1"),
    "anonymous_id": st.sampled_from(["a1", 7, 2**70, "ü" * 256, None]),
    "attributes": st.sampled_from([{}, {"a": [1, {"b": None}]}]),
    "not_of_the_contract": st.sampled_from([None, 1, {"event_id": "x", "price": -1}]),
}
# JSON types other than the contract's, which count as missing.
_WRONG_TYPES = {
    name: st.sampled_from([True, 1.5, {}, [1]])
    for name in ("item_id", "category_id", "session_id", "device_id", "coupon_id")
} | {
    "anonymous_id": st.sampled_from([True, 1.5, {}, [1], "", "x" * 257, 10**256, "a\x1f"]),
    "place": st.sampled_from(["Munich", [48.1, 11.6], 7]),
    "text": st.just(5),
    "tags": st.just("one"),
    "media_embedding": st.sampled_from(
        ["clip", [1.0], {"encoder": "CLIP", "vector": [1]}, {"encoder": "clip", "vector": [True]}]
    ),
    "attributes": st.just("none"),
}


def user_partition(user_id: str, partitions: int) -> int:
    return zlib.crc32(user_id.encode("utf-8")) % partitions


@st.composite
def time_texts(draw: st.DrawFn, time_ms: int) -> int | str:
    """Draws a notation of this time."""
    form = draw(st.sampled_from(["ms"] * 3 + ["digits", "zulu", "plain", "offset", "fraction"]))
    if form == "ms":
        return time_ms
    if form == "digits":
        return str(time_ms)
    time = EPOCH + timedelta(milliseconds=time_ms)
    separator = draw(st.sampled_from("T "))
    zone = "Z" if form == "zulu" else ""
    if form == "offset":
        minutes = draw(st.sampled_from([0, 60, -300, 330, 345, -210, 840, -720]))
        time = time.astimezone(timezone(timedelta(minutes=minutes)))
        zone = time.strftime("%z")
        if draw(st.booleans()):
            zone = f"{zone[:3]}:{zone[3:]}"
    return _iso(time, separator, beyond_ms="9999" if form == "fraction" else "") + zone


def _iso(time: datetime, separator: str, beyond_ms: str) -> str:
    text = time.strftime(f"%Y-%m-%d{separator}%H:%M")
    milliseconds = time.microsecond // 1_000
    if milliseconds or beyond_ms:
        return f"{text}:{time.second:02d}.{milliseconds:03d}{beyond_ms}"
    return f"{text}:{time.second:02d}" if time.second else text


@st.composite
def valid_events(
    draw: st.DrawFn,
    event_id: str | int,
    user_id: str | int,
    time_ms: int,
    wrong_types: bool = False,
) -> dict[str, Any]:
    """An event that passes every check.

    wrong_types: optional fields may have a JSON type other than the contract's.
    """
    optional = dict(_OPTIONAL)
    if wrong_types and draw(st.booleans()):
        optional |= _WRONG_TYPES
    event = {"event_id": event_id, "user_id": user_id, "event_time": draw(time_texts(time_ms))}
    return event | draw(st.fixed_dictionaries({"event_type": _TYPES}, optional=optional))


def payload(event: dict[str, Any], ascii_only: bool = True) -> bytes:
    return json.dumps(event, ensure_ascii=ascii_only).encode("utf-8")


class _Topic:
    """A topic that is written record by record."""

    def __init__(self, partitions: int, start_ms: int) -> None:
        self.records: list[Record] = []
        self.record_ms = start_ms - START_MS + RECORD_MS
        self.next_offsets = [0] * partitions
        self.latest_ms = start_ms
        self.sent: list[tuple[int, dict[str, Any]]] = []  # partition, valid event

    def write(self, partition: int, key: str | None, value: bytes | None) -> None:
        offset = self.next_offsets[partition]
        self.next_offsets[partition] += 1
        key_bytes = None if key is None else key.encode("utf-8")
        self.records.append(Record(partition, offset, self.record_ms, key_bytes, value))


@st.composite
def behaviour_stream(
    draw: st.DrawFn,
    *,
    partitions: int = 3,
    max_events: int = 60,
    window_ms: int = 5 * MINUTE_MS,
    out_of_orderness_ms: int = 30_000,
    wrong_types: bool = True,
    close: bool = True,
    series: int = 0,
) -> list[Record]:
    """Draws records of a few users, one of whom has most events.

    Events are out of order within and beyond the bound. Among them are duplicates, late events,
    broken events of every reason, heartbeats, odd ids and odd texts.

    close: the stream ends with a heartbeat in every partition, which closes the last window.
    series: number of the stream, if a job reads several: their times, users and event ids differ.
    """
    start_ms = START_MS + series * (LATEST_MS - START_MS + DAY_MS)
    users = draw(st.lists(_IDS, min_size=1, max_size=4, unique_by=str))
    if series:
        users = [f"{series}-{user}"[:256] for user in users]
    users += users[:1] * 3
    topic = _Topic(partitions, start_ms)
    steps = st.sampled_from(["event"] * 12 + ["duplicate", "late", "broken", "heartbeat", "edge"])
    gaps_ms = st.one_of(
        st.sampled_from([0, 0, 1, 1_000]),
        st.integers(0, window_ms // 4),
        st.sampled_from([window_ms, 2 * window_ms + 1, HOUR_MS, 40 * DAY_MS]),
    )
    lags_ms = st.one_of(st.just(0), st.integers(0, out_of_orderness_ms))
    first = series * max_events
    for number in range(first, first + draw(st.integers(1, max_events))):
        step = draw(steps)
        user = draw(st.sampled_from(users))
        partition = user_partition(str(user), partitions)
        now_ms = topic.latest_ms
        if step == "heartbeat":
            beat = {"event_type": "heartbeat", "event_time": draw(time_texts(now_ms))}
            topic.write(draw(st.integers(0, partitions - 1)), None, payload(beat))
            continue
        if step == "duplicate" and topic.sent:
            partition, event = draw(st.sampled_from(topic.sent))
            if draw(st.booleans()):
                event = event | {"amount": 1, "event_time": now_ms}
            topic.write(partition, str(event["user_id"]), payload(event))
            continue
        if step == "late":
            lateness_ms = draw(st.integers(1, 10 * window_ms))
            time_ms = now_ms - out_of_orderness_ms - lateness_ms
        elif step == "edge":
            time_ms = (now_ms // window_ms + draw(st.integers(0, 1))) * window_ms - draw(
                st.integers(0, 1)
            )
        else:
            time_ms = min(now_ms + draw(gaps_ms), start_ms + LATEST_MS - START_MS) - draw(lags_ms)
        event_id: int | str = number if draw(st.booleans()) else f"{number}-{draw(_ODD_IDS)}"[:256]
        event = draw(valid_events(event_id, user, time_ms, wrong_types))
        if step == "broken":
            reason = draw(st.sampled_from(REASONS))
            _name, corrupt = draw(st.sampled_from(CORRUPTIONS[reason]))
            topic.write(partition, str(user), corrupt(event))
        # A broken event is followed by its valid form: it must not claim the event_id.
        topic.latest_ms = max(topic.latest_ms, time_ms)
        topic.sent.append((partition, event))
        topic.write(partition, str(user), payload(event, draw(st.booleans())))
    if close:
        for partition, value in closing_heartbeats(
            partitions, topic.latest_ms, window_ms, out_of_orderness_ms
        ):
            topic.write(partition, None, value)
    return topic.records


def closing_heartbeats(
    partitions: int, latest_ms: int, window_ms: int, out_of_orderness_ms: int
) -> list[tuple[int, bytes]]:
    """Returns (partition, payload) of heartbeats that close the window of `latest_ms`."""
    time_ms = latest_ms + 2 * window_ms + out_of_orderness_ms
    return [
        (partition, payload({"event_type": "heartbeat", "event_time": time_ms}))
        for partition in range(partitions)
    ]
