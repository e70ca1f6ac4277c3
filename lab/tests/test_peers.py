"""What the peers share, and how their figures are compared."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby
from typing import Any

import numpy as np
import pytest

from benchmarks.load.workload import Workload
from lab.benchmarks.peers import command
from lab.benchmarks.peers.environments import requirements, version
from lab.benchmarks.peers.floor import OpenWindows
from lab.benchmarks.peers.work import parse, window_row
from liveprofile.errors import ServiceError
from liveprofile.settings import load
from tests.support.rows.profile_input import UserState, batches

WORKLOAD = Workload(600, 10, hours=1)


def _heartbeat(time_ms: int) -> bytes:
    return b'{"event_type":"heartbeat","event_time":%d}' % time_ms


def test_rows_in_any_order_of_events_are_those_of_the_benchmarks_load() -> None:
    settings, states = load(), defaultdict(lambda: UserState(load()))
    length_ms, users = settings.window.length_ms, defaultdict(lambda: defaultdict(list))
    for message in WORKLOAD.messages():
        event = parse(message.value, 0, None)
        users[event.time_ms // length_ms * length_ms][message.key.decode()].append(event)
    found = {
        (user, start_ms): window_row(
            user, start_ms, start_ms + length_ms, events[::-1], states[user]
        )
        for start_ms, of_user in users.items()
        for user, events in of_user.items()
    }
    expected = [
        row
        for batch in batches(WORKLOAD.messages(), settings, 100)
        for row in zip(*batch, strict=True)
    ]
    assert len(found) == len(expected) == WORKLOAD.profiles(settings.window)
    for row in expected:
        for one, other in zip(found[row[0], row[1]], row, strict=True):
            assert np.array_equal(one, other)


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
    assert command.difference({"a": [1.0, "x"], "b": 2}, other, "u") == where


def test_peers_with_other_profiles_fail() -> None:
    of_job = {f"u{number}": number for number in range(100)}
    assert command.require_equal(of_job | {"u1": 7}, of_job) == "99 of 100"
    with pytest.raises(ServiceError, match=r"97 of 100 .* u1: 7 and 1"):
        command.require_equal(of_job | dict.fromkeys(("u1", "u2", "u3"), 7), of_job)


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
