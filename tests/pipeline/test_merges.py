"""Users under two or three ids, against the same stream with one id.

The merges are complete before the stream begins, as after a restart of the job. First the stream
alone: from the merge on, events of an alias are in the windows, the state and the scores of the
person. Then the past, too: after a correction the tables are those of the stream with one id.
"""

from __future__ import annotations

import json
import random
import tomllib
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pyflink.table import EnvironmentSettings, TableEnvironment

from jobs.backfill_job import run_profile_pipeline as run_batch
from jobs.sql import tables
from liveprofile.consent.changes import ConsentTable
from liveprofile.identity.merges import IdentityTable, Merge, to_record
from liveprofile.kafka import records as kafka
from liveprofile.resources import product_path
from liveprofile.settings import load
from liveprofile.units import HOUR_MS
from liveprofile.wire import training_rows
from liveprofile.wire.user_records import key_of
from models.fraud.model import FraudModel
from offline.late_windows.late_events import (
    RecordSelection,
    choose_late_events,
    read_late_events,
    read_rows,
    write_records,
)
from tests.pipeline.comparison import RECORD_MS, assert_equals_reference, in_one_partition
from tests.pipeline.harness import run_profile_pipeline, run_scoring_pipeline
from tests.pipeline.test_corrections import (
    EVENTS,
    STEP_MS,
    LateStream,
    assert_equal_rows,
    late_records,
    shop_stream,
    to_records,
    with_delays,
)
from tests.reference.entity_features import Event as ScoredEvent
from tests.reference.scoring import decide, read_events
from tests.support.memory.corrections import MemoryCorrectionTables
from tests.support.memory.feeds import RecordedMerges
from tests.support.scoring_harness import assert_matches_reference
from tests.support.streams import seeded, simulated
from tests.support.streams.shop import HOT_USER, REGULAR_USER, START_MS, shop_events
from tests.support.streams.simulated import to_records as scored_records
from udfs.profile.model_feed import load_checkpoint

pytestmark = pytest.mark.pipeline

Event = dict[str, Any]


def feed_of(book: IdentityTable) -> RecordedMerges:
    return RecordedMerges(
        [
            kafka.Record(
                "user-merges", 0, 0, 0, key_of(each), to_record(each, book.merges(each)), {}
            )
            for each in book.aliases()
        ]
    )


def book_of(merge_ms: int) -> IdentityTable:
    """HOT_USER has two aliases, one through the other; two more users have one."""
    book = IdentityTable()
    book.put("hot-phone", [Merge("hot-tablet", merge_ms - HOUR_MS)])
    book.put("hot-tablet", [Merge(HOT_USER, merge_ms)])
    book.put("regular-phone", [Merge(REGULAR_USER, merge_ms + HOUR_MS + 7)])
    book.put("user-3-phone", [Merge("user-3", merge_ms)])
    return book


IDS = {
    HOT_USER: (HOT_USER, "hot-phone", "hot-tablet"),
    REGULAR_USER: (REGULAR_USER, "regular-phone"),
    "user-3": ("user-3", "user-3-phone"),
}


def under_several_ids(events: list[Event]) -> list[Event]:
    rng = random.Random(3)
    return [
        event | {"user_id": rng.choice(IDS[event["user_id"]])}
        if event.get("user_id") in IDS
        else event
        for event in events
    ]


def with_person(event: Event, person: Callable[[str, int], str]) -> Event:
    if "user_id" not in event:
        return event
    return event | {"user_id": person(event["user_id"], event["event_time"])}


def test_events_of_an_alias_are_those_of_the_person_from_the_merge_on(tmp_path: Path) -> None:
    settings = load(
        job={"parallelism": 1, "name": "pipeline"},
        window={"stagger_ms": 10_000},
        merges={"enabled": True},
    )
    events = list(islice(shop_events(7, 20, 20_000), 900))
    book = book_of(events[450]["event_time"])
    stream = seeded.with_faults(iter(under_several_ids(events)), seed=7)
    records = in_one_partition(stream.messages)
    output = run_profile_pipeline(records, settings, tmp_path, open_merges=feed_of(book))

    # Rejected events are compared as they were sent.
    rejected = {sent.position for sent in output.sent_to(settings.topics.rejected)}
    resolved = [
        record
        if (record.partition, record.offset) in rejected
        else record._replace(value=_resolved(record.value, book))
        for record in records
    ]
    assert_equals_reference(resolved, output, settings)
    users = Counter(user for user, _ in output.sink.deltas)
    assert users["hot-phone"] > 5 and users["hot-tablet"] > 5 and users["regular-phone"]
    assert all(
        end_ms - settings.window.length_ms < book.merges("user-3-phone")[0].since_ms
        for user, end_ms in output.sink.deltas
        if user == "user-3-phone"
    )


def _resolved(value: bytes | None, book: IdentityTable) -> bytes | None:
    try:
        event = json.loads(value or b"")
        return json.dumps(with_person(event, book.resolve)).encode()
    except (ValueError, TypeError, KeyError):
        return value


def test_scores_of_an_alias_are_those_of_the_person_from_the_merge_on(tmp_path: Path) -> None:
    settings = load(
        job={"parallelism": 1, "name": "pipeline"},
        scoring={"history": 1_024, "replay": True},
        merges={"enabled": True},
    )
    events = simulated.simulated_shop(seed=7)
    merge_ms = events[len(events) // 3]["event_time"]
    book, users = IdentityTable(), sorted({event["user_id"] for event in events})
    for user_id in users[::5]:
        book.put(f"{user_id}-phone", [Merge(user_id, merge_ms)])
    rng = random.Random(7)
    several = [
        event | {"user_id": f"{event['user_id']}-phone"}
        if f"{event['user_id']}-phone" in book and rng.random() < 0.5
        else event
        for event in events
    ]
    records = scored_records(map(simulated.payload, several))
    output = run_scoring_pipeline(records, [], settings, tmp_path, open_merges=feed_of(book))
    resolved = [with_person(event, book.resolve) for event in several]
    arrivals = read_events(scored_records(map(simulated.payload, resolved)), settings.limits)
    rules = tomllib.loads(product_path(settings.rules).read_text("utf-8"))["rules"]
    model = FraudModel.load(product_path(settings.scoring.checkpoint))
    assert_matches_reference(output.sink, decide(arrivals, rules, model, settings.scoring.history))
    scored = [event for event in arrivals if isinstance(event, ScoredEvent)]
    assert sum(event.user.endswith("-phone") for event in scored) > 5
    assert sum(old != new for old, new in zip(several, resolved, strict=True)) > 50


class MergedStream(NamedTuple):
    late: LateStream
    merges: IdentityTable


@pytest.fixture(scope="module")
def merged_stream(tmp_path_factory: pytest.TempPathFactory) -> MergedStream:
    """A stream under several ids, with late events, and the one with one id in perfect order."""
    events, merges = shop_stream(), book_of(START_MS + EVENTS // 2 * STEP_MS)
    folder = tmp_path_factory.mktemp("merge")
    return merged_stream_of(under_several_ids(events), events, merges, folder)


def merged_stream_of(
    several: list[Event], events: list[Event], merges: IdentityTable, folder: Path
) -> MergedStream:
    """`several`: what the job gets, with delays; `events`: the same with one id a person."""
    sections = {
        "job": {"parallelism": 1, "name": "correct"},
        "window": {"length_ms": HOUR_MS},
    }
    settings, following = load(**sections), load(**sections, merges={"enabled": True})
    records = to_records(with_delays(several))
    for name in ("merged", "one-id"):
        (folder / name).mkdir()
    output = run_profile_pipeline(
        records, following, folder / "merged", open_merges=feed_of(merges)
    )
    one_id = run_profile_pipeline(to_records(events), settings, folder / "one-id")

    consents = ConsentTable(settings.consent.defaults)
    book = choose_late_events(
        read_late_events(late_records(output, settings), settings.topics.events),
        4 * HOUR_MS * 24,
        consents,
        frozenset(),
        RECORD_MS,
        merges,
    )
    selection = RecordSelection(book, settings.window, settings.limits, [0], merges, consents)
    topic = [
        kafka.Record(settings.topics.events, *record[:3], record.key, record.value, {})
        for record in records
    ]
    write_records(folder / "records.json", selection.select(topic))
    run_batch(
        TableEnvironment.create(EnvironmentSettings.in_batch_mode()),
        settings,
        source=tables.record_file("source", folder / "records.json", settings),
        rows=folder / "rows",
        schema=training_rows.PROFILE_INPUT,
    )
    model = load_checkpoint(settings, product_path(settings.model.checkpoint))
    rows = list(read_rows(folder / "rows"))
    late = LateStream(settings, model, output, one_id, rows, book, selection.closed_ms)
    return MergedStream(late, merges)


def assert_equals_one_id(stream: MergedStream, stored: MemoryCorrectionTables) -> None:
    expected = stream.late.perfect.sink
    for table in ("deltas", "profiles"):
        actual, wanted = getattr(stored.sink, table), getattr(expected, table)
        assert actual.keys() == wanted.keys()
        for key, row in wanted.items():
            assert_equal_rows(actual[key], row)
    aliases = stream.merges.aliases()
    in_force = {key for key in stored.flags_in_force() if key[0] not in aliases}
    assert in_force == {key[:3] for key in expected.flags}


def test_corrected_tables_equal_those_of_one_id(merged_stream: MergedStream) -> None:
    late, aliases = merged_stream.late, merged_stream.merges.aliases()
    before = late.output.sink
    assert {user for user, _ in before.deltas} > set(aliases)
    stored = late.tables()
    counts = late.correct(stored)
    assert_equals_one_id(merged_stream, stored)
    assert (counts.merged, counts.incomplete) == (len(aliases), 0)
    assert counts.late_events > 0.02 * EVENTS
    # Flags of an alias stay, with what analysts have decided about them.
    assert stored.sink.flags.keys() >= before.flags.keys()

    again = deepcopy((stored.sink.deltas, stored.marks))
    counts = late.correct(stored)
    assert (counts.windows, counts.merged) == (0, 0)
    assert str(again) == str((stored.sink.deltas, stored.marks))
