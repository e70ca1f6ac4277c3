"""Twin users with the same events, and `liveprofile correct` that is killed for some of them."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cassandra.cluster import Session

from liveprofile.storage.schema import table_columns
from liveprofile.units import MINUTE_MS
from tests.support.job_under_test import CLI, COMMAND_TIMEOUT_S, JobUnderTest
from tests.support.streams.seeded import Message
from tests.support.streams.shop import BURST_EVERY_HOURS, shop_events, to_message

# Fifty hours, below window.correction_days, with one burst of the regular user.
EVENTS, USERS, STEP_MS = 1_000, 12, 3 * MINUTE_MS
LATE_SHARE = 0.05
BURST = f"-{BURST_EVERY_HOURS - 1}-"  # in the ids of its events
# Differ between twins: what is computed from ids, and the time of the run.
OF_IDS = frozenset({"digests", "flag_id", "event_id", "bucket", "corrected_at"})
KEYS = ("user_id", "window_end", "rule_id", "revision", "segment", "since")
TOLERANCE = 0.011  # value curves have two decimals
POLL_S = 0.005


class TwinStream(NamedTuple):
    in_time: list[Message]  # in the order of event time, of all groups
    late: dict[str, list[Message]]  # by group
    last_ms: int


def twin_stream(late: Iterable[str], in_time: str, start_ms: int) -> TwinStream:
    """The events of a shop once for each group of users, who have the group before their ids.

    late: groups of which a share of the events is to be sent later. in_time: a group with all of
    them in time.
    """
    rng = random.Random(5)
    stream = TwinStream([], {group: [] for group in late}, start_ms + EVENTS * STEP_MS)
    for event in itertools.islice(shop_events(5, USERS, STEP_MS, start_ms), EVENTS):
        is_late = rng.random() < LATE_SHARE or BURST in event["event_id"]
        stream.in_time.append(_of_group(event, in_time))
        for group, later in stream.late.items():
            (later if is_late else stream.in_time).append(_of_group(event, group))
    return stream


def _of_group(event: dict[str, Any], group: str) -> Message:
    ids = {name: f"{group}-{event[name]}" for name in ("event_id", "user_id")}
    return to_message(event | ids)


def rows_of_group(session: Session, group: str) -> dict[tuple[Any, ...], Any]:
    """The rows of the group's users by table and key, without what follows from their ids."""
    found: dict[tuple[Any, ...], Any] = {}
    for table, columns in table_columns().items():
        if "user_id" not in columns:
            continue
        for row in session.execute(f"SELECT * FROM {table}", timeout=60):
            if row.user_id.startswith(f"{group}-"):
                values = row._asdict() | {"user_id": row.user_id.removeprefix(f"{group}-")}
                key = (table, *(values.get(name) for name in KEYS))
                assert key not in found, key
                found[key] = {
                    name: _parsed(value) for name, value in values.items() if name not in OF_IDS
                }
    return found


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value[:1] in ("{", "[") else value


def approximately(value: Any) -> Any:
    """The value to compare with: the model's sums depend on the other rows of a batch."""
    if isinstance(value, float):
        return pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE)
    if isinstance(value, dict):
        return {name: approximately(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [approximately(each) for each in value]
    return value


def write_times(session: Session, group: str) -> set[tuple[Any, ...]]:
    """Key and write time of each delta and profile of the group."""
    columns = {
        "profile_delta": "user_id, window_end, writetime(delta)",
        "user_profile": "user_id, writetime(profile)",
    }
    return {
        (table, *row)
        for table, selected in columns.items()
        for row in session.execute(f"SELECT {selected} FROM {table}", timeout=60)
        if row.user_id.startswith(f"{group}-")
    }


def count_rows(session: Session, group: str, table: str, column: str) -> int:
    """The number of the group's rows with a value in `column`."""
    rows = session.execute(f"SELECT user_id, {column} AS value FROM {table}", timeout=60)
    return sum(row.user_id.startswith(f"{group}-") and row.value is not None for row in rows)


def kill_correction(job: JobUnderTest, folder: Path, is_reached: Callable[[], bool]) -> bool:
    """Runs `correct` and kills it, with its processes, as soon as `is_reached`.

    folder: for temporary files, which a killed process leaves. False if it ended before.
    """
    command = [str(CLI), "correct", "--config", str(job.config_file)]
    with subprocess.Popen(
        command,
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        deadline_s = time.monotonic() + COMMAND_TIMEOUT_S
        while process.poll() is None and not is_reached():
            assert time.monotonic() < deadline_s, "the correction does not reach this point"
            time.sleep(POLL_S)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode == -signal.SIGKILL
