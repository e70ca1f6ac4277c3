"""One process of a Bytewax dataflow that does what the job does for windows.

    python -m benchmarks.bytewax_flow CONFIG NUMBER ADDRESSES FOLDER [--unsafe]

It reads the topic to its end, checks and de-duplicates, collects windows by Bytewax's own operator,
keeps a user's history and sums in memory (benchmarks/load/rows.py) and hands rows to the same
`ProfileUpdater` and `CassandraStore`. A snapshot each ten seconds lets it recover, with events used
twice. Not done: rejected and late events go nowhere, and a clock of its own for each user closes a
window only when that user's next event comes, or the stream ends. --unsafe leaves out checks,
de-duplication and snapshots as well.

Needs `pip install bytewax==0.21.1`, which is no dependency of the project.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import bytewax.operators as op
import numpy as np
import orjson
from bytewax._bytewax import cluster_main
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.operators.windowing import EventClock, TumblingWindower, collect_window
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig

from benchmarks.against_bytewax import PROCESSES, RECOVERY
from benchmarks.load.rows import User
from benchmarks.support.journal import Journal
from liveprofile.config import Settings, load
from liveprofile.resources import product_path
from liveprofile.rules.rules import read_rules
from liveprofile.wire.tokens import EVENT_TYPES, ID_CHARS
from models.profile.inference import ProfileModel
from udfs.profile.batch import Batch, ProfileUpdater
from udfs.profile.sink import open_profile_sink
from udfs.rules_feed import RulesFeed

SOURCE_ROWS = 4_000  # of a read; it makes batches for the model as large as the job's
SNAPSHOT_EACH = timedelta(seconds=10)
ALIGNED_TO = datetime(2020, 1, 1, tzinfo=UTC)
_NUMBERS = ("price", "quantity", "amount", "rating")


class Seen(NamedTuple):
    """An event on its way to its window; sorts by time and id."""

    time_ms: int
    event_id: str
    event: dict[str, Any]
    payload: str


class Reader:
    """Messages of the topic in, (user, event) out."""

    def __init__(self, settings: Settings, checks: bool):
        self._limits, self._checks = settings.limits, checks

    def __call__(self, messages: list[KafkaSourceMessage]) -> list[tuple[str, Seen]]:
        found = []
        for message in messages:
            try:
                event = orjson.loads(message.value)
            except orjson.JSONDecodeError:
                continue
            if self._checks and self._reason(message.value, event):
                continue
            if event["event_type"] != "heartbeat":
                seen = Seen(event["event_time"], event["event_id"], event, message.value.decode())
                found.append((event["user_id"], seen))
        return found

    def _reason(self, payload: bytes, event: Any) -> str | None:
        """The main ones of docs/data-contract.md, section 2."""
        if len(payload) > self._limits.payload_chars:
            return "TOO_LARGE"
        if not isinstance(event, dict):
            return "NOT_JSON"
        kind, time_ms = event.get("event_type"), event.get("event_time")
        if not kind or time_ms is None:
            return "MISSING_FIELD"
        if kind == "heartbeat":
            return None
        for field in ("event_id", "user_id"):
            value = event.get(field)
            if not value or isinstance(value, bool | float | list | dict):
                return "MISSING_FIELD"
            if len(str(value)) > ID_CHARS or any(char < " " for char in str(value)):
                return "BAD_ID"
        if kind not in EVENT_TYPES:
            return "UNKNOWN_TYPE"
        if not isinstance(time_ms, int):
            return "BAD_TIME"
        if time_ms > time.time() * 1_000 + self._limits.max_clock_skew_ms:
            return "FUTURE_TIME"
        try:
            numbers = [float(event[field]) for field in _NUMBERS if event.get(field) is not None]
        except (TypeError, ValueError):
            return "BAD_NUMBER"
        return None if all(map(np.isfinite, numbers)) else "BAD_NUMBER"


class PerUser(StatefulBatchLogic):
    """What needs no clock."""

    def on_notify(self) -> tuple[list[Any], bool]:
        return [], StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[list[Any], bool]:
        return [], StatefulBatchLogic.RETAIN

    def notify_at(self) -> None:
        return None


class Unique(PerUser):
    """Drops the events of a user that were here before."""

    def __init__(self, resumed: set[str] | None):
        self._ids = resumed or set()

    def on_batch(self, values: list[Seen]) -> tuple[list[Seen], bool]:
        new = []
        for value in values:
            if value.event_id not in self._ids:
                self._ids.add(value.event_id)
                new.append(value)
        return new, StatefulBatchLogic.RETAIN

    def snapshot(self) -> set[str]:
        return set(self._ids)


class History(PerUser):
    """A user's windows in, rows for the operator out."""

    def __init__(self, settings: Settings, resumed: User | None):
        self._length_ms = settings.window.length_ms
        self._user = resumed or User(settings)

    def on_batch(self, values: list[tuple[int, list[Seen]]]) -> tuple[list[Any], bool]:
        rows = []
        for number, events in values:
            start_ms = round(ALIGNED_TO.timestamp() * 1_000) + number * self._length_ms
            end_ms = start_ms + self._length_ms
            events = [(seen.event, seen.payload) for seen in sorted(events, key=lambda x: x[:2])]
            rows.append((start_ms, end_ms, *self._user.close(events, end_ms)))
        return rows, StatefulBatchLogic.RETAIN

    def snapshot(self) -> User:
        return copy.deepcopy(self._user)


class Update:
    """Rows in; when it returns, they are stored. Messages out."""

    def __init__(self, settings: Settings, journal: Journal):
        model = ProfileModel.load(
            product_path(settings.model.checkpoint),
            threads=settings.model.threads,
            batch_rows=settings.model.batch_rows,
            length_buckets=settings.model.length_buckets,
        )
        model.warm_up()
        rules = RulesFeed(read_rules(product_path(settings.rules)))
        self._updater = ProfileUpdater(
            settings, model, open_profile_sink(settings, model.dim), rules
        )
        self._journal = journal
        gc.collect()
        gc.freeze()  # as udfs.profile.udf does

    def __call__(self, rows: list[tuple[str, tuple[Any, ...]]]) -> list[str]:
        if not rows:
            return []
        users, columns = zip(*rows, strict=True)
        starts_ms, ends_ms, events, histories, added, sums = zip(*columns, strict=True)
        sent = self._updater.update(
            Batch(
                list(users), np.array(starts_ms), np.array(ends_ms), list(events),
                list(histories), np.stack(added), np.stack(sums),
            )
        )  # fmt: skip
        self._journal.write(len(rows), {})
        return [message for messages in sent for message in messages]


class Nowhere(DynamicSink):
    """A handful of alerts: sending them would cost nothing."""

    class Partition(StatelessSinkPartition):
        def write_batch(self, items: list[str]) -> None:
            pass

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSinkPartition:
        return self.Partition()


def dataflow(settings: Settings, update: Update, unsafe: bool) -> Dataflow:
    flow = Dataflow("profiles")
    source = KafkaSource(
        [settings.kafka.bootstrap_servers],
        [settings.topics.events],
        tail=False,
        batch_size=SOURCE_ROWS,
        add_config={"isolation.level": "read_committed", "group.id": settings.kafka.group_id},
    )
    messages = op.input("topic", flow, source)
    events = op.flat_map_batch("read", messages, Reader(settings, checks=not unsafe))
    if not unsafe:
        events = op.stateful_batch("unique", events, Unique)
    windows = collect_window(
        "windows",
        events,
        EventClock(
            lambda seen: datetime.fromtimestamp(seen.time_ms / 1_000, UTC),
            timedelta(milliseconds=settings.window.out_of_orderness_ms),
        ),
        TumblingWindower(
            align_to=ALIGNED_TO, length=timedelta(milliseconds=settings.window.length_ms)
        ),
    )
    rows = op.stateful_batch("history", windows.down, lambda state: History(settings, state))
    op.output("out", op.flat_map_batch("update", rows, update), Nowhere())
    return flow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("number", type=int)
    parser.add_argument("addresses", help="of all processes, with ; between them")
    parser.add_argument("folder", type=Path, help="for journals, and for who is ready")
    parser.add_argument("--unsafe", action="store_true")
    options = parser.parse_args()
    settings = load(options.config)
    update = Update(settings, Journal(str(options.folder)))
    flow = dataflow(settings, update, options.unsafe)
    recovery = {} if options.unsafe else {
        "epoch_interval": SNAPSHOT_EACH,
        "recovery_config": RecoveryConfig(str(options.folder / RECOVERY)),
    }  # fmt: skip
    (options.folder / f"ready-{options.number}").write_text(json.dumps(time.time()))
    while len(list(options.folder.glob("ready-*"))) < PROCESSES:
        time.sleep(0.01)
    cluster_main(flow, options.addresses.split(";"), options.number, **recovery)


if __name__ == "__main__":
    main()
