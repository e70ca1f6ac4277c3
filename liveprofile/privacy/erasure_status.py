"""By when each place is clear of an erased user. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from liveprofile.privacy.erasure_log import Deletion, is_done
from liveprofile.privacy.places import TOPICS
from liveprofile.settings import Settings
from liveprofile.units import DAY_MS

# Kafka removes whole segments, and closes one after this time: its default `segment.ms`.
SEGMENT_MS = 7 * DAY_MS
# Not cleared by a time limit: docs/privacy.md names how.
BY_HAND = (
    "savepoints",
    "snapshots and backups",
    "training rows and archives",
    "plans and exports",
    "logs",
    "receivers of alerts and segment changes",
)
_KEPT_TOPICS = ("consents", "erasures")  # what proves a decision of the user


class PlaceStatus(NamedTuple):
    place: str
    clear_ms: int | None  # when it is clear at the latest; None: no limit in time
    done: bool
    note: str


def place_statuses(
    before_ms: int, deletion: Deletion | None, settings: Settings, now_ms: int
) -> Iterator[PlaceStatus]:
    """Tables, then Flink's state, topics, and what is cleared by hand."""
    done = is_done(deletion, before_ms)
    if deletion is not None and done:
        yield PlaceStatus("tables", deletion.deleted_ms, True, "rows are deleted")
    elif deletion is not None and deletion.before_ms >= before_ms:
        left = ", ".join(f"{name} {count}" for name, count in deletion.remaining.items())
        yield PlaceStatus(
            "tables", None, False, f"left: {left}: run `liveprofile privacy erase --pending`"
        )
    else:
        yield PlaceStatus("tables", None, False, "run `liveprofile privacy erase --pending`")

    def until(place: str, time_ms: int, note: str) -> PlaceStatus:
        return PlaceStatus(place, time_ms, time_ms <= now_ms, note)

    window, state = settings.window, settings.state
    open_ms = before_ms + window.length_ms + window.out_of_orderness_ms
    yield until("state: open windows", open_ms, "if events arrive")
    ttl_ms = before_ms + 3 * state.user_ttl_ms // 2
    yield until("state: histories, memory, lists, sums", ttl_ms, "if no events of the user arrive")
    for setting in TOPICS:
        name = getattr(settings.topics, setting)
        if setting in _KEPT_TOPICS:
            yield PlaceStatus(f"topic {name}", None, False, "kept as a proof")
            continue
        retention_ms = getattr(settings.topics, TOPICS[setting].limit.removeprefix("topics."))
        if retention_ms < 0:
            yield PlaceStatus(f"topic {name}", None, False, "unlimited by its setting")
        else:
            clear_ms = before_ms + retention_ms + SEGMENT_MS
            yield until(f"topic {name}", clear_ms, "retention and the age of a segment")
    for place in BY_HAND:
        yield PlaceStatus(place, None, False, "by hand: see docs/privacy.md")
