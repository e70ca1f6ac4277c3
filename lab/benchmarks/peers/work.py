"""What every peer does in the same way: reads events, makes rows, calls the updater.

A peer is a program `python -m lab.benchmarks.peers.NAME CONFIG NUMBER FOLDER`, one of several
processes. It writes `FOLDER/ready-NUMBER` when its model is loaded, and runs until it is killed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from benchmarks.support.journal import Journal
from lab.benchmarks.peers.tiles import UserTiles, simple_attributes
from lab.benchmarks.storage import profile_updater
from liveprofile.events.validation import HEARTBEAT, TYPES, accept
from liveprofile.resources import product_path
from liveprofile.settings import LimitSettings, Settings, load
from models.profile.inference import ProfileModel
from tests.support.rows.profile_input import UserState, batch_of
from udfs.pipeline_udf import collect_rarely
from udfs.profile.store import open_profile_store

SNAPSHOT_S = 10  # as often as the job's checkpoints
SOURCE_ROWS = 4_000  # per read: makes the model's batches as large as the job's

Row = tuple[Any, ...]  # the fields of ProfileBatch


class ParsedEvent(NamedTuple):
    """An event; the tuples sort by time and id."""

    time_ms: int
    event_id: str
    event: dict[str, Any]
    payload: str


class Options(NamedTuple):
    settings: Settings
    number: int  # of the process
    folder: Path  # for journals, state and ready files
    arguments: list[str]


def options() -> Options:
    """The command line of a peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("number", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("arguments", nargs="*")
    given = parser.parse_args()
    return Options(load(given.config), given.number, given.folder, given.arguments)


def say_ready(given: Options) -> None:
    (given.folder / f"ready-{given.number}").touch()


def wait_for_parent() -> None:
    """Returns when the command starts the clock, and the next time not before it kills."""
    sys.stdin.readline()


def is_heartbeat(event: dict[str, Any]) -> bool:
    return event["event_type"] == HEARTBEAT


def parse(value: bytes, timestamp_ms: int, limits: LimitSettings | None) -> ParsedEvent | None:
    """The event or heartbeat of a message; None if the contract rejects it.

    limits: None: nothing is checked but the syntax.
    """
    if limits is not None and accept(value, timestamp_ms, limits, TYPES) is None:
        return None
    try:
        event = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return ParsedEvent(event["event_time"], event.get("event_id", ""), event, value.decode())


@dataclass
class PeerState:
    """What a peer keeps of a user: history, baseline sums and tiles of computed attributes."""

    windows: UserState
    tiles: UserTiles = field(default_factory=UserTiles)


class WindowRows:
    """Makes the rows of windows. Raises ConfigError for attributes that peers do not compute."""

    def __init__(self, settings: Settings):
        self._settings, self._attributes = settings, simple_attributes(settings)
        self.length_ms = settings.window.length_ms

    def new_user(self) -> PeerState:
        return PeerState(UserState(self._settings))

    def add_window(
        self,
        state: PeerState,
        user_id: str,
        start_ms: int,
        events: Iterable[ParsedEvent],
    ) -> Row:
        """The row of a user's window, in any order of events, with the state that it extends."""
        ordered = sorted(events, key=lambda event: event[:2])
        end_ms = start_ms + self.length_ms
        pairs = [(each.event, each.payload) for each in ordered]
        tiles = state.tiles.add_window(self._attributes, [event for event, _ in pairs], end_ms)
        return user_id, start_ms, end_ms, *state.windows.add_window(pairs, end_ms), tiles


class UpdateProfiles:
    """Updates profiles from rows as a worker of the job does, and stores them."""

    def __init__(self, settings: Settings, folder: Path):
        model = ProfileModel.load(
            product_path(settings.model.checkpoint),
            threads=settings.model.threads,
            batch_rows=settings.model.batch_rows,
        )
        model.warm_up()
        sink = open_profile_store(settings, model.dim)
        self._update = profile_updater(settings, model, sink).update
        self._batch_rows = settings.job.max_bundle_rows
        self._journal = Journal(str(folder))
        collect_rarely()  # as udfs.pipeline_udf does

    def __call__(self, rows: Sequence[Row]) -> None:
        """Returns when the rows are stored. Alerts are dropped: there are only a few."""
        for first in range(0, len(rows), self._batch_rows):
            part = rows[first : first + self._batch_rows]
            self._update(batch_of(part))
            self._journal.write(len(part))


def run(peer: Callable[[Options], None]) -> None:
    """Runs a peer, and keeps its process alive until it has been measured."""
    peer(options())
    wait_for_parent()
