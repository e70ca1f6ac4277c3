"""What computed attributes cost: CPU of an event and bytes of a profile, by their number.

The job's views run in an embedded Flink without Python and sinks. The difference of two runs has
neither planning nor start-up.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pyflink.table import EnvironmentSettings, TableEnvironment

from benchmarks.load.workload import Workload
from benchmarks.support import runs
from jobs import profile_job
from jobs.sql import event_views, profile_views, tables
from jobs.sql import expressions as sql
from liveprofile.flink.launcher import embedded_environment
from liveprofile.settings import Settings, load

FEW, MANY = 100_000, 500_000
_COLUMNS = "user_id STRING, window_end_ms BIGINT, history STRING, attribute_tiles STRING"


def attributes(numbers: Sequence[int], users: int) -> list[dict[str, Any]]:
    """Measures so many attributes each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(embedded_environment(folder / "jars"))
        for events in (FEW, MANY):
            _write_events(folder / f"{events}.json", Workload.of(events, users))
        _measure(folder, 0, FEW)  # warms up
        found = []
        for number in numbers:
            few, many = (_measure(folder, number, events) for events in (FEW, MANY))
            us = (many["cpu_s"] - few["cpu_s"]) / (MANY - FEW) * 1e6
            found.append({"attributes": number, "cpu_us_per_event": round(us, 1)} | many)
            runs.log_progress(str(found[-1]))
        return found


def _write_events(path: Path, workload: Workload) -> None:
    with path.open("w") as file:
        for number, message in enumerate(workload.messages()):
            row = {"payload": message.value.decode(), "record_topic": "t", "record_partition": 0}
            file.write(json.dumps(row | {"record_offset": number, "record_ms": 2**41}) + "\n")


def _definitions(number: int) -> str:
    """Definitions that differ in type, condition, aggregate and span."""
    aggregates = ("count", "sum", "mean", "max", "last", "hours_since")
    kinds = product(
        ("view", "cart", "purchase"), aggregates, ("2 h", "1 d", "30 d", ""), ("", "amount > 20")
    )
    text = 'version = "1"\n' + ("" if number else "attributes = []\n")
    for place, (of, aggregate, within, where) in enumerate(islice(cycle(kinds), number)):
        value = "" if aggregate in ("count", "hours_since") else "amount"
        text += (
            f'[[attributes]]\nid = "a{place}"\ntype = "number"\ndescription = "."\n'
            f'computed = {{ of = "{of}", aggregate = "{aggregate}", value = "{value}",'
            f' within = "{within}", where = "{where}" }}\n'
        )
    return text


def _measure(folder: Path, number: int, events: int) -> dict[str, Any]:
    definitions, rows = folder / f"{number}.toml", folder / f"rows-{number}-{events}"
    definitions.write_text(_definitions(number))
    settings = load(attributes=str(definitions), job={"parallelism": 1})
    t_env = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    profile_job.configure(t_env, settings)
    t_env.get_config().set("state.backend.type", "rocksdb")
    t_env.execute_sql(_source(folder / f"{events}.json", settings))
    event_views.create_views(t_env, profile_views.queries("source", settings, streaming=True))
    t_env.execute_sql(tables.file_sink("sink", rows, _COLUMNS))
    before_s = _cpu_s()
    t_env.execute_sql(
        f"INSERT INTO sink SELECT user_id, {sql.epoch_ms('window_end')}, history, attribute_tiles"
        " FROM profile_input"
    ).wait()
    cpu_s = _cpu_s() - before_s
    size = [
        len(json.loads(line)["attribute_tiles"])
        for file in rows.rglob("part-*")
        for line in file.read_text().splitlines()
    ]
    return {"cpu_s": round(cpu_s, 2), "windows": len(size), "json_bytes": round(np.mean(size))}


def _source(path: Path, settings: Settings) -> str:
    clock = sql.event_clock(
        "payload", "TO_TIMESTAMP_LTZ(record_ms, 3)", settings.limits.max_clock_skew_ms
    )
    return f"""
        CREATE TEMPORARY TABLE source (
            payload STRING, record_topic STRING, record_partition INT, record_offset BIGINT,
            record_ms BIGINT, record_time AS TO_TIMESTAMP_LTZ(record_ms, 3),
            event_clock AS {clock}, arrival AS PROCTIME(),
            WATERMARK FOR event_clock AS {sql.watermark(settings.window)}
        ) WITH ('connector' = 'filesystem', 'path' = '{path.as_uri()}', 'format' = 'json')"""


def _cpu_s() -> float:
    """Of the JVM."""
    return sum(sum(each.cpu_times()[:2]) for each in psutil.Process().children(recursive=True))
