"""Late events and merges that are corrected, against the same events in order under one id.

All streams run through the job's pipeline. Final state: the tables of the late stream, and of the
late stream with users under several ids, equal those of the other one; a flag that only one of them
raises is marked.
"""

import json
import random
from collections.abc import Collection, Iterator
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from pyflink.table import EnvironmentSettings, TableEnvironment

from jobs.backfill_job import run as run_batch
from jobs.sql import tables
from liveprofile.consent.changes import ConsentTable
from liveprofile.identity.merges import IdentityTable
from liveprofile.kafka import records as kafka
from liveprofile.resources import product_path
from liveprofile.rules.rules import read_rules
from liveprofile.segments.segments import read_segments
from liveprofile.settings import Settings, load
from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS
from liveprofile.wire import training_rows
from models.profile.inference import ProfileModel
from offline.late_windows.chains import ADDED, WITHDRAWN
from offline.late_windows.corrector import CorrectionCounts, Corrector
from offline.late_windows.late_events import (
    LateTable,
    RecordSelection,
    choose_late_events,
    read_late_events,
    read_rows,
    write_records,
)
from tests.pipeline.comparison import RECORD_MS
from tests.pipeline.harness import ProfileOutput, run_profile_pipeline
from tests.pipeline.test_erasures_and_merges import feed_of, merges_at, under_several_ids
from tests.reference.windows import Record
from tests.support.compare_profiles import CURVE_TOLERANCE
from tests.support.memory.corrections import KilledError, MemoryCorrectionTables, revision_of
from tests.support.memory.feeds import fixed_feeds
from tests.support.streams.shop import START_MS, shop_events
from udfs.profile.model_feed import load_checkpoint
from udfs.profile.rows import ProfileRow

EVENTS, USERS, STEP_MS = 500, 8, 20 * MINUTE_MS
LATE_SHARE, MOST_LATE_MS = 0.05, 3 * DAY_MS


def shop_stream() -> list[dict[str, Any]]:
    """In perfect order, with a heartbeat that closes every window."""
    events = list(islice(shop_events(5, USERS, STEP_MS), EVENTS))
    last_ms = events[-1]["event_time"]
    return [*events, {"event_type": "heartbeat", "event_time": last_ms + 10 * DAY_MS}]


def with_delays(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events in the order of arrival: 5 % of them minutes to three days late."""
    rng = random.Random(5)
    arrivals = [
        event["event_time"]
        + (rng.randrange(5 * MINUTE_MS, MOST_LATE_MS) if rng.random() < LATE_SHARE else 0)
        for event in events[:-1]
    ]
    order = sorted(range(len(arrivals)), key=arrivals.__getitem__)
    return [*(events[index] for index in order), events[-1]]


def to_records(events: list[dict[str, Any]]) -> list[Record]:
    return [
        Record(0, offset, RECORD_MS, event.get("user_id", "").encode(), json.dumps(event).encode())
        for offset, event in enumerate(events)
    ]


SECTIONS = {
    "job": {"parallelism": 1, "name": "correct"},
    "window": {"length_ms": HOUR_MS, "stagger_ms": 10 * MINUTE_MS},
}


def make_settings() -> Settings:
    return load(**SECTIONS)


class LateStream(NamedTuple):
    """What the job has stored of a stream with late events, and what corrects it."""

    settings: Settings
    model: ProfileModel
    output: ProfileOutput
    perfect: ProfileOutput  # of the same events in order, with one id a person
    rows: list[dict[str, Any]]
    late_table: LateTable
    closed_ms: int

    def correct(self, tables: MemoryCorrectionTables, **options: Any) -> CorrectionCounts:
        settings = self.settings
        rules = read_rules(product_path(settings.rules))
        segments = read_segments(product_path(settings.segments))
        feeds = fixed_feeds(settings, rules, segments)
        corrector = Corrector(settings, tables, self.model, feeds, **options)
        return corrector.correct(self.rows, self.late_table, self.closed_ms)

    def tables(self, writes_left: int | None = None) -> MemoryCorrectionTables:
        return MemoryCorrectionTables(deepcopy(self.output.sink), writes_left)


def late_records(output: ProfileOutput, settings: Settings) -> Iterator[kafka.Record]:
    for offset, sent in enumerate(output.sent_to(settings.topics.late)):
        headers = {name: value.encode() for name, value in sent.headers.items()}
        yield kafka.Record(
            sent.topic, 0, offset, RECORD_MS, None, (sent.value or "").encode(), headers
        )


@pytest.fixture(scope="module")
def perfect(tmp_path_factory: pytest.TempPathFactory) -> ProfileOutput:
    settings = make_settings()
    records = to_records(shop_stream())
    output = run_profile_pipeline(records, settings, tmp_path_factory.mktemp("perfect"))
    assert not output.sent_to(settings.topics.late)
    return output


def run_late_stream(
    events: list[dict[str, Any]], merges: IdentityTable, perfect: ProfileOutput, folder: Path
) -> LateStream:
    """Runs the job on the events with delays, then the batch of the records to correct."""
    settings = make_settings()
    following = load(**SECTIONS, merges={"enabled": len(merges) > 0})
    records, topics = to_records(with_delays(events)), settings.topics
    output = run_profile_pipeline(records, following, folder, open_merges=feed_of(merges))
    consents = ConsentTable(settings.consent.defaults)
    late_table = choose_late_events(
        read_late_events(late_records(output, settings), topics.events),
        settings.window.correction_days * DAY_MS,
        consents,
        frozenset(),
        RECORD_MS,
        merges,
    )
    selection = RecordSelection(late_table, settings.window, settings.limits, [0], merges, consents)
    topic = [
        kafka.Record(topics.events, *record[:3], record.key, record.value, {}) for record in records
    ]
    file, rows = folder / "records.json", folder / "rows"
    write_records(file, selection.select(topic))
    run_batch(
        TableEnvironment.create(EnvironmentSettings.in_batch_mode()),
        settings,
        [tables.record_file("source", file, settings)],
        training_rows.PROFILE_INPUT,
        rows,
    )
    model = load_checkpoint(settings, product_path(settings.model.checkpoint))
    return LateStream(
        settings, model, output, perfect, list(read_rows(rows)), late_table, selection.closed_ms
    )


@pytest.fixture(scope="module")
def late_stream(perfect: ProfileOutput, tmp_path_factory: pytest.TempPathFactory) -> LateStream:
    stream = run_late_stream(
        shop_stream(), IdentityTable(), perfect, tmp_path_factory.mktemp("late")
    )
    assert late_events(stream.late_table) > 0.04 * EVENTS and not stream.late_table.left_out
    return stream


def assert_equal_rows(actual: ProfileRow, expected: ProfileRow) -> None:
    for name in ("window_start_ms", "window_end_ms", "events", "digests", "events_total"):
        assert getattr(actual, name) == getattr(expected, name), name
    assert actual.active_rules == expected.active_rules
    assert actual.segments == expected.segments
    assert actual.embedding == pytest.approx(expected.embedding, abs=1e-4)
    for name in ("delta", "profile"):
        assert_near(*(orjson.loads(getattr(row, name)) for row in (actual, expected)))


def assert_near(actual: Any, expected: Any, tolerance: float = 2e-4) -> None:
    """Float32 sums in a batch have another order."""
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert_near(
                actual[name], value, CURVE_TOLERANCE if name == "value_curves" else tolerance
            )
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_near(one, other, tolerance)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, rel=1e-3, abs=tolerance)
    else:
        assert actual == expected


def assert_equals_perfect(
    stored: MemoryCorrectionTables, perfect: ProfileOutput, aliases: Collection[str] = ()
) -> None:
    """aliases: their flags stay, with what analysts have decided about them."""
    for table in ("deltas", "profiles"):
        actual, expected = getattr(stored.sink, table), getattr(perfect.sink, table)
        assert actual.keys() == expected.keys()
        for key, row in expected.items():
            assert_equal_rows(actual[key], row)
    in_force = {key for key in stored.flags_in_force() if key[0] not in aliases}
    assert in_force == {key[:3] for key in perfect.sink.flags}


def late_events(late_table: LateTable) -> int:
    return sum(map(len, late_table.used.values()))


def corrected_users(stored: MemoryCorrectionTables) -> set[str]:
    return {user for (user, _), row in stored.sink.deltas.items() if revision_of(row)}


def test_corrected_tables_equal_those_of_the_stream_in_order(late_stream: LateStream) -> None:
    tables = late_stream.tables()
    assert tables.sink.deltas.keys() != late_stream.perfect.sink.deltas.keys()
    counts = late_stream.correct(tables)
    assert_equals_perfect(tables, late_stream.perfect)
    assert counts.late_events == late_events(late_stream.late_table) and not counts.incomplete

    before, after = late_stream.output.sink, tables.sink
    corrected = {key for key, row in after.deltas.items() if revision_of(row)}
    assert counts.windows == len(corrected) > 100
    # No flag is lost: those that would not have been raised, and new ones, are marked.
    raised, expected = before.flags.keys(), late_stream.perfect.sink.flags.keys()
    assert after.flags.keys() == raised | expected
    marked = {(*key, ""): mark for key, mark in tables.marks.items()}
    assert marked == dict.fromkeys(raised - expected, WITHDRAWN) | dict.fromkeys(
        expected - raised, ADDED
    )
    assert (counts.flags_withdrawn, counts.flags_added) == (
        len(raised - expected),
        len(expected - raised),
    )


def test_run_after_kills_ends_with_the_same_tables(late_stream: LateStream) -> None:
    tables = late_stream.tables()
    for writes in (1, 30, 3, 100):
        tables.writes_left = writes
        with pytest.raises(KilledError):
            late_stream.correct(tables)
    tables.writes_left = None
    late_stream.correct(tables)
    assert_equals_perfect(tables, late_stream.perfect)


def test_user_who_is_erased_meanwhile_is_left_out(late_stream: LateStream) -> None:
    tables = late_stream.tables()
    user = min(late_stream.late_table.used)
    counts = late_stream.correct(tables, is_erased=lambda each: each == user)
    assert counts.erased_meanwhile == 1
    assert corrected_users(tables) == late_stream.late_table.used.keys() - {user}


def test_corrected_tables_of_merged_users_equal_those_of_one_id(
    perfect: ProfileOutput, tmp_path: Path
) -> None:
    merges = merges_at(START_MS + EVENTS // 2 * STEP_MS)
    aliases = merges.aliases()
    stream = run_late_stream(under_several_ids(shop_stream()), merges, perfect, tmp_path)
    before, stored = stream.output.sink, stream.tables()
    assert {user for user, _ in before.deltas} > set(aliases)
    counts = stream.correct(stored)
    assert_equals_perfect(stored, perfect, aliases)
    assert (counts.merged, counts.incomplete) == (len(aliases), 0)
    assert counts.late_events > 0.02 * EVENTS
    assert stored.sink.flags.keys() >= before.flags.keys()

    again = deepcopy((stored.sink.deltas, stored.marks))
    counts = stream.correct(stored)
    assert (counts.windows, counts.merged) == (0, 0)
    assert str(again) == str((stored.sink.deltas, stored.marks))
