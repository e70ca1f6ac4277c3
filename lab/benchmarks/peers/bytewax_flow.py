"""A Bytewax dataflow that does the work of the profile pipeline.

It reads the topic to its end, validates and deduplicates events, collects windows with Bytewax's
own operator and keeps a user's history and baseline sums in memory. It snapshots its state every
ten seconds; after a recovery some events are used twice.

It does less than the job: rejected and late events are dropped, and each user has its own clock,
so a window closes only with the user's next event or at the end of the stream. `unchecked` also
leaves out validation, deduplication and snapshots.
"""

from __future__ import annotations

import copy
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
from bytewax._bytewax import cluster_main, init_db_dir
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.operators.windowing import EventClock, TumblingWindower, collect_window
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig

from lab.benchmarks.peers.work import (
    SNAPSHOT_S,
    SOURCE_ROWS,
    Options,
    ParsedEvent,
    PeerState,
    UpdateProfiles,
    WindowRows,
    is_heartbeat,
    parse,
    run,
    say_ready,
    wait_for_parent,
)
from liveprofile.settings import Settings

ALIGNED_TO = datetime(2020, 1, 1, tzinfo=UTC)


class ParseAndValidate:
    """Turns messages of the topic into pairs of user id and event; drops invalid messages."""

    def __init__(self, settings: Settings, checks: bool):
        self._limits = settings.limits if checks else None

    def __call__(self, messages: list[KafkaSourceMessage]) -> list[tuple[str, ParsedEvent]]:
        now_ms = round(time.time() * 1_000)
        events = (parse(message.value, now_ms, self._limits) for message in messages)
        return [
            (each.event["user_id"], each)
            for each in events
            if each and not is_heartbeat(each.event)
        ]


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
    """Turns the windows of a user into rows without the user's id."""

    def __init__(self, rows: WindowRows, resumed_state: PeerState | None):
        self._rows, self._user = rows, resumed_state or rows.new_user()

    def on_batch(self, values: list[tuple[int, list[ParsedEvent]]]) -> tuple[list[Any], bool]:
        rows = []
        for number, events in sorted(values):  # at the end of the topic all windows close at once
            start_ms = round(ALIGNED_TO.timestamp() * 1_000) + number * self._rows.length_ms
            row = self._rows.add_window(self._user, "", start_ms, events)
            rows.append(row[1:])
        return rows, StatefulBatchLogic.RETAIN

    def snapshot(self) -> PeerState:
        return copy.deepcopy(self._user)


class ProfileSink(DynamicSink):
    """Updates and stores profiles; the worker of a process has the only partition."""

    class Partition(StatelessSinkPartition):
        def __init__(self, update: UpdateProfiles):
            self._update = update

        def write_batch(self, items: list[tuple[str, tuple[Any, ...]]]) -> None:
            self._update([(user, *columns) for user, columns in items])

    def __init__(self, update: UpdateProfiles):
        self._update = update

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSinkPartition:
        return self.Partition(self._update)


def dataflow(settings: Settings, update: UpdateProfiles, checks: bool) -> Dataflow:
    flow = Dataflow("profiles")
    source = KafkaSource(
        [settings.kafka.bootstrap_servers],
        [settings.topics.events],
        tail=False,
        batch_size=SOURCE_ROWS,
        add_config={"isolation.level": "read_committed", "group.id": settings.kafka.group_id},
    )
    messages = op.input("topic", flow, source)
    events = op.flat_map_batch("read", messages, ParseAndValidate(settings, checks))
    if checks:
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
    made = WindowRows(settings)
    rows = op.stateful_batch("history", windows.down, lambda state: BuildRows(made, state))
    op.output("profiles", rows, ProfileSink(update))
    return flow


def profiles(given: Options) -> None:
    processes, addresses, *unchecked = given.arguments
    flow = dataflow(given.settings, UpdateProfiles(given.settings, given.folder), not unchecked)
    recovery = {}
    if not unchecked:
        store = given.folder / "recovery"
        if given.number == 0:
            store.mkdir()
            init_db_dir(store, int(processes))
        recovery = {
            "epoch_interval": timedelta(seconds=SNAPSHOT_S),
            "recovery_config": RecoveryConfig(str(store)),
        }
    say_ready(given)
    wait_for_parent()
    cluster_main(flow, addresses.split(";"), given.number, **recovery)


if __name__ == "__main__":
    run(profiles)
