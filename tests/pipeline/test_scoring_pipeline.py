"""The event lane's own path on files, in an embedded Flink, against tests/reference/scoring.py.

State left: an ended job; every event of the files scored.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from liveprofile.config import Settings, load
from liveprofile.resources import product_path
from liveprofile.simulator import separate_device_purchases, shared_device_ring
from liveprofile.units import DAY_MS
from models.fraud.model import FraudModel
from tests.pipeline.harness import (
    ScoringInput,
    ScoringOutput,
    run_scoring_pipeline,
    run_scoring_views,
)
from tests.reference.entity_features import HOUR_MS, TYPE_LETTERS, Arrival
from tests.reference.entity_features import Event as Scored
from tests.reference.scoring import (
    alerting_flag_ids,
    decide,
    event_parts,
    first_occurrences,
    read_event,
    read_events,
    read_label,
)
from tests.reference.windows import Record
from tests.support import simulated_streams
from tests.support.simulated_streams import Event, payload, to_records

pytestmark = pytest.mark.pipeline

BROKEN_LABELS = {
    b"{": "not a JSON object",
    b'["fraud"]': "not a JSON object",
    b'{"user_id": "u", "label": "fraud", "time": 1700000000000}': "event_id",
    b'{"event_id": "e", "user_id": "", "label": "fraud", "time": 1700000000000}': "user_id",
    b'{"event_id": "e", "user_id": "u", "label": "fraud", "time": "soon"}': "time",
    b'{"event_id": "e", "user_id": "u", "label": "fraud"}': "time",
    b'{"event_id": "e", "user_id": "u", "label": "odd", "time": 1700000000000}': "label",
    b'{"event_id": "e", "user_id": "u", "time": "2024-01-01T00:00:00Z"}': "label",
}


def settings_of() -> Settings:
    # A label takes a place in its lists, and when it comes among the events of another file is
    # open: lists long enough to lose nothing.
    return load(job={"parallelism": 1, "name": "pipeline"}, scoring={"history": 1_024})


class Run(NamedTuple):
    to_records: list[Record]
    labels: list[Record]
    output: ScoringOutput
    settings: Settings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A shop, a ring, the same purchases on a device each and on an address each as well, and
    labels that are given after the last event."""
    settings = settings_of()
    events = sorted(
        simulated_streams.simulated_shop(seed=7)
        + simulated_streams.with_own_ids(shared_device_ring(50, 3), "ring-")
        + simulated_streams.with_own_ids(separate_device_purchases(50), "devices-")
        + simulated_streams.with_own_ids(
            separate_device_purchases(50, addresses=10_000), "nothing-"
        ),
        key=lambda event: event["event_time"],
    )
    values = list(simulated_streams.irregular_payloads(events, seed=7))
    after_ms = events[-1]["event_time"] + DAY_MS
    labels = [
        simulated_streams.label_payload(
            event, ("fraud", "legitimate")[number % 2], after_ms + number
        )
        for number, event in enumerate(events[::20])
    ]
    labels[5:5] = BROKEN_LABELS
    labels.append(simulated_streams.label_payload(events[0], "fraud", after_ms).replace(
        f'"time": {after_ms}'.encode(), b'"time": "2030-01-01T01:00:00+01:00"'
    ))  # fmt: skip
    found = to_records(values), to_records([*labels, None])
    output = run_scoring_pipeline(*found, settings, tmp_path_factory.mktemp("lane"))
    return Run(*found, output, settings)


def test_scores_rules_and_flags_equal_the_reference(run: Run) -> None:
    model = FraudModel.load(product_path(run.settings.scoring.checkpoint))
    rules = tomllib.loads(product_path(run.settings.rules).read_text(encoding="utf-8"))["rules"]
    arrivals = read_events(run.records, run.settings.limits)
    expected = decide(arrivals, rules, model, run.settings.scoring.history)
    store = run.output.sink
    assert len(arrivals) > len(expected) + 20  # copies
    assert store.scores.keys() == expected.keys()
    for key, decision in expected.items():
        row, event = store.scores[key], decision.event
        assert (row.event_type, row.amount) == (event.type, event.amount), key
        about = (event.device, event.place, event.shop, event.coupon, event.address)
        assert row.entities == about, key
        assert row.score == pytest.approx(decision.score, abs=1e-6), key
        assert set(row.active_rules) == decision.active_rules, key
        assert {flag.rule_id: flag.flag_id for flag in row.flags} == decision.flags, key
    alerts = [
        json.loads(sent.value or "") for sent in run.output.sent if "topic" not in sent.headers
    ]
    flags = alerting_flag_ids(expected, rules)
    assert Counter(alert["id"] for alert in alerts) == Counter(flags)
    assert {alert["data"]["rule_id"] for alert in alerts} >= {"card_testing", "device_many_users"}
    assert any(not any(row.entities) for row in store.scores.values())


def test_escaped_types_are_scored(run: Run) -> None:
    hidden = [one for one in run.records if b"\\u00" in (one.value or b"")]
    scored = [event for one in hidden if (event := read_event(one, run.settings.limits))]
    assert len(scored) > 20
    assert {event.id for event in scored} <= {event_id for _, _, event_id in run.output.sink.scores}


def test_broken_labels_are_rejected(run: Run) -> None:
    rejected = [sent for sent in run.output.sent if sent.topic == run.settings.topics.rejected]
    details = {sent.value: sent.headers["detail"] for sent in rejected}
    told = {value.decode(): detail for value, detail in BROKEN_LABELS.items()}
    assert details == told | {None: "not a JSON object"}
    assert {sent.headers["reason"] for sent in rejected} == {"BAD_FEEDBACK"}
    assert {sent.headers["topic"] for sent in rejected} == {run.settings.topics.feedback}


def test_a_ring_is_flagged_by_what_it_shares(run: Run) -> None:
    flagged = {
        (prefix, rule): {
            user_id
            for user_id, _, rule_id in run.output.sink.flags
            if user_id.startswith(prefix) and rule_id == rule
        }
        for prefix in ("ring-", "devices-", "nothing-")
        for rule in ("device_many_users", "coupon_ring", "fraud_score")
    }
    # The first few are not known to be many yet.
    assert len(flagged["ring-", "device_many_users"]) >= 25
    assert len(flagged["ring-", "coupon_ring"]) >= 25
    assert len(flagged["ring-", "fraud_score"]) >= 40
    assert not any(users for (prefix, _), users in flagged.items() if prefix != "ring-")


# --- stream and batch -----------------------------------------------------------------------------


def told(row: ScoringInput) -> tuple:
    """The row in a form of its own: parts in order, amounts as numbers, ids without a sign, which
    Flink's HASH_CODE drops."""
    lists = {one[0]: one[1:] for one in row.parts.split("\x1d")}
    head = lists.pop("h").split("\x1f")
    head[3] = str(float(head[3]))
    head[4:6] = []  # item and category are for messages, no feature is made of them
    tokens = {
        letter: tuple(
            (*fields[:2], float(fields[3]), *(one.lstrip("-") for one in (fields[2], *fields[4:])))
            for token in text.split("\x1e")
            for fields in [token.split("\x1f")]
        )
        for letter, text in lists.items()
    }
    return row.user_id, tuple(head), tuple(sorted(tokens.items()))


def some_events() -> list[Event]:
    return simulated_streams.simulated_shop(seed=3, users=30, days=2)


def reference_rows(arrivals: list[Arrival], keep: int) -> Counter:
    rows = [(one, row) for row, one in enumerate(arrivals) if isinstance(one, Scored)]
    return Counter(
        told(ScoringInput(one.user, event_parts(arrivals, row, keep))) for one, row in rows
    )


def test_a_streams_rows_are_the_references(tmp_path: Path) -> None:
    settings = load(job={"parallelism": 1}, scoring={"history": 8})
    sent = to_records(simulated_streams.irregular_payloads(some_events(), seed=3))
    rows = run_scoring_views(sent, [], settings, tmp_path / "stream", batch=False)
    arrivals = read_events(sent, settings.limits)
    assert Counter(map(told, rows)) == reference_rows(arrivals, settings.scoring.history)
    assert len(arrivals) > len(first_occurrences(arrivals)) > 100


def test_a_batchs_rows_are_the_references_with_labels_in_their_places(tmp_path: Path) -> None:
    """There everything arrives at its own time."""
    settings = load(job={"parallelism": 1}, scoring={"history": 8})
    events = some_events()
    scored = [event for event in events if event["event_type"] in TYPE_LETTERS]
    times = {event["event_time"] for event in events}
    labels = []
    for number, event in enumerate(scored[::5]):
        time_ms = event["event_time"] + 7 * HOUR_MS
        while time_ms in times:
            time_ms += 1
        times.add(time_ms)
        labels.append(
            simulated_streams.label_payload(
                event, ("fraud", "legitimate")[number % 3 == 0], time_ms
            )
        )
    sent, given = to_records(map(payload, events)), to_records(labels)
    rows = run_scoring_views(sent, given, settings, tmp_path / "batch", batch=True)
    known = [label for one in given if (label := read_label(one))]
    assert len(known) == len(given)
    arrivals = sorted([*read_events(sent, settings.limits), *known], key=lambda one: one.time_ms)
    assert Counter(map(told, rows)) == reference_rows(arrivals, settings.scoring.history)
    assert any("+" in row.parts for row in rows)
