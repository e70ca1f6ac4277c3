"""Late events that are corrected, against the stream of the same events in perfect order.

Both streams run through the job's pipeline. Final state: the tables of the late stream equal those
of the other one, and a flag that only one of them raises is marked.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from copy import deepcopy
from itertools import islice
from typing import Any, NamedTuple

import orjson
import pytest
from pyflink.table import EnvironmentSettings, TableEnvironment

from jobs.backfill_job import run_profile_pipeline as run_batch
from jobs.sql import tables
from liveprofile.consent.changes import ConsentTable
from liveprofile.kafka import records as kafka
from liveprofile.resources import product_path
from liveprofile.rules.rules import read_rules
from liveprofile.segments.definitions import read_segments
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
from tests.reference.windows import Record
from tests.support.compare_profiles import CURVE_TOLERANCE
from tests.support.memory.corrections import KilledError, MemoryCorrectionTables, revision_of
from tests.support.streams.shop import shop_events
from udfs.profile.model_feed import load_checkpoint
from udfs.profile.row import ProfileRow
from udfs.worker import fixed_feeds

pytestmark = pytest.mark.pipeline

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


def make_settings() -> Settings:
    return load(job={"parallelism": 1, "name": "correct"}, window={"length_ms": HOUR_MS})


class LateStream(NamedTuple):
    """What the job has stored of a stream with late events, and what corrects it."""

    settings: Settings
    model: ProfileModel
    output: ProfileOutput
    perfect: ProfileOutput  # of the same events in order
    rows: list[dict[str, Any]]
    book: LateTable
    closed_ms: int

    def correct(self, tables: MemoryCorrectionTables, **options: Any) -> CorrectionCounts:
        settings = self.settings
        rules = read_rules(product_path(settings.rules))
        segments = read_segments(product_path(settings.segments))
        feeds = fixed_feeds(settings, rules, segments)
        corrector = Corrector(settings, tables, self.model, feeds, **options)
        return corrector.correct(self.rows, self.book, self.closed_ms)

    def tables(self, writes_left: int | None = None) -> MemoryCorrectionTables:
        return MemoryCorrectionTables(deepcopy(self.output.sink), writes_left)


def late_records(output: ProfileOutput, settings: Settings) -> Iterator[kafka.Record]:
    for offset, sent in enumerate(output.sent_to(settings.topics.late)):
        headers = {name: value.encode() for name, value in sent.headers.items()}
        yield kafka.Record(
            sent.topic, 0, offset, RECORD_MS, None, (sent.value or "").encode(), headers
        )


@pytest.fixture(scope="module")
def late_stream(tmp_path_factory: pytest.TempPathFactory) -> LateStream:
    settings, folder = make_settings(), tmp_path_factory.mktemp("correct")
    events = shop_stream()
    for name in ("late", "perfect"):
        (folder / name).mkdir()
    records = to_records(with_delays(events))
    output = run_profile_pipeline(records, settings, folder / "late")
    perfect = run_profile_pipeline(to_records(events), settings, folder / "perfect")
    assert not perfect.sent_to(settings.topics.late)
    book = choose_late_events(
        read_late_events(late_records(output, settings), settings.topics.events),
        settings.window.correction_days * DAY_MS,
        ConsentTable(settings.consent.defaults),
        frozenset(),
        RECORD_MS,
    )
    assert late_events(book) > 0.04 * EVENTS and not book.left_out
    selection = RecordSelection(book, settings.window, settings.limits, [0])
    topic = [
        kafka.Record(settings.topics.events, *record[:3], record.key, record.value, {})
        for record in records
    ]
    file, rows = folder / "records.json", folder / "rows"
    write_records(file, selection.select(topic))
    run_batch(
        TableEnvironment.create(EnvironmentSettings.in_batch_mode()),
        settings,
        source=tables.record_file("source", file, settings),
        rows=rows,
        schema=training_rows.PROFILE_INPUT,
    )
    model = load_checkpoint(settings, product_path(settings.model.checkpoint))
    return LateStream(
        settings, model, output, perfect, list(read_rows(rows)), book, selection.closed_ms
    )


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


def assert_equals_perfect(stored: MemoryCorrectionTables, perfect: ProfileOutput) -> None:
    for table in ("deltas", "profiles"):
        actual, expected = getattr(stored.sink, table), getattr(perfect.sink, table)
        assert actual.keys() == expected.keys()
        for key, row in expected.items():
            assert_equal_rows(actual[key], row)
    expected_flags = {key[:3] for key in perfect.sink.flags}
    assert stored.flags_in_force().keys() == expected_flags


def late_events(book: LateTable) -> int:
    return sum(map(len, book.used.values()))


def corrected_users(stored: MemoryCorrectionTables) -> set[str]:
    return {user for (user, _), row in stored.sink.deltas.items() if revision_of(row)}


def test_corrected_tables_equal_those_of_the_stream_in_order(late_stream: LateStream) -> None:
    tables = late_stream.tables()
    assert tables.sink.deltas.keys() != late_stream.perfect.sink.deltas.keys()
    counts = late_stream.correct(tables)
    assert_equals_perfect(tables, late_stream.perfect)
    assert counts.late_events == late_events(late_stream.book) and not counts.incomplete

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


def test_newer_window_of_the_job_keeps_its_profile(late_stream: LateStream) -> None:
    """The job may store a window after the correction has read its records."""
    tables = late_stream.tables()
    newest = {
        user: row._replace(window_end_ms=row.window_end_ms + 20 * DAY_MS)
        for user, row in tables.sink.profiles.items()
    }
    tables.sink.profiles |= newest
    assert late_stream.correct(tables).windows > 100
    assert all(tables.sink.profiles[user] is row for user, row in newest.items())
    assert corrected_users(tables) == late_stream.book.used.keys()


def test_job_that_replays_a_window_does_not_undo_its_correction(late_stream: LateStream) -> None:
    tables = late_stream.tables()
    late_stream.correct(tables)
    tables.sink.write(list(late_stream.output.sink.deltas.values()))
    for table in ("deltas", "profiles"):
        actual, expected = getattr(tables.sink, table), getattr(late_stream.perfect.sink, table)
        for key, row in expected.items():
            assert_equal_rows(actual[key], row)


def test_user_who_is_erased_meanwhile_is_left_out(late_stream: LateStream) -> None:
    tables = late_stream.tables()
    user = min(late_stream.book.used)
    counts = late_stream.correct(tables, is_erased=lambda each: each == user)
    assert counts.erased_meanwhile == 1
    assert corrected_users(tables) == late_stream.book.used.keys() - {user}
