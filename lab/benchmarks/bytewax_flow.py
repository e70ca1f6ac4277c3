"""One process of a Bytewax dataflow that does the work of the profile pipeline.

    python -m lab.benchmarks.bytewax_flow CONFIG NUMBER ADDRESSES FOLDER [--unsafe]

It reads the topic to its end, validates and deduplicates events, collects windows with Bytewax's
own operator, keeps a user's history and baseline sums in memory (benchmarks/load/rows.py) and
passes rows to the same `ProfileUpdater` and Cassandra sink as the job. It snapshots its state every
ten seconds; after a recovery some events are used twice.

It does less than the job: rejected and late events are dropped, and each user has its own clock,
so a window closes only with the user's next event or at the end of the stream. --unsafe also leaves
out validation, deduplication and snapshots.

It needs `pip install bytewax==0.21.1`, which is not a dependency of the project.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import bytewax.operators as op
import orjson
from bytewax._bytewax import cluster_main
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.operators.windowing import EventClock, TumblingWindower, collect_window
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig

from benchmarks.load.rows import UserState, batch_of
from benchmarks.support.journal import Journal
from lab.benchmarks.against_bytewax import PROCESSES, RECOVERY
from lab.benchmarks.storage import profile_updater
from liveprofile.events.validation import accept
from liveprofile.resources import product_path
from liveprofile.settings import Settings, load
from models.profile.inference import ProfileModel
from udfs.pipeline_udf import collect_rarely
from udfs.profile.sink import open_profile_sink

SOURCE_ROWS = 4_000  # per read: makes the model's batches as large as the job's
SNAPSHOT_INTERVAL = timedelta(seconds=10)
ALIGNED_TO = datetime(2020, 1, 1, tzinfo=UTC)


class ParsedEvent(NamedTuple):
    """A valid event; the tuples sort by time and id."""

    time_ms: int
    event_id: str
    event: dict[str, Any]
    payload: str


class ParseAndValidate:
    """Turns messages of the topic into pairs of user id and event; drops invalid messages."""

    def __init__(self, settings: Settings, checks: bool):
        self._limits, self._checks = settings.limits, checks

    def __call__(self, messages: list[KafkaSourceMessage]) -> list[tuple[str, ParsedEvent]]:
        parsed, now_ms = [], round(time.time() * 1_000)
        for message in messages:
            if self._checks and accept(message.value, now_ms, self._limits) is None:
                continue
            try:
                event = orjson.loads(message.value)
            except orjson.JSONDecodeError:
                continue
            if event["event_type"] != "heartbeat":
                parsed_event = ParsedEvent(
                    event["event_time"], event["event_id"], event, message.value.decode()
                )
                parsed.append((event["user_id"], parsed_event))
        return parsed


class UserLogic(StatefulBatchLogic):
    """Base class for operators per user without timers."""

    def on_notify(self) -> tuple[list[Any], bool]:
        return [], StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[list[Any], bool]:
        return [], StatefulBatchLogic.RETAIN

    def notify_at(self) -> None:
        return None


class Deduplicate(UserLogic):
    """Drops events of a user whose event_id has occurred before."""

    def __init__(self, resumed_state: set[str] | None):
        self._ids = resumed_state or set()

    def on_batch(self, values: list[ParsedEvent]) -> tuple[list[ParsedEvent], bool]:
        unseen = []
        for value in values:
            if value.event_id not in self._ids:
                self._ids.add(value.event_id)
                unseen.append(value)
        return unseen, StatefulBatchLogic.RETAIN

    def snapshot(self) -> set[str]:
        return set(self._ids)


class BuildRows(UserLogic):
    """Turns the windows of a user into rows for the profile operator."""

    def __init__(self, settings: Settings, resumed_state: UserState | None):
        self._length_ms = settings.window.length_ms
        self._user = resumed_state or UserState(settings)

    def on_batch(self, values: list[tuple[int, list[ParsedEvent]]]) -> tuple[list[Any], bool]:
        rows = []
        for number, events in values:
            start_ms = round(ALIGNED_TO.timestamp() * 1_000) + number * self._length_ms
            end_ms = start_ms + self._length_ms
            events = [
                (parsed_event.event, parsed_event.payload)
                for parsed_event in sorted(events, key=lambda x: x[:2])
            ]
            rows.append((start_ms, end_ms, *self._user.add_window(events, end_ms)))
        return rows, StatefulBatchLogic.RETAIN

    def snapshot(self) -> UserState:
        return copy.deepcopy(self._user)


class UpdateProfiles:
    """Updates profiles from rows, stores them and returns the alert messages."""

    def __init__(self, settings: Settings, journal: Journal):
        model = ProfileModel.load(
            product_path(settings.model.checkpoint),
            threads=settings.model.threads,
            batch_rows=settings.model.batch_rows,
        )
        model.warm_up()
        sink = open_profile_sink(settings, model.dim)
        self._updater = profile_updater(settings, model, sink)
        self._journal = journal
        collect_rarely()  # as udfs.pipeline_udf does

    def __call__(self, rows: list[tuple[str, tuple[Any, ...]]]) -> list[str]:
        if not rows:
            return []
        batch = batch_of([(user, *columns) for user, columns in rows])
        messages_by_row = self._updater.update(batch)
        self._journal.write(len(rows))
        return [message for messages in messages_by_row for message in messages]


class DiscardSink(DynamicSink):
    """Discards the alerts: there are only a few, so sending them would take no measurable time."""

    class Partition(StatelessSinkPartition):
        def write_batch(self, items: list[str]) -> None:
            pass

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSinkPartition:
        return self.Partition()


def dataflow(settings: Settings, update: UpdateProfiles, unsafe: bool) -> Dataflow:
    flow = Dataflow("profiles")
    source = KafkaSource(
        [settings.kafka.bootstrap_servers],
        [settings.topics.events],
        tail=False,
        batch_size=SOURCE_ROWS,
        add_config={"isolation.level": "read_committed", "group.id": settings.kafka.group_id},
    )
    messages = op.input("topic", flow, source)
    events = op.flat_map_batch("read", messages, ParseAndValidate(settings, checks=not unsafe))
    if not unsafe:
        events = op.stateful_batch("unique", events, Deduplicate)
    windows = collect_window(
        "windows",
        events,
        EventClock(
            lambda parsed_event: datetime.fromtimestamp(parsed_event.time_ms / 1_000, UTC),
            timedelta(milliseconds=settings.window.out_of_orderness_ms),
        ),
        TumblingWindower(
            align_to=ALIGNED_TO, length=timedelta(milliseconds=settings.window.length_ms)
        ),
    )
    rows = op.stateful_batch("history", windows.down, lambda state: BuildRows(settings, state))
    op.output("out", op.flat_map_batch("update", rows, update), DiscardSink())
    return flow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("number", type=int)
    parser.add_argument("addresses", help="addresses of all processes, separated by ;")
    parser.add_argument("folder", type=Path, help="folder for journals and ready files")
    parser.add_argument(
        "--unsafe", action="store_true", help="no validation, deduplication and snapshots"
    )
    options = parser.parse_args()
    settings = load(options.config)
    update = UpdateProfiles(settings, Journal(str(options.folder)))
    flow = dataflow(settings, update, options.unsafe)
    recovery = {}
    if not options.unsafe:
        recovery = {
            "epoch_interval": SNAPSHOT_INTERVAL,
            "recovery_config": RecoveryConfig(str(options.folder / RECOVERY)),
        }
    (options.folder / f"ready-{options.number}").write_text(json.dumps(time.time()))
    while len(list(options.folder.glob("ready-*"))) < PROCESSES:
        time.sleep(0.01)
    cluster_main(flow, options.addresses.split(";"), options.number, **recovery)


if __name__ == "__main__":
    main()
