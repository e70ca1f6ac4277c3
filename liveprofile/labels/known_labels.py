"""All labels that are known: of analysts' work on flags, and of the topic risk-feedback."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from liveprofile.kafka.records import read_topic
from liveprofile.labels.feedback import LABEL_OF_STATE, Label, schema_error
from liveprofile.settings import Settings
from liveprofile.storage.cql import read_pages, to_ms
from liveprofile.units import SECOND_MS


class KnownLabel(NamedTuple):
    """time_ms: of the event, or the end of the window."""

    user_id: str
    time_ms: int
    label: Label


def read_flag_labels(session: Session) -> Iterable[KnownLabel]:
    """The labels that analysts gave to flags. Raises ServiceError."""
    query = SimpleStatement("SELECT DISTINCT flag_id, user_id, window_end, state FROM flag_state")
    for row in read_pages(session, query):
        if row.state in LABEL_OF_STATE:
            yield KnownLabel(row.user_id, to_ms(row.window_end), LABEL_OF_STATE[row.state])


def read_topic_labels(settings: Settings) -> Iterable[KnownLabel]:
    """The valid labels of the topic, in its order. Raises ServiceError."""
    for record in read_topic(settings, settings.topics.feedback):
        try:
            label = orjson.loads(record.value or b"")
        except orjson.JSONDecodeError:
            continue  # the job has rejected it
        if schema_error(label) is None:
            yield KnownLabel(label["user_id"], _ms(label["event_time"]), label["label"])


def _ms(time: Any) -> int:
    return (
        time
        if isinstance(time, int)
        else round(datetime.fromisoformat(time).timestamp() * SECOND_MS)
    )


def by_user_and_time(*known: Iterable[KnownLabel]) -> dict[tuple[str, int], Label]:
    """Of two labels the later in order counts."""
    return {(each.user_id, each.time_ms): each.label for labels in known for each in labels}
