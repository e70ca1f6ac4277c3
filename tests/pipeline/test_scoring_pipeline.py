"""The scoring pipeline on files, in an embedded Flink, against tests/reference/scoring.py.

Final state: the job has ended and every event of the files is scored.
"""

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from intake.simulator import shared_device_ring
from liveprofile.settings import Settings, load
from liveprofile.units import DAY_MS
from liveprofile.wire.scored_events import ENTITIES, HEAD_FIELDS, read_rows
from liveprofile.wire.tokens import FIELD, WINDOW
from tests.pipeline.harness import (
    ScoringInput,
    ScoringOutput,
    run_scoring_pipeline,
    run_scoring_views,
)
from tests.reference.entity_features import TYPE_LETTERS, Arrival
from tests.reference.entity_features import Event as ScoredEvent
from tests.reference.scoring import (
    alerting_flag_ids,
    event_parts,
    first_occurrences,
    read_event,
    read_events,
    read_label,
)
from tests.reference.units import HOUR_MS
from tests.reference.validation import as_text
from tests.reference.windows import Record
from tests.support.compare_scoring import expected_decisions, file_rules
from tests.support.scoring_harness import assert_matches_reference
from tests.support.streams import simulated
from tests.support.streams.shop import event_of
from tests.support.streams.simulated import RECORD_MS, Event, payload, to_records

BROKEN_LABELS = {
    b"{": "not a JSON object",
    b'["fraud"]': "not a JSON object",
    b'{"user_id": "u", "label": "fraud", "time": 1700000000000}': "event_id",
    b'{"event_id": "e", "user_id": "", "label": "fraud", "time": 1700000000000}': "user_id",
    b'{"event_id": "%s", "user_id": "u", "label": "fraud", "time": 1700000000000}'
    % (b"e" * 257): "event_id",
    b'{"event_id": "e", "user_id": "%s", "label": "fraud", "time": 1700000000000}'
    % (b"u" * 257): "user_id",
    b'{"event_id": "e", "user_id": "u", "label": "fraud", "time": "soon"}': "time",
    b'{"event_id": "e", "user_id": "u", "label": "fraud"}': "time",
    b'{"event_id": "e", "user_id": "u", "label": "odd", "time": 1700000000000}': "label",
    b'{"event_id": "e", "user_id": "u", "time": "2024-01-01T00:00:00Z"}': "label",
}


def make_settings() -> Settings:
    # A label is an entry of the entity lists. When it arrives among the events of the other file is
    # not fixed, so the lists must be long enough to drop nothing.
    return load(
        job={"parallelism": 1, "name": "pipeline"}, scoring={"history": 1_024, "replay": True}
    )


def card_tests() -> list[Event]:
    """Purchases of a minute, which a second user dates a day apart."""
    return [
        event_of(
            user,
            RECORD_MS + number * 20_000 - age_ms,
            kind="purchase",
            amount=1.0,
            device_id=f"device-{user}",
        )
        for number in range(6)
        for user, age_ms in (("true", 0), ("backdated", (6 - number) * DAY_MS))
    ]


class ScoringRun(NamedTuple):
    records: list[Record]
    labels: list[Record]
    output: ScoringOutput
    settings: Settings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ScoringRun:
    """Scores a shop, a fraud ring, two controls and card tests, with labels given after the shop.

    The controls make the ring's purchases from a device of their own each, the second also to an
    address of their own each.
    """
    settings = make_settings()
    events = sorted(
        simulated.simulated_shop(seed=7)
        + simulated.with_own_ids(shared_device_ring(50, 3), "ring-")
        + simulated.with_own_ids(shared_device_ring(50, 50, labelled=False), "devices-")
        + simulated.with_own_ids(
            shared_device_ring(50, 50, labelled=False, addresses=10_000), "addresses-"
        ),
        key=lambda event: event["event_time"],
    )
    values = [*simulated.irregular_payloads(events, seed=7), *map(payload, card_tests())]
    after_ms = events[-1]["event_time"] + DAY_MS
    labels = [
        simulated.label_payload(event, ("fraud", "legitimate")[number % 2], after_ms + number)
        for number, event in enumerate(events[::20])
    ]
    labels[5:5] = BROKEN_LABELS
    time_field, iso_time_field = f'"time": {after_ms}', '"time": "2030-01-01T01:00:00+01:00"'
    label = simulated.label_payload(events[0], "fraud", after_ms)
    labels.append(label.replace(time_field.encode(), iso_time_field.encode()))
    inputs = to_records(values), to_records([*labels, None])
    output = run_scoring_pipeline(*inputs, settings, tmp_path_factory.mktemp("scoring"))
    return ScoringRun(*inputs, output, settings)


def test_scores_rules_and_flags_equal_reference(run: ScoringRun) -> None:
    rules = file_rules(run.settings)
    arrivals = read_events(run.records, run.settings.limits)
    expected = expected_decisions(run.settings, arrivals, rules)
    sink = run.output.sink
    assert len(arrivals) > len(expected) + 20  # duplicates
    assert_matches_reference(sink, expected)
    for key, decision in expected.items():
        row, event = sink.scores[key], decision.event
        assert (row.event_type, row.amount) == (event.type, event.amount), key
        entities = (event.device, event.place, event.shop, event.coupon, event.address)
        assert row.entities == entities, key
    alerts = [
        json.loads(sent.value or "") for sent in run.output.sent if "topic" not in sent.headers
    ]
    flags = alerting_flag_ids(expected, rules)
    assert Counter(alert["id"] for alert in alerts) == Counter(flags)
    assert {alert["data"]["rule_id"] for alert in alerts} >= {"card_testing", "device_many_users"}
    assert any(not any(row.entities) for row in sink.scores.values())


def test_events_with_escaped_type_are_scored(run: ScoringRun) -> None:
    escaped = [record for record in run.records if b"\\u00" in (record.value or b"")]
    scored = [event for record in escaped if (event := read_event(record, run.settings.limits))]
    assert len(scored) > 20
    assert {event.id for event in scored} <= {event_id for _, _, event_id in run.output.sink.scores}


def test_broken_labels_are_rejected(run: ScoringRun) -> None:
    rejected = [sent for sent in run.output.sent if sent.topic == run.settings.topics.rejected]
    details = {sent.value: sent.headers["detail"] for sent in rejected}
    expected = {value.decode(): detail for value, detail in BROKEN_LABELS.items()}
    assert details == expected | {None: "not a JSON object"}
    assert {sent.headers["reason"] for sent in rejected} == {"BAD_FEEDBACK"}
    assert {sent.headers["topic"] for sent in rejected} == {run.settings.topics.feedback}


def test_ring_is_flagged_and_controls_without_shared_entities_are_not(run: ScoringRun) -> None:
    flagged = {
        (prefix, rule): {
            user_id
            for user_id, _, rule_id, _ in run.output.sink.flags
            if user_id.startswith(prefix) and rule_id == rule
        }
        for prefix in ("ring-", "devices-", "addresses-")
        for rule in ("device_many_users", "coupon_ring", "fraud_score")
    }
    # The first users of a ring are not enough to raise a flag.
    assert len(flagged["ring-", "device_many_users"]) >= 25
    assert len(flagged["ring-", "coupon_ring"]) >= 25
    assert len(flagged["ring-", "fraud_score"]) >= 40
    assert not any(users for (prefix, _), users in flagged.items() if prefix != "ring-")


# --- stream and batch -----------------------------------------------------------------------------


def normalised(row: ScoringInput) -> tuple:
    """Returns the row with amounts as numbers, and ids without a sign.

    Flink's HASH_CODE drops the sign.
    """
    text, *lists = row.parts.split("\x1d")
    head = text.split("\x1f")
    head[3] = str(float(head[3]))
    # No feature uses item, category and arrival; the reference counts other offsets.
    head = [*head[:4], *head[6 : 6 + len(ENTITIES)]]
    entries = (tuple(map(_normalised_entry, filter(None, one.split("\x1e")))) for one in lists)
    return row.user_id, tuple(head), tuple(entries)


def _normalised_entry(text: str) -> tuple:
    kind, time_ms, event_hash, amount, *entity_hashes = text.split("\x1f")
    hashes = (value.lstrip("-") for value in (event_hash, *entity_hashes))
    return kind, time_ms, float(amount), *hashes


def small_shop() -> list[Event]:
    return simulated.simulated_shop(seed=3, users=30, days=2)


def reference_rows(arrivals: list[Arrival], max_entries: int) -> Counter:
    events = [
        (position, arrival)
        for position, arrival in enumerate(arrivals)
        if isinstance(arrival, ScoredEvent)
    ]
    return Counter(
        normalised(ScoringInput(event.user, event_parts(arrivals, position, max_entries)))
        for position, event in events
    )


def test_rows_of_stream_equal_reference(tmp_path: Path) -> None:
    settings = load(job={"parallelism": 1}, scoring={"history": 8, "replay": True})
    own_types = {}, {"purchase": "Order Completed", "login": "Signed In"}
    odd = "ä'\"\\ {}\u2028😀%"
    events = [
        event
        | {"item_id": f"{odd}{number}", "category_id": (None, number, odd)[number % 3]}
        | {"event_type": own_types[number % 2].get(event["event_type"], event["event_type"])}
        for number, event in enumerate(small_shop())
    ]
    sent = to_records(simulated.irregular_payloads(events, seed=3))
    rows = run_scoring_views(sent, [], settings, tmp_path / "stream", batch=False)
    arrivals = read_events(sent, settings.limits)
    assert Counter(map(normalised, rows)) == reference_rows(arrivals, settings.scoring.history)
    batch = read_rows([row.user_id for row in rows], [row.parts for row in rows])
    scored = {
        record.offset: json.loads(record.value or b"")
        for record in sent
        if read_event(record, settings.limits)
    }
    assert sorted(batch.record_offset.tolist()) == sorted(scored)
    assert set(batch.arrived_ms.tolist()) == {RECORD_MS}
    for row in rows:
        head = dict(zip(HEAD_FIELDS, row.parts.split(WINDOW)[0].split(FIELD), strict=True))
        event = scored[int(head["record_offset"])]
        for name in ("item_id", "category_id"):
            assert head[name] == as_text(event.get(name))
    assert len(arrivals) > len(first_occurrences(arrivals)) > 100


def test_rows_of_batch_with_labels_equal_reference(tmp_path: Path) -> None:
    """In a batch, events and labels arrive at their own times."""
    settings = load(job={"parallelism": 1}, scoring={"history": 8, "replay": True})
    events = small_shop()
    scored = [event for event in events if event["event_type"] in TYPE_LETTERS]
    times = {event["event_time"] for event in events}
    labels = []
    for number, event in enumerate(scored[::5]):
        time_ms = event["event_time"] + 7 * HOUR_MS
        while time_ms in times:
            time_ms += 1
        times.add(time_ms)
        labels.append(
            simulated.label_payload(event, ("fraud", "legitimate")[number % 3 == 0], time_ms)
        )
    sent, label_records = to_records(map(payload, events)), to_records(labels)
    rows = run_scoring_views(sent, label_records, settings, tmp_path / "batch", batch=True)
    read_labels = [label for record in label_records if (label := read_label(record))]
    assert len(read_labels) == len(label_records)
    arrivals: list[Arrival] = [*read_events(sent, settings.limits), *read_labels]
    arrivals.sort(key=lambda arrival: arrival.time_ms)
    assert Counter(map(normalised, rows)) == reference_rows(arrivals, settings.scoring.history)
    assert any("+" in row.parts for row in rows)


def test_card_test_with_dates_days_apart_is_flagged_unless_it_is_history(
    run: ScoringRun, tmp_path: Path
) -> None:
    settings = load(job={"parallelism": 1, "name": "dates"}, scoring={"replay": False})
    records = to_records(map(payload, card_tests()))
    records = [
        record._replace(timestamp_ms=RECORD_MS + record.offset // 2 * 20_000) for record in records
    ]
    output = run_scoring_pipeline(records, [], settings, tmp_path)
    max_delay_ms = settings.scoring.max_delay_ms
    arrivals: list[Arrival] = [
        event for record in records if (event := read_event(record, settings.limits, max_delay_ms))
    ]
    expected = expected_decisions(settings, arrivals, file_rules(settings))
    assert_matches_reference(output.sink, expected)
    for live_or_history, users in (output, {"true", "backdated"}), (run.output, {"true"}):
        flags = live_or_history.sink.flags
        flagged = {user for user, _, rule, _ in flags if rule == "card_testing"}
        assert flagged & {"true", "backdated"} == users
