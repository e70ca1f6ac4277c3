"""Takes events out of windows whose users did not allow profiles at the time of the event. Pure."""

from __future__ import annotations

from typing import NamedTuple

from liveprofile.consent.changes import ConsentBook
from liveprofile.wire import window_events
from liveprofile.wire.output_records import Refused

REASON = "NO_CONSENT"
PURPOSE = "profiling"


class AllowedWindows(NamedTuple):
    """Windows of a batch without the events that are not allowed."""

    rows: list[int]  # those with an event that is allowed, ascending
    events: list[str]  # of each of these rows (liveprofile.wire.window_events)
    refused: list[list[Refused]]  # of each row of the batch


def allowed_windows(
    user_ids: list[str], events: list[str], consents: ConsentBook
) -> AllowedWindows:
    """Decides for each event by its own time. A refused event keeps its position, not its payload.

    user_ids, events: of each row of the batch.
    """
    result = AllowedWindows([], [], [[] for _ in user_ids])
    for row, (user_id, text) in enumerate(zip(user_ids, events, strict=True)):
        kept = text
        if user_id in consents:
            kept = _keep(user_id, text, consents, result.refused[row])
        elif not consents.allowed(user_id, PURPOSE, 0):  # the default, at any time
            kept = ""
            result.refused[row].extend(map(_refuse, window_events.parse(text)))
        if kept:
            result.rows.append(row)
            result.events.append(kept)
    return result


def _keep(user_id: str, text: str, consents: ConsentBook, refused: list[Refused]) -> str:
    kept = []
    for event in window_events.parse(text):
        if consents.allowed(user_id, PURPOSE, event.time_ms):
            kept.append(event)
        else:
            refused.append(_refuse(event))
    return window_events.join(kept)


def _refuse(event: window_events.WindowEvent) -> Refused:
    return Refused(REASON, PURPOSE, event.partition, event.offset, "")
