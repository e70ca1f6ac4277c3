"""What the peers share, and how their figures are compared."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.load.workload import Workload
from lab.benchmarks.peers import command, comparison
from lab.benchmarks.peers.environments import requirements, version
from lab.benchmarks.peers.floor import OpenWindows
from lab.benchmarks.peers.tiles import UserTiles, simple_attributes
from lab.benchmarks.peers.work import Row, WindowRows, parse
from lab.benchmarks.storage import profile_updater
from liveprofile.attributes.computed import values_at
from liveprofile.errors import ConfigError, ServiceError
from liveprofile.flink.launcher import embedded_environment
from liveprofile.settings import Settings, load
from liveprofile.toml_text import to_toml
from liveprofile.units import DAY_MS, MINUTE_MS
from tests.pipeline.comparison import in_one_partition
from tests.pipeline.harness import run_profile_pipeline
from tests.reference import computed
from tests.support.memory.sinks import MemoryProfileSink
from tests.support.model_scores import load_model
from tests.support.rows.profile_input import batch_of, batches
from udfs.profile.rows import WRITTEN

WORKLOAD = Workload(600, 10, hours=1)


def _heartbeat(time_ms: int) -> bytes:
    return b'{"event_type":"heartbeat","event_time":%d}' % time_ms


def _rows(settings: Settings, workload: Workload) -> dict[int, list[Row]]:
    """The rows of a workload by the start of their window, as the peers make them."""
    made, windows = WindowRows(settings), defaultdict(lambda: defaultdict(list))
    users = defaultdict(made.new_user)
    for message in workload.messages():
        event = parse(message.value, 0, None)
        start_ms = event.time_ms - event.time_ms % made.length_ms
        windows[start_ms][message.key.decode()].append(event)
    return {
        start_ms: [
            made.add_window(users[user], user, start_ms, events[::-1])
            for user, events in of_user.items()
        ]
        for start_ms, of_user in windows.items()
    }


def test_rows_in_any_order_of_events_are_those_of_the_benchmarks_load() -> None:
    settings = load()
    found = {row[:2]: row for rows in _rows(settings, WORKLOAD).values() for row in rows}
    expected = [
        row
        for batch in batches(WORKLOAD.messages(), settings, 100)
        for row in zip(*batch, strict=True)
    ]
    assert len(found) == len(expected) == WORKLOAD.profiles(settings.window)
    for row in expected:
        *others, tiles = zip(found[row[:2]], row, strict=True)
        assert all(np.array_equal(one, other) for one, other in others)
        assert tiles[0] and not tiles[1]


DEFINITIONS = [
    {"of": of, "aggregate": aggregate, "value": value, "within": within, "since_last": since}
    for of in ([], ["view", "cart"])
    for within in ("", "5 min", "2 h", "1 d")
    for since in ("", "purchase")
    for aggregate, value in (
        *((each, "") for each in ("count", "hours_since")),
        *((each, "amount") for each in ("sum", "mean", "min", "max", "first", "last")),
    )
]


def test_tiles_have_the_values_of_the_reference(tmp_path: Path) -> None:
    """Events of one minute have one time; the last windows come after weeks without one."""
    definitions = {f"a{number}": each for number, each in enumerate(DEFINITIONS)}
    settings = load(attributes=str(_attributes_file(tmp_path, definitions)))
    windows: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for number, message in enumerate(WORKLOAD.messages()):
        event = json.loads(message.value)
        days = 40 if number > 500 else number // 100
        time_ms = event["event_time"] // MINUTE_MS * MINUTE_MS + days * DAY_MS
        names = {"event_name": event["event_type"], "amount": number % 7 + 0.5}
        window = windows[time_ms // settings.window.length_ms]
        window.append(event | {"event_time": time_ms, "time_ms": time_ms} | names)
    parts, user, known, compared = simple_attributes(settings), UserTiles(), [], 0
    for number, events in windows.items():
        end_ms = (number + 1) * settings.window.length_ms
        found = values_at(json.loads(user.add_window(parts, events[::-1], end_ms)), end_ms)
        known += events
        for name, definition in definitions.items():
            expected = computed.value_at(definition, known, end_ms)
            compared += expected is not None
            assert found[name] == (expected and pytest.approx(expected)), (definition, number)
    assert compared > 2_000


@pytest.mark.parametrize(
    "of",
    [
        {"where": "amount > 1"},
        {"aggregate": "sum", "value": "rating"},
        {"aggregate": "sum", "value": "amount / 2"},
    ],
)
def test_attributes_that_read_more_are_refused(tmp_path: Path, of: dict[str, str]) -> None:
    settings = load(attributes=str(_attributes_file(tmp_path, {"a": {"aggregate": "count"} | of})))
    with pytest.raises(ConfigError, match="attribute a reads more"):
        WindowRows(settings)


def _attributes_file(folder: Path, definitions: dict[str, dict[str, Any]]) -> Path:
    file = folder / "attributes.toml"
    attributes = [
        {"id": name, "type": "number", "description": ".", "computed": each}
        for name, each in definitions.items()
    ]
    file.write_text(to_toml({"version": "1", "attributes": attributes}))
    return file


def test_profiles_equal_those_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is stored, by the job in an embedded Flink."""
    for name, value in embedded_environment(tmp_path / "jars").items():
        monkeypatch.setenv(name, value)
    settings = load(job={"parallelism": 1, "name": "peers"})
    workload = Workload(2_000, 10, hours=2)
    cut = comparison.users_with_cut_windows(workload, settings)
    records = in_one_partition(list(workload.messages()))
    of_job = run_profile_pipeline(records, settings, tmp_path).sink
    own = MemoryProfileSink()
    updater = profile_updater(settings, load_model(settings), own)
    for rows in _rows(settings, workload).values():
        updater.update(batch_of(rows))
    assert own.deltas.keys() == of_job.deltas.keys()
    found, expected = _by_user(own), _by_user(of_job)
    assert not cut and len(expected) == 10
    assert comparison.require_equal(found, expected) == "10 of 10"


def _by_user(sink: MemoryProfileSink) -> dict[str, dict[str, Any]]:
    """The stored columns of each user's windows, JSON and arrays as their values."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    columns = {column.field for table in WRITTEN.values() for column in table}
    for (user, end_ms), row in sink.deltas.items():
        stored = {name: value for name, value in row._asdict().items() if name in columns}
        parsed = {name: json.loads(stored[name]) for name in ("profile", "delta")}
        found[user][str(end_ms)] = stored | parsed | {"embedding": row.embedding.tolist()}
    return found


def test_messages_that_the_contract_rejects_are_no_events() -> None:
    value, limits = next(WORKLOAD.messages()).value, load().limits
    unknown = value.replace(b'"event_type":"', b'"event_type":"un')
    assert parse(value, WORKLOAD.end_ms, limits) == parse(value, 0, None)
    assert parse(value, 0, limits) is None  # from the future
    assert parse(unknown, WORKLOAD.end_ms, limits) is None
    assert parse(unknown, 0, None) and parse(b"{", 0, None) is None


def test_floor_makes_a_row_for_each_window_without_history() -> None:
    settings, rows = load(), []
    windows = OpenWindows(settings)
    for message in WORKLOAD.messages():
        rows += windows.add(0, message.value)
    rows += windows.add(0, _heartbeat(WORKLOAD.end_ms + settings.window.length_ms))
    assert len(rows) == WORKLOAD.profiles(settings.window)
    assert len({row[:2] for row in rows}) == len(rows)
    assert windows.add(0, _heartbeat(WORKLOAD.end_ms * 2)) == []


def test_full_histories_are_counted() -> None:
    settings = load()
    times, users = WORKLOAD.times_and_users()
    starts = (times // settings.window.length_ms).tolist()
    windows = sorted(set(zip(users.tolist(), starts, strict=True)))
    full = sum(
        max(0, len(list(of_user)) - 8) for _, of_user in groupby(windows, lambda pair: pair[0])
    )
    assert command.full_histories(WORKLOAD, settings) == round(full / len(windows), 3) > 0


def test_second_load_begins_after_the_windows_of_the_first() -> None:
    settings = load()
    first, second = command.loads(WORKLOAD, settings)
    closed_ms = first.workload.end_ms + settings.window.length_ms
    assert second.workload.start_ms - closed_ms >= settings.window.out_of_orderness_ms
    ids = [{message.value[:25] for message in each.workload.messages()} for each in (first, second)]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize(
    ("other", "where"),
    [
        ({"a": [1.0005, "x"], "b": 2}, ""),
        ({"a": [1.1, "x"], "b": 2}, "u.a.0: 1.0 and 1.1"),
        ({"a": [1.0, "y"], "b": 2}, "u.a.1: x and y"),
        ({"a": [1.0], "b": 2}, "u.a: {0: 1.0, 1: 'x'} and {0: 1.0}"),
        ({"a": [1.0, "x"]}, "u: {'a': [1.0, 'x'], 'b': 2} and {'a': [1.0, 'x']}"),
        (None, "u: {'a': [1.0, 'x'], 'b': 2} and None"),
    ],
)
def test_difference_names_the_first_place(other: Any, where: str) -> None:
    assert comparison.difference({"a": [1.0, "x"], "b": 2}, other, "u") == where


def test_peers_with_other_profiles_fail() -> None:
    of_job = {f"u{number}": number for number in range(100)}
    assert comparison.require_equal(of_job | {"u1": 7}, of_job) == "99 of 100"
    with pytest.raises(ServiceError, match=r"97 of 100 .* u1: 7 and 1"):
        comparison.require_equal(of_job | dict.fromkeys(("u1", "u2", "u3"), 7), of_job)


def test_ratios_are_to_both_runs_of_the_job() -> None:
    def figures(seconds: float) -> dict[str, float]:
        return {"seconds": seconds, "cpu_us_per_event": 10 * seconds}

    job = {"cold": figures(4.0), "warm": figures(2.0)}
    found = command.with_ratios({"name": "bytewax", "cold": figures(3.0)}, job)
    assert found["cold"]["to_job_cold"] == {"seconds": 0.75, "cpu_us_per_event": 0.75}
    assert found["cold"]["to_job_warm"] == {"seconds": 1.5, "cpu_us_per_event": 1.5}


@pytest.mark.parametrize("peer", sorted(command.PEERS))
def test_peer_has_its_program_and_pinned_packages(peer: str) -> None:
    found = command.PEERS[peer]
    assert requirements("x").parents[1].joinpath(f"{found.module}.py").is_file()
    if found.requirements:
        assert "==" in version(found.requirements)
        assert "--hash" in requirements(found.requirements).read_text()
