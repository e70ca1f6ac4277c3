"""Labels of events, fraud or legitimate, onto the topic that the scoring job learns from.

A record is a JSON object as schemas/risk-feedback.schema.json has it, keyed by user_id.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jsonschema
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from cassandra.cluster import Session

from liveprofile.alerts.cases.states import FlagState, State
from liveprofile.config import Settings
from liveprofile.errors import InputError
from liveprofile.kafka import offsets
from liveprofile.kafka.records import read_topic, send_all
from liveprofile.resources import ROOT
from liveprofile.storage.cql import execute, from_ms, to_ms
from liveprofile.storage.queries import StoredFlag
from liveprofile.wire.scored_events import ENTITIES

SCHEMA_FILE = ROOT / "schemas" / "risk-feedback.schema.json"
IDS = ("flag_id", "event_id", "user_id", "analyst", *ENTITIES)
FIELDS = (*IDS, "event_type", "event_time", "label", "time")
BATCH_ROWS = 10_000

Label = Literal["fraud", "legitimate"]
STATE_OF: dict[Label, State] = {"fraud": State.CONFIRMED, "legitimate": State.FALSE_POSITIVE}
LABEL_OF = {state: label for label, state in STATE_OF.items()}

Record = dict[str, Any]


class Rejected(NamedTuple):
    row: int  # from 1
    reason: str


def of_flag(session: Session, flag: StoredFlag, state: FlagState) -> Record:
    """The label of a flag's event. `state`: confirmed or false_positive, as it is stored.

    All of it comes from what is stored, so sending it again sends the same record.
    """
    return {
        "flag_id": flag.flag_id,
        "event_id": flag.event_id,
        "user_id": flag.user_id,
        "event_time": flag.window_end_ms,
        "label": LABEL_OF[state.state],
        "analyst": state.by,
        "time": state.updated_at_ms,
        **stored_entities(session, flag.user_id, flag.window_end_ms, flag.event_id),
    }


def stored_entities(
    session: Session, user_id: str, event_time_ms: int, event_id: str
) -> dict[str, str]:
    """What the scored event was about, by its stored row: type and shared entities; {} without."""
    names = ("event_type", *ENTITIES)
    row = execute(
        session,
        f"SELECT {', '.join(names)} FROM risk_score"
        " WHERE user_id = %s AND event_time = %s AND event_id = %s",
        (user_id, from_ms(event_time_ms), event_id),
    ).one()
    return {} if row is None else {name: value for name in names if (value := getattr(row, name))}


def problem(record: Any) -> str | None:
    """What is wrong with a record by the schema, in a line that names the field; None: nothing."""
    error = jsonschema.exceptions.best_match(_validator().iter_errors(record))
    if error is None:
        return None
    where = ".".join(map(str, error.absolute_path))
    return f"{where}: {error.message}" if where else error.message


def send(settings: Settings, records: Iterable[Record]) -> int:
    """Sends records and waits for every receipt; returns how many. They must be valid.

    Raises ServiceError if Kafka doesn't answer, lacks the topic, or didn't take one. What had been
    sent by then stays sent: sending all again is harmless.
    """
    topic = settings.topics.feedback
    offsets.ranges(settings, topic)  # says at once and clearly that Kafka or the topic isn't there
    return send_all(
        settings,
        topic,
        ((record["user_id"].encode(), orjson.dumps(record), {}) for record in records),
    )


def read_labels(file: Path, analyst: str) -> Iterator[Record | Rejected]:
    """The labels of a file: records, and what is none with the reason, in the file's order.

    file: JSON lines, or Parquet (.parquet). A row has event_id, user_id, label, event_time, when
    the label became known as `time` or `known_at`, and maybe analyst, event_type and entities;
    other columns are left out. analyst: for rows that name none.
    Raises InputError if it can't be read.
    """
    if not file.is_file():
        raise InputError(f"no file at {file}")
    yield from _checked(_parquet(file) if file.suffix == ".parquet" else _lines(file), analyst)


def read_given(settings: Settings, file: Path | None, analyst: str) -> Iterator[Record | Rejected]:
    """As `read_labels`; without a file, the labels that the topic holds now.

    Raises also ServiceError.
    """
    if file is not None:
        yield from read_labels(file, analyst)
    else:
        records = read_topic(settings, settings.topics.feedback)
        yield from _checked((_parsed(record.value or b"") for record in records), analyst)


def _checked(rows: Iterable[Any], analyst: str) -> Iterator[Record | Rejected]:
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            record = _normal(row, analyst)
            reason = problem(record)
            yield record if reason is None else Rejected(number, reason)
        else:
            yield Rejected(number, "is no JSON object")


def rows_estimate(file: Path) -> int:
    """How many rows a progress bar may expect; 0: unknown."""
    if not file.is_file():
        return 0
    if file.suffix == ".parquet":
        with _named(file):
            return pq.read_metadata(file).num_rows
    with file.open("rb") as lines:
        return sum(1 for _ in lines)


def valid(
    rows: Iterable[Record | Rejected],
    on_rejected: Callable[[Rejected], None],
    on_row: Callable[[], None] = lambda: None,
) -> Iterator[Record]:
    """The records among the rows; the others go to on_rejected, and on_row counts both."""
    for row in rows:
        on_row()
        if isinstance(row, Rejected):
            on_rejected(row)
        else:
            yield row


@cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text("utf-8")))


def _normal(row: Record, analyst: str) -> Record:
    """Known fields only, numbers that are ids as text, Parquet times as milliseconds."""
    given = dict(row)
    if given.get("time") is None:
        given["time"] = given.get("known_at")
    if given.get("analyst") in (None, ""):
        given["analyst"] = analyst
    record = {name: given[name] for name in FIELDS if given.get(name) not in (None, "")}
    for name in IDS:
        value = record.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            record[name] = str(value)
    for name in "event_time", "time":
        if isinstance(record.get(name), datetime):
            record[name] = to_ms(record[name])
    return record


def _lines(file: Path) -> Iterator[Any]:
    with file.open("rb") as lines:
        yield from map(_parsed, lines)


def _parsed(text: bytes) -> Any:
    """None for what is no JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _parquet(file: Path) -> Iterator[Record]:
    with _named(file), pq.ParquetFile(file) as source:
        known = [name for name in source.schema_arrow.names if name in (*FIELDS, "known_at")]
        for batch in source.iter_batches(BATCH_ROWS, columns=known):
            yield from batch.to_pylist()


class _named:
    """Turns what Arrow says about a file into one line that names it."""

    def __init__(self, file: Path):
        self._file = file

    def __enter__(self) -> None:
        """Nothing to open."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (pa.ArrowException, OSError)):
            text = " ".join(str(error).split())[:300]
            raise InputError(f"{self._file}: {text}") from None
