"""Records that the Python workers send through the job's Kafka sink.

A worker returns one text for each record: topic, key, reason, detail, record topic, partition and
offset, joined by FIELD, then WINDOW, then the value. An alert leaves the last five fields empty.
`record` and `rejected` write the text, `columns_sql` splits it in Flink SQL.
"""

from typing import NamedTuple

from liveprofile.wire.tokens import EVENT, FIELD, WINDOW

_CONTROL = str.maketrans(dict.fromkeys((FIELD, EVENT, WINDOW), "_"))
_HEAD = ("topic", "key", "reason", "detail", "record_topic", "partition", "offset")


class Refused(NamedTuple):
    """An event that the SQL accepted and Python rejects."""

    reason: str
    detail: str
    partition: str
    offset: str
    payload: str


def record(topic: str, key: str, value: str) -> str:
    """Returns the text of a record without headers that name an input record."""
    return _text((topic, key, "", "", "", "", ""), value)


def rejected(topic: str, events_topic: str, user_id: str, event: Refused) -> str:
    """Returns the text of a rejected event, with the position of its record in `events_topic`."""
    head = (topic, user_id, event.reason, event.detail)
    return _text((*head, events_topic, event.partition, event.offset), event.payload)


def _text(head: tuple[str, ...], value: str) -> str:
    return FIELD.join(part.translate(_CONTROL) for part in head) + WINDOW + value


def columns_sql(message: str = "message") -> dict[str, str]:
    """SQL: each part of a record's text, by name: topic, key, reason, ..., offset, value."""
    head = f"SPLIT_INDEX({message}, '{WINDOW}', 0)"
    columns = {name: f"SPLIT_INDEX({head}, '{FIELD}', {i})" for i, name in enumerate(_HEAD)}
    return columns | {"value": f"SUBSTRING({message}, LOCATE('{WINDOW}', {message}) + 1)"}
