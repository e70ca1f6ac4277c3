"""The events of one window as one text: what `update_profile` receives in its column `events`.

Each event is its time in ms, the letter of its type (tokens.py), its partition and offset in the
input topic, and its payload.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from liveprofile.wire.tokens import EVENT, FIELD, join_sql


class WindowEvent(NamedTuple):
    time_ms: int
    letter: str
    partition: str
    offset: str
    payload: str


def event_sql(time_ms: str, letter: str, partition: str, offset: str, payload: str) -> str:
    """SQL: one event. All arguments are text columns."""
    return join_sql(time_ms, letter, partition, offset, payload)


def events_sql(event: str) -> str:
    """SQL aggregate: the events of a window, in any order.

    ARRAY_AGG, because LISTAGG copies the whole text for each further event.
    """
    return f"ARRAY_JOIN(ARRAY_AGG({event}), '{EVENT}')"


def join(events: Iterable[WindowEvent]) -> str:
    """The text of events, as the SQL writes it; "" for none."""
    return EVENT.join(FIELD.join((str(time_ms), *others)) for time_ms, *others in events)


def parse(text: str) -> Iterator[WindowEvent]:
    """Yields the events of a window in the order of the text."""
    for event in text.split(EVENT):
        time_ms, *others = event.split(FIELD, 4)
        yield WindowEvent(int(time_ms), *others)
