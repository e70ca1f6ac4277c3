"""Analyst labels (fraud or legitimate): files, validation, and the topic risk-feedback.

A label record is a JSON object after schemas/risk-feedback.schema.json, keyed by user_id. The
scoring job reads the topic.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jsonschema
import orjson

from intake.files.sources import require_json_lines, rows_estimate
from liveprofile.errors import InputError
from liveprofile.kafka import offsets
from liveprofile.kafka.records import read_topic, send_all
from liveprofile.resources import ROOT
from liveprofile.settings import Settings
from liveprofile.wire.scored_events import ENTITIES
from liveprofile.wire.user_records import read_time_ms

SCHEMA_FILE = ROOT / "schemas" / "risk-feedback.schema.json"
ID_FIELDS = ("flag_id", "event_id", "user_id", "analyst", *ENTITIES)
FIELDS = (*ID_FIELDS, "event_type", "event_time", "label", "time")

Label = Literal["fraud", "legitimate"]
LabelRecord = dict[str, Any]


class RejectedLabel(NamedTuple):
    row: int  # from 1
    reason: str


def schema_error(record: Any) -> str | None:
    """Validates a record. Returns one line that names the invalid field, or None if it is valid."""
    error = jsonschema.exceptions.best_match(_validator().iter_errors(record))
    if error is None:
        return None
    field = ".".join(map(str, error.absolute_path))
    return f"{field}: {error.message}" if field else error.message


def send_labels(settings: Settings, records: Iterable[LabelRecord]) -> int:
    """Sends valid records, waits for every acknowledgement, and returns their number.

    Raises ServiceError if Kafka does not answer, lacks the topic, or rejects a record. Records
    sent before the error stay in the topic; it is safe to send all of them again.
    """
    topic = settings.topics.feedback
    offsets.partition_ranges(settings, topic)  # fails early if Kafka or the topic is missing
    return send_all(
        settings,
        topic,
        ((record["user_id"].encode(), orjson.dumps(record), {}) for record in records),
    )


def read_labels(
    file: Path, analyst: str, erased_ms: Mapping[str, int] = {}
) -> Iterator[LabelRecord | RejectedLabel]:
    """Reads labels from JSON lines: valid records and rejected rows, in the order of the file.

    A row has event_id, user_id, label, event_time, and the time when the label became known as
    `time` or `known_at`. It may have analyst, event_type and entities; other columns are ignored.
    analyst: the default for rows without one. erased_ms: users, and before which time their events
    are erased. Raises InputError if the file cannot be read.
    """
    estimate_rows(file)
    with file.open("rb") as lines:
        yield from _validated(map(_parse_json, lines), analyst, erased_ms)


def read_file_or_topic(
    settings: Settings, file: Path | None, analyst: str
) -> Iterator[LabelRecord | RejectedLabel]:
    """Reads labels from a file, or from the topic's current records if `file` is None.

    Raises InputError and ServiceError.
    """
    if file is not None:
        yield from read_labels(file, analyst)
    else:
        records = read_topic(settings, settings.topics.feedback)
        yield from _validated((_parse_json(record.value or b"") for record in records), analyst)


def _fault(record: LabelRecord, erased_ms: Mapping[str, int]) -> str | None:
    """Why a record is rejected. The schema admits times of a thirteenth month."""
    try:
        if error := schema_error(record):
            return error
        read_time_ms("time", record["time"], InputError)
        event_ms = read_time_ms("event_time", record["event_time"], InputError)
    except InputError as error:
        return str(error)
    is_erased = event_ms < erased_ms.get(record["user_id"], 0)
    return "the user was erased after this event" if is_erased else None


def _validated(
    rows: Iterable[Any], analyst: str, erased_ms: Mapping[str, int] = {}
) -> Iterator[LabelRecord | RejectedLabel]:
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            record = _normalise(row, analyst)
            reason = _fault(record, erased_ms)
            yield record if reason is None else RejectedLabel(number, reason)
        else:
            yield RejectedLabel(number, "is not a JSON object")


def estimate_rows(file: Path) -> int:
    """Returns the number of rows for a progress bar.

    Raises InputError if there is no such file, or if it has another format than JSON lines.
    """
    require_json_lines(file, "labels are JSON lines")
    return rows_estimate(file, is_parquet=False)


def keep_valid(
    rows: Iterable[LabelRecord | RejectedLabel],
    on_rejected: Callable[[RejectedLabel], None],
    on_row: Callable[[], None] = lambda: None,
) -> Iterator[LabelRecord]:
    """Yields the valid records. Passes the others to on_rejected; calls on_row for every row."""
    for row in rows:
        on_row()
        if isinstance(row, RejectedLabel):
            on_rejected(row)
        else:
            yield row


@cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text("utf-8")))


def _normalise(row: LabelRecord, analyst: str) -> LabelRecord:
    """Keeps the known fields; converts integer ids to text."""
    row = dict(row)
    if row.get("time") is None:
        row["time"] = row.get("known_at")
    if row.get("analyst") in (None, ""):
        row["analyst"] = analyst
    record = {name: row[name] for name in FIELDS if row.get(name) not in (None, "")}
    for name in ID_FIELDS:
        value = record.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            record[name] = str(value)
    return record


def _parse_json(text: bytes) -> Any:
    """Returns None for invalid JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
