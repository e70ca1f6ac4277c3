"""Parses the events of windows from the text that the SQL encodes (wire/window_events.py)."""

from collections.abc import Container
from itertools import pairwise
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from liveprofile.events import modalities
from liveprofile.events.modalities import Modality, WindowModalities
from liveprofile.wire.output_records import Refused
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import EVENT_TYPES, TYPE_INDEX, Token
from liveprofile.wire.window_events import ParsedEvent, digest, read_events

_PURCHASE, _RETURN, _COUPON = (TYPE_INDEX[name] for name in ("purchase", "return", "coupon"))


class Window(NamedTuple):
    """What one user did in one window. WindowBatch has the counts and amounts by event type."""

    digests: bytes  # 8 bytes per event
    items: int  # distinct, like the next three
    categories: int
    devices: int
    sessions: int
    last_device: str
    last_channel: str
    last_place: tuple[float, float] | None
    tags: tuple[str, ...]
    used_coupon: bool
    modalities: WindowModalities
    text: str  # the newest text, if texts are read


class WindowBatch(NamedTuple):
    """n windows, each with its events in the order of `_by_content`."""

    rows: list[Window]
    tokens: TokenColumns
    counts: np.ndarray  # (n, types) events by type
    amount: np.ndarray  # (n,) total of purchases
    return_amount: np.ndarray  # (n,) total of returns


class TrainingWindow(NamedTuple):
    """The parts of a window that a training row needs."""

    tokens: list[Token]
    rejected: int  # events that cannot be used
    modalities: WindowModalities
    text: str


def parse_windows(
    texts: list[str], known: Container[Modality] = ()
) -> tuple[WindowBatch, list[int], list[list[Refused]]]:
    """Parses windows (liveprofile.wire.window_events).

    Returns the windows that have at least one usable event, the indices of these windows, and the
    rejected events of every window. known: the modalities to read.
    """
    rows, tokens, kept, rejected = [], [], [], []
    for index, text in enumerate(texts):
        events, rejected_events = read_events(text)
        rejected.append(rejected_events)
        if events:
            kept.append(index)
            digests = b"".join([digest(event.event_id) for event in events])
            events = _by_content(events)
            rows.append(_window(events, digests, known))
            tokens.append([event.token for event in events])
    return _window_batch(rows, TokenColumns.of(tokens)), kept, rejected


def parse_training_window(text: str) -> TrainingWindow:
    """Parses one window, with the vectors of all encoders."""
    events, rejected = read_events(text)
    events = _by_content(events)
    window = _window(events, b"", None)
    tokens = [event.token for event in events]
    return TrainingWindow(tokens, len(rejected), window.modalities, window.text)


_TOKEN = itemgetter(2)


def _by_content(events: list[ParsedEvent]) -> list[ParsedEvent]:
    """Orders events by time and content.

    Events of one time are a set, as the lines of a receipt are: the order of their ids means
    nothing, so no output may depend on it. Tokens order as in a history
    (liveprofile/wire/token_columns.py).
    """
    if len(events) < 2:
        return events
    ordered = sorted(events, key=_TOKEN)
    if any(first.token == second.token for first, second in pairwise(ordered)):
        ordered.sort(key=lambda event: (event.token, _other_fields(event.payload)))
    return ordered


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _other_fields(event: dict[str, Any]) -> tuple[Any, ...]:
    """The fields whose newest or first value counts in a window, besides the token's."""
    tags = event.get("tags")
    return (
        event.get("device_id", ""),
        event.get("place") or (),
        modalities.embedding_key(event.get(modalities.EMBEDDING_FIELD)),
        event.get("channel", ""),
        [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else [],
        _text(event.get("text")),
        _text(event.get("query")),
    )


def _window(events: list[ParsedEvent], digests: bytes, known: Container[Modality] | None) -> Window:
    """known: the modalities to read; None: all."""
    # Most events lack most fields: looking for a key is cheaper than reading every field.
    items, categories, devices, sessions = set(), set(), set(), set()
    tags: dict[str, None] = {}
    device = channel = ""
    place = None
    used_coupon = False
    embeddings: list[Any] = []
    for _, _, event_token, event in events:
        items.add(event_token.item)
        categories.add(event_token.category)
        if text := event.get("device_id"):
            devices.add(device := text)
        if text := event.get("session_id"):
            sessions.add(text)
        if "channel" in event:
            channel = event["channel"] or channel
        if "place" in event:
            place = event["place"] or place
        if "tags" in event and isinstance(event["tags"], list):
            tags.update((tag, None) for tag in event["tags"] if isinstance(tag, str))
        if modalities.EMBEDDING_FIELD in event:
            embeddings.append(event[modalities.EMBEDDING_FIELD])
        if event_token.type_index == _COUPON or (
            event_token.type_index == _PURCHASE and event.get("coupon_id", "") != ""
        ):
            used_coupon = True
    return Window(
        digests=digests,
        items=len(items - {""}),
        categories=len(categories - {""}),
        devices=len(devices),
        sessions=len(sessions),
        last_device=device,
        last_channel=channel,
        last_place=place,
        tags=tuple(tags),
        used_coupon=used_coupon,
        modalities=modalities.combine_modalities(embeddings, place, known),
        text=modalities.newest_text([event.payload for event in events])
        if known is None or modalities.TEXT in known
        else "",
    )


def _window_batch(rows: list[Window], tokens: TokenColumns) -> WindowBatch:
    types, row_of = len(EVENT_TYPES), tokens.row_of
    counts = np.bincount(row_of * types + tokens.type_index, minlength=len(rows) * types)

    def total(type_index: int) -> np.ndarray:
        amount = np.where(tokens.type_index == type_index, tokens.amount, 0.0)
        return np.bincount(row_of, amount, len(rows))

    return WindowBatch(rows, tokens, counts.reshape(-1, types), total(_PURCHASE), total(_RETURN))
