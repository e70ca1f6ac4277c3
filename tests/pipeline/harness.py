"""The real job on files: records in, what it stored and sent out, in an embedded Flink."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pyflink.table import EnvironmentSettings, TableEnvironment

from jobs import expressions as sql
from jobs import profile_job, tables
from liveprofile.config import Settings
from tests.pipeline import stores
from tests.reference import Record
from udfs.operator import profile_operator
from udfs.store import MemoryStore

SINK = "record_key STRING, payload STRING, topic STRING, headers MAP<STRING, BYTES>"


class Sent(NamedTuple):
    topic: str
    key: str | None
    value: str | None
    headers: dict[str, str]

    @property
    def position(self) -> tuple[int, int]:
        return int(self.headers["partition"]), int(self.headers["offset"])


class Output(NamedTuple):
    store: MemoryStore
    sent: list[Sent]

    def to(self, topic: str) -> list[Sent]:
        return [sent for sent in self.sent if sent.topic == topic]


def sendable(record: Record) -> bool:
    """A file of JSON text can't carry bytes that are no UTF-8; the services tests send those."""
    try:
        return record.value is None or record.value.decode("utf-8") is not None
    except UnicodeDecodeError:
        return False


def source_table(path: Path, settings: Settings) -> str:
    clock = sql.event_clock("payload", "record_time", settings.limits.future_ms)
    return f"""
        CREATE TEMPORARY TABLE source (
            payload STRING, record_topic STRING, record_partition INT, record_offset BIGINT,
            record_ms BIGINT, record_time AS TO_TIMESTAMP_LTZ(record_ms, 3),
            event_clock AS {clock.replace("record_time", "TO_TIMESTAMP_LTZ(record_ms, 3)")},
            arrival AS PROCTIME(),
            WATERMARK FOR event_clock AS {sql.watermark(settings.window)}
        ) WITH ('connector' = 'filesystem', 'path' = '{path.as_uri()}', 'format' = 'json')"""


def write_records(path: Path, records: Iterable[Record], topic: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            row = {
                "payload": None if record.value is None else record.value.decode(),
                "record_topic": topic,
                "record_partition": record.partition,
                "record_offset": record.offset,
                "record_ms": record.timestamp_ms,
            }
            file.write(json.dumps(row) + "\n")


def read_sent(folder: Path) -> Iterable[Sent]:
    for file in sorted(folder.rglob("part-*")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            headers = {
                name: base64.b64decode(value).decode() for name, value in row["headers"].items()
            }
            yield Sent(row["topic"], row.get("record_key"), row.get("payload"), headers)


def run_job(records: list[Record], settings: Settings, folder: Path) -> Output:
    """Runs jobs.profile_job's path over `records` to its end, which closes every window."""
    store = stores.renew()
    events, sent = folder / "events.json", folder / "sent"
    write_records(events, records, settings.topics.events)
    t_env = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    plan = profile_job.build(
        t_env,
        settings,
        source=source_table(events, settings),
        sink=tables.file_sink("sink", sent, SINK),
        update_profile=profile_operator(settings, stores.open_shared),
    )
    plan.execute().wait()
    return Output(store, list(read_sent(sent)))
