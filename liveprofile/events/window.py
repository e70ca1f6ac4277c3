"""The events of windows, read from the payloads that the SQL packed."""

from __future__ import annotations

from collections.abc import Container
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from liveprofile.events import modalities
from liveprofile.events.modalities import Beside, Modality
from liveprofile.wire import tokens as ev
from liveprofile.wire.output_records import Refused
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import EVENT, EVENT_TYPES, FIELD, TYPE_INDEX, BadEvent, Token

_PURCHASE, _RETURN, _COUPON = (TYPE_INDEX[name] for name in ("purchase", "return", "coupon"))


class Window(NamedTuple):
    """What one user did in one window, but for what is counted over many windows at once."""

    digests: bytes  # 8 an event
    items: int  # distinct, as the next three
    categories: int
    devices: int
    sessions: int
    last_device: str
    last_channel: str
    last_place: tuple[float, float] | None
    tags: tuple[str, ...]
    used_coupon: bool
    beside: Beside
    text: str  # the newest, if texts are read


class Windows(NamedTuple):
    """n rows' windows, each row's events in (event_time, event_id) order."""

    rows: list[Window]
    tokens: TokenColumns
    counts: np.ndarray  # (n, types) events by type
    amount: np.ndarray  # (n,) of purchases
    return_amount: np.ndarray


class _Read(NamedTuple):
    """One event; sorts by time and id, which no other event of a user shares."""

    time_ms: int
    event_id: str
    token: Token
    event: dict[str, Any]


class TrainingWindow(NamedTuple):
    """What a training row needs of a window."""

    tokens: list[Token]
    refused: int  # events that can't be used
    beside: Beside
    text: str


def read_windows(
    packed: list[str], known: Container[Modality] = ()
) -> tuple[Windows, list[int], list[list[Refused]]]:
    """The windows as `jobs.sql.profile_views.packed` packs them; those that have an event left, and which those
    are; and of every row the events that can't be used.

    known: which modalities are read
    """
    rows, tokens, kept, refused = [], [], [], []
    for index, text in enumerate(packed):
        events, bad = _read_events(text)
        refused.append(bad)
        if events:
            kept.append(index)
            rows.append(_window(events, known))
            tokens.append([event.token for event in events])
    return _count(rows, TokenColumns.of(tokens)), kept, refused


def read_training(packed: str) -> TrainingWindow:
    """One window, with the vectors of all encoders."""
    events, refused = _read_events(packed)
    place = None
    given = []
    for _, _, _, event in events:
        if "place" in event:
            place = event["place"] or place
        if modalities.FIELD in event:
            given.append(event[modalities.FIELD])
    text = modalities.newest_text([event.event for event in events])
    tokens = [event.token for event in events]
    return TrainingWindow(tokens, len(refused), modalities.beside(given, place, None), text)


def _read_events(text: str) -> tuple[list[_Read], list[Refused]]:
    read: list[_Read] = []
    refused: list[Refused] = []
    for one in text.split(EVENT):
        time, partition, offset, payload = one.split(FIELD, 3)
        try:
            event = ev.load(payload)
            if "place" in event:
                event["place"] = _place(event["place"])
            time_ms = int(time)
            read.append(
                _Read(time_ms, ev.as_id(event["event_id"]), ev.token(event, time_ms), event)
            )
        except BadEvent as bad:
            refused.append(Refused(bad.reason, bad.detail, partition, offset, payload))
        except (KeyError, TypeError, ValueError) as error:
            # Where Java's JSON and ours read a payload differently.
            detail = f"{type(error).__name__}: {error}"[:200]
            refused.append(Refused("UNREADABLE", detail, partition, offset, payload))
    if len(read) > 1:
        read.sort(key=_READ_ORDER)
    return read, refused


_READ_ORDER = itemgetter(0, 1)


def _window(read: list[_Read], known: Container[Modality]) -> Window:
    """Most events lack most fields, so each field is looked for once and handled if it is there."""
    items, categories, devices, sessions = set(), set(), set(), set()
    tags: dict[str, None] = {}
    device = channel = ""
    place = None
    used_coupon = False
    given: list[Any] = []
    for _, _, token, event in read:
        items.add(token.item)
        categories.add(token.category)
        if "device_id" in event and (text := ev.as_id(event["device_id"])):
            devices.add(device := text)
        if "session_id" in event and (text := ev.as_id(event["session_id"])):
            sessions.add(text)
        if "channel" in event:
            channel = ev.as_id(event["channel"]) or channel
        if "place" in event:
            place = event["place"] or place
        if "tags" in event and isinstance(event["tags"], list):
            tags.update((tag, None) for tag in event["tags"] if isinstance(tag, str))
        if modalities.FIELD in event:
            given.append(event[modalities.FIELD])
        if token.type_index == _COUPON or (
            token.type_index == _PURCHASE and ev.as_id(event.get("coupon_id")) != ""
        ):
            used_coupon = True
    return Window(
        digests=b"".join([ev.digest(event.event_id) for event in read]),
        items=len(items - {""}),
        categories=len(categories - {""}),
        devices=len(devices),
        sessions=len(sessions),
        last_device=device,
        last_channel=channel,
        last_place=place,
        tags=tuple(tags),
        used_coupon=used_coupon,
        beside=modalities.beside(given, place, known),
        text=modalities.newest_text([one.event for one in read])
        if modalities.TEXT in known
        else "",
    )


def _place(place: Any) -> tuple[float, float] | None:
    if not isinstance(place, dict):
        return None
    lat, lon = ev.number(place, "lat"), ev.number(place, "lon")
    return None if lat is None or lon is None else (float(lat), float(lon))


def _count(rows: list[Window], tokens: TokenColumns) -> Windows:
    types, row_of = len(EVENT_TYPES), tokens.row_of
    counts = np.bincount(row_of * types + tokens.type_index, minlength=len(rows) * types)

    def spent(kind: int) -> np.ndarray:
        amount = np.where(tokens.type_index == kind, tokens.amount, 0.0)
        return np.bincount(row_of, amount, len(rows))

    return Windows(rows, tokens, counts.reshape(-1, types), spent(_PURCHASE), spent(_RETURN))
