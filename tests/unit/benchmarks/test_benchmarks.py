"""The benchmarks' own arithmetic: a wrong load or schedule would make every figure wrong."""

from __future__ import annotations

import json
from contextlib import closing

import numpy as np
import pytest

from benchmarks import alerts
from benchmarks.latency import sample, schedule
from benchmarks.load import events as generate
from benchmarks.load.load import Load, partition_of
from benchmarks.load.rows import batches
from benchmarks.models import training_rows
from benchmarks.support.journal import Journal, JournalReader
from liveprofile.config import Settings, load
from liveprofile.events.window import read_windows
from liveprofile.features import baselines
from liveprofile.resources import ROOT
from liveprofile.rules.rules import read_rules
from liveprofile.wire.token_columns import read_histories
from models.profile.data import training_rows as rows

SMALL = Load(4_000, 300, hours=1)
SETTINGS = Settings()
WINDOW_MS = SETTINGS.window.length_ms


def test_the_load_is_as_dense_at_any_size():
    assert Load.of(Load.n, Load.users) == Load()
    small = Load.of(4_000, 300)
    assert small.n / small.hours == Load.n / Load.hours


def test_events_are_seeded_in_order_of_time_and_never_shared_by_two_seeds():
    first, again = (list(SMALL.messages()) for _ in range(2))
    assert first == again
    events = [json.loads(message.value) for message in first]
    times = [event["event_time"] for event in events]
    assert times == sorted(times)
    assert generate.START_MS <= times[0] <= times[-1] < SMALL.end_ms
    ids = {event["event_id"] for event in events}
    assert len(ids) == SMALL.n
    assert ids.isdisjoint(
        json.loads(message.value)["event_id"] for message in SMALL.warm_up().messages()
    )


def test_the_number_of_profiles_is_that_of_users_and_windows():
    pairs = {
        (event["user_id"], event["event_time"] // WINDOW_MS)
        for event in (json.loads(message.value) for message in SMALL.messages())
    }
    assert SMALL.profiles(SETTINGS.window) == len(pairs)


def test_rows_read_back_as_the_operator_reads_them():
    made = list(batches(SMALL.messages(), SETTINGS, batch_rows=100))
    assert sum(len(batch.user_id) for batch in made) == SMALL.profiles(SETTINGS.window)
    assert max(len(batch.user_id) for batch in made) <= 100
    last = made[-1]
    windows, _, refused = read_windows(last.events)
    assert not any(refused)
    assert (
        last.added[:, baselines.COLUMNS.index("events")].tolist() == windows.tokens.sizes.tolist()
    )
    # As many windows as the history can hold, this one included, or as the user has had.
    known = last.sums[:, baselines.COLUMNS.index("windows")].astype(int).tolist()
    held = [history.count("\x1d") + 1 for history in last.history]
    assert held == [min(count, SETTINGS.window.history + 1) for count in known]
    assert len(read_histories(last.history).tokens.starts) == len(last.user_id) + 1


@pytest.mark.parametrize("windows", [300, 900])
def test_training_rows_are_as_many_as_asked_for(tmp_path, windows):
    training_rows.write(training_rows.load_of(windows), load(window=training_rows.WINDOW), tmp_path)
    streams = rows.read(tmp_path)
    assert windows <= len(streams.user_W) < 1.2 * windows
    assert len(streams.time_ms_N) == training_rows.EVENTS_PER_WINDOW * windows


def test_a_window_closes_with_the_slowest_partition():
    plan = schedule(SMALL, SETTINGS, events_per_s=1_000)
    assert abs(plan.due_s[-1] - SMALL.n / 1_000) < 0.1
    events = [json.loads(message.value) for message in plan.messages]
    end_ms, closes_s = sorted(plan.closes_s.items())[0]
    watermarks = np.zeros(SETTINGS.topics.partitions)
    for message, event, due_s in zip(plan.messages, events, plan.due_s, strict=True):
        partition = partition_of(message.key, SETTINGS.topics.partitions)
        watermarks[partition] = event["event_time"] - SETTINGS.window.out_of_orderness_ms
        if watermarks.min() >= end_ms - 1:
            assert due_s == closes_s
            break
    else:
        raise AssertionError("no event closes the window")


def test_samples_are_profiles_of_windows_that_close():
    ends_ms = list(schedule(SMALL, SETTINGS, 1_000).closes_s)
    drawn = sample(SMALL, WINDOW_MS, ends_ms, 50)
    assert sum(map(len, drawn.values())) == 50
    real = {
        (event["event_time"] // WINDOW_MS * WINDOW_MS + WINDOW_MS, event["user_id"])
        for event in (json.loads(message.value) for message in SMALL.messages())
    }
    assert {(end_ms, user) for end_ms, users in drawn.items() for user in users} <= real
    assert set(drawn) <= set(ends_ms)


def test_a_journal_is_read_while_it_is_written(tmp_path):
    reader = JournalReader(tmp_path)
    with closing(Journal(str(tmp_path))) as first, closing(Journal(str(tmp_path))) as second:
        assert reader.update() == 0
        first.write(3, {"read": 1.5})
        assert reader.update() == 3
        (tmp_path / "half.jsonl").write_text("[1.0, 2,")
        second.write(4, {})
        assert reader.update() == 7
    assert [entry.rows for entry in reader.entries] == [3, 4]
    assert reader.entries[0].stage_ms == {"read": 1.5}


def test_scored_events_come_at_a_steady_rate_and_flagged_users_once():
    planned: dict[str, float] = {}
    workload = Load.of(2_000, 500)
    due = list(alerts.scored(workload, 50.0, 10.0, 4.0, planned))
    assert [one.at_s for one in due] == pytest.approx(np.arange(200) / 50)
    events = [json.loads(one.message.value) for one in due]
    assert (
        events[50]["event_time"] - events[0]["event_time"] == 10_000
    )  # a second, ten times as fast
    flagged = [event for event in events if event["amount"] == alerts.FLAGGED_AMOUNT]
    assert [event["event_id"] for event in flagged] == list(planned)
    assert len({event["user_id"] for event in flagged}) == len(flagged) == 40


def test_the_windows_load_ends_with_the_run():
    due = list(alerts.background(Load.of(2_000, 500), 100.0, 5.0))
    assert 0 < due[-1].at_s <= 5.0
    assert len(due) == pytest.approx(500, rel=0.2)
    assert not any(one.scored for one in due)


def test_the_rule_of_the_alerts_is_a_rule(tmp_path):
    file = tmp_path / "rules.toml"
    file.write_text((ROOT / "rules.toml").read_text() + alerts.RULE)
    assert alerts.RULE_ID in [rule.id for rule in read_rules(file).of("event")]
