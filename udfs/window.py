"""One row of `jobs.views.remembered`, read: the window's events and the history before it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from udfs import events as ev
from udfs.events import EVENT, FIELD, WINDOW, BadEvent, Token


@dataclass(frozen=True, slots=True)
class Refused:
    """An event that the SQL let through and that can't be used after all."""

    reason: str
    detail: str
    partition: str
    offset: str
    payload: str


@dataclass(slots=True)
class Window:
    """What one user did in one window, in (event_time, event_id) order."""

    tokens: list[Token] = field(default_factory=list)
    digests: bytes = b""
    counts: Counter[str] = field(default_factory=Counter)
    amount: float = 0.0
    return_amount: float = 0.0
    items: int = 0
    categories: int = 0
    devices: int = 0
    sessions: int = 0
    last_device: str = ""
    last_channel: str = ""
    last_place: tuple[float, float] | None = None
    tags: tuple[str, ...] = ()
    used_coupon: bool = False
    refused: list[Refused] = field(default_factory=list)

    @property
    def events(self) -> int:
        return len(self.tokens)


def read_window(packed: str) -> Window:
    """The events of a window as `jobs.views.packed` packs them. Bad ones end in `refused`."""
    window = Window()
    read: list[tuple[int, str, dict[str, Any], Token]] = []
    for one in packed.split(EVENT):
        time, partition, offset, payload = one.split(FIELD, 3)
        try:
            event = ev.load(payload)
            time_ms = int(time)
            event["place"] = _place(event.get("place"))
            read.append((time_ms, ev.as_id(event["event_id"]), event, ev.token(event, time_ms)))
        except BadEvent as bad:
            window.refused.append(Refused(bad.reason, bad.detail, partition, offset, payload))
        except (KeyError, TypeError, ValueError) as error:
            # Where Java's JSON and ours read a payload differently.
            detail = f"{type(error).__name__}: {error}"[:200]
            window.refused.append(Refused("UNREADABLE", detail, partition, offset, payload))
    read.sort(key=lambda r: r[:2])

    counts: list[str] = []
    devices, sessions, tags = set(), set(), {}
    digests = []
    for _, event_id, event, token in read:
        kind = event["event_type"]
        counts.append(kind)
        digests.append(ev.digest(event_id))
        if kind == "purchase":
            window.amount += token.amount
        elif kind == "return":
            window.return_amount += token.amount
        if device := ev.as_id(event.get("device_id")):
            devices.add(device)
            window.last_device = device
        if session := ev.as_id(event.get("session_id")):
            sessions.add(session)
        if channel := ev.as_id(event.get("channel")):
            window.last_channel = channel
        if kind == "coupon" or (kind == "purchase" and ev.as_id(event.get("coupon_id"))):
            window.used_coupon = True
        window.last_place = event["place"] or window.last_place
        if (listed := event.get("tags")) is not None and isinstance(listed, list):
            tags.update((tag, None) for tag in listed if isinstance(tag, str))
    window.tokens = [token for *_, token in read]
    window.counts = Counter(counts)
    window.digests = b"".join(digests)
    window.items = len({t.item for t in window.tokens if t.item})
    window.categories = len({t.category for t in window.tokens if t.category})
    window.devices, window.sessions, window.tags = len(devices), len(sessions), tuple(tags)
    return window


def _place(place: Any) -> tuple[float, float] | None:
    if not isinstance(place, dict):
        return None
    lat, lon = ev.number(place, "lat"), ev.number(place, "lon")
    return None if lat is None or lon is None else (float(lat), float(lon))


@dataclass(frozen=True, slots=True)
class History:
    """The K windows before this one."""

    tokens: list[Token]
    last_purchase_ms: int  # 0: none
    last_purchase_ms_now: int  # this window included


def read_history(text: str) -> History:
    """As `jobs.views.remembered` lists them, this window last."""
    *before, now = text.split(WINDOW)
    tokens: list[Token] = []
    last_purchase = "0"
    for window in before:
        last_purchase, _, packed = window.partition(EVENT)
        tokens += ev.parse_tokens(packed)
    return History(tokens, int(last_purchase), int(now.partition(EVENT)[0]))
