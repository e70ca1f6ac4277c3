"""ProfileUpdater on batches: rejected rows, alerts, texts and other modalities."""

import copy
import json
from typing import Any
from unittest.mock import Mock

import jsonschema
import numpy as np
import orjson
import pytest

from liveprofile.errors import InputError
from liveprofile.events.modalities import PLACE, TEXT, Modality
from liveprofile.features.baselines import COLUMNS
from liveprofile.rules.rules import RuleSet
from liveprofile.settings import load
from liveprofile.wire.tokens import FIELD, WINDOW
from models.profile.deployment import in_canary
from tests.support.memory.sinks import MemoryProfileSink
from tests.support.paths import ROOT
from tests.support.rows.segment_examples import segments
from tests.support.rows.statements import stated
from tests.unit.udfs.profile.batches import ANY_WINDOW, END_MS, FailingModel, batch, feeds
from udfs.profile.model_feed import ActiveModels
from udfs.profile.update import ProfileBatchTiming, ProfileUpdater
from udfs.worker import MAX_CONSECUTIVE_FAILED_ROWS


@pytest.mark.parametrize("failing", [(), (1,), (0, 2), (0, 1, 2)])
def test_only_rows_that_the_model_cannot_score_are_rejected(model: Any, failing: tuple[int, ...]):
    row_fails = [row in failing for row in range(3)]

    def fails(windows: Any) -> bool:
        whole_batch = len(windows.starts) > 2
        return bool(failing) if whole_batch else row_fails.pop(0)

    sink = MemoryProfileSink()
    updater = ProfileUpdater(load(), FailingModel(model, fails), sink, feeds())
    sent = updater.update(batch("a", "b", "c"))
    assert set(sink.profiles) == {user for row, user in enumerate("abc") if row not in failing}
    assert [len(records) for records in sent] == [int(row in failing) for row in range(3)]
    assert all("SCORING_FAILED" in records[0] for records in sent if records)


def test_rejected_event_names_its_record_and_keeps_its_payload(model: Any):
    failing = FailingModel(model, lambda _: True)
    updater = ProfileUpdater(load(), failing, MemoryProfileSink(), feeds())
    row = batch("a")
    [[record]] = updater.update(row)
    head, value = record.split(WINDOW, 1)
    topics = load().topics
    failure = ("a", "SCORING_FAILED", "ValueError: odd")
    assert head.split(FIELD) == [topics.rejected, *failure, topics.events, "0", "7"]
    assert value == row.events[0].split(FIELD, 4)[4]


def test_too_many_consecutive_failing_rows_fail_the_task(model: Any):
    sink = MemoryProfileSink()
    updater = ProfileUpdater(load(), FailingModel(model, lambda _: True), sink, feeds())
    with pytest.raises(ValueError, match="odd"):
        for _ in range(MAX_CONSECUTIVE_FAILED_ROWS + 1):
            updater.update(batch("a"))
    assert not sink.profiles


def test_user_is_indexed_with_the_fourth_window_and_each_sixteenth_after_it(model: Any):
    users = [str(windows) for windows in range(1, 37)]
    row = batch(*users)
    sums = row.sums.copy()
    sums[:, COLUMNS.index("windows")] = np.arange(1, 37)
    sink = MemoryProfileSink()
    ProfileUpdater(load(), model, sink, feeds()).update(row._replace(sums=sums))
    assert [user for user in users if sink.profiles[user].write_lookalike] == ["4", "20", "36"]


def test_flagged_window_sends_an_alert_unless_the_rule_is_snoozed(model: Any):
    sink = MemoryProfileSink()
    sink.snoozes["b"] = {"any_window": 1 << 60}
    rules = RuleSet.model_validate({"version": "test", "rules": [ANY_WINDOW]})
    updater = ProfileUpdater(load(), model, sink, feeds(rules))
    first, snoozed = updater.update(batch("a", "b"))
    assert snoozed == []
    [(topic, alert)] = [
        (record.split(FIELD, 1)[0], json.loads(record.split(WINDOW, 1)[1])) for record in first
    ]
    assert topic == load().topics.alerts
    assert (alert["subject"], alert["data"]["rule_id"]) == ("a", "any_window")
    assert set(sink.flags) == {(user, END_MS, "any_window", "") for user in "ab"}


def test_events_name_the_deployment(model: Any):
    rules = RuleSet.model_validate({"version": "test", "rules": [ANY_WINDOW]})
    settings = load(job={"event_source": "urn:shop:eu"})
    followed = feeds(rules, segments(everyone="purchases >= 0"))
    updater = ProfileUpdater(settings, model, MemoryProfileSink(), followed)
    [records] = updater.update(batch("a"))
    alert, change = (json.loads(record.split(WINDOW, 1)[1]) for record in records)
    assert alert["source"] == change["source"] == "urn:shop:eu/profile-job"
    assert alert["type"] == "liveprofile.risk.flag"
    assert change["type"] == "liveprofile.segment.entered"
    for event, name in ((alert, "risk-alert"), (change, "segment-change")):
        schema = json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text("utf-8"))
        jsonschema.Draft202012Validator(schema).validate(event)


def test_users_of_another_shop_get_only_what_they_had(model: Any):
    sink = MemoryProfileSink()
    ProfileUpdater(load(), model, sink, feeds()).update(
        batch("a", fields=',"item_id":"item","category_id":"category"')
    )
    stored = sink.profiles["a"]
    profile = orjson.loads(stored.profile)
    assert profile["next_items"] == ["item"] and [*profile["interests"]] == ["category"]
    assert 0 < profile["interests"]["category"] < 1
    assert stored.surprise == 0  # its categories mean nothing to the model


def test_model_of_another_decay_is_rejected(model: Any):
    other = copy.copy(model)
    other.decay_days = model.decay_days + 1
    with pytest.raises(InputError, match=r"state\.decay_days = .* was trained with"):
        ProfileUpdater(load(), other, MemoryProfileSink(), feeds())


@pytest.mark.parametrize("texts", [True, False])
def test_text_vectors_reach_the_model_only_with_an_encoder(model: Any, texts: bool):
    vectors: list[Any] = []
    recording = copy.copy(model)
    recording.modalities = frozenset({TEXT})
    recording.score = lambda *args: vectors.extend(args[4]) or model.score(*args)

    def encode(texts: list[str]) -> np.ndarray:
        return np.array([[float(len(text))] for text in texts], np.float32)

    encoder = encode if texts else None
    updater = ProfileUpdater(load(), recording, MemoryProfileSink(), feeds(), encode_texts=encoder)
    updater.update(batch("a", fields=',"query":"shoes"'))
    updater.update(batch("b"))
    with_query = {TEXT: [5.0]} if texts else {}
    assert [
        {name: vector.tolist() for name, vector in of_window.items()} for of_window in vectors
    ] == [with_query, {}]


def test_delta_names_the_encoders_and_the_timing_counts_their_vectors(model: Any):
    sink, timings = MemoryProfileSink(), list[ProfileBatchTiming]()
    with_clip = copy.copy(model)
    with_clip.modalities = frozenset({Modality("clip", 2), PLACE})
    updater = ProfileUpdater(load(), with_clip, sink, feeds(), timings.append)
    media = ',"place":{"lat":1,"lon":2},"media_embedding":{"encoder":"%s","vector":[1,2]}'
    updater.update(batch("a", "b", fields=media % "clip"))
    updater.update(batch("c", fields=media % "other"))
    updater.update(batch("d"))
    window = {user: orjson.loads(row.delta)["window"] for (user, _), row in sink.deltas.items()}
    assert window["a"]["media"] == window["b"]["media"] == ["clip"]
    assert "media" not in window["c"] | window["d"]
    counts = [(timing.media_used, timing.media_ignored) for timing in timings]
    assert counts == [(2, 0), (0, 1), (0, 0)]


def test_canary_serves_its_share_of_a_batch_and_each_row_carries_its_model(model: Any):
    class Feed:
        def current(self) -> ActiveModels:
            canary = copy.copy(model)
            canary.version = "canary"
            return ActiveModels(model.with_revision(1_005), canary.with_revision(1_005), 30)

    users = [f"user-{number}" for number in range(40)]
    plain, mixed = MemoryProfileSink(), MemoryProfileSink()
    rules = RuleSet.model_validate({"version": "test", "rules": [ANY_WINDOW]})
    expected = ProfileUpdater(load(), model, plain, feeds(rules)).update(batch(*users))
    sent = ProfileUpdater(load(), model, mixed, feeds(rules), models=Feed()).update(batch(*users))
    with_canary = {user for user in users if in_canary(user, "canary", 30)}
    assert 0 < len(with_canary) < len(users)
    for table in (mixed.profiles, mixed.deltas):
        rows = list(table.values())
        assert {row.user_id for row in rows if row.model_version == "canary"} == with_canary
        assert {row.revision for row in rows} == {1_005}
        assert len(rows) == len(users)
    alerts = [json.loads(records[0].split(WINDOW, 1)[1]) for records in sent]
    assert [alert["subject"] for alert in alerts] == users
    assert len(expected) == len(sent)


def test_rules_and_segments_read_what_others_state_for_their_purpose(model: Any):
    sink = MemoryProfileSink()
    sink.attributes = {
        "a": [stated("a", END_MS - 1, vip=True, band="high")],
        "b": [stated("b", END_MS - 1, purpose="risk", vip=True, band="high")],
        "c": [stated("c", END_MS - 10_000, days=0.0001, vip=True, band="high")],
        "e": [stated("e", END_MS - 1, purpose="marketing", vip=True)],
    }
    rule = ANY_WINDOW | {"when": 'attribute("vip") and events >= threshold'}
    rules = RuleSet.model_validate({"version": "1", "rules": [rule]})
    found = segments(high='attribute("band") == "high"', low='attribute("band") != "high"')
    ProfileUpdater(load(), model, sink, feeds(rules, found)).update(batch(*"abcde"))
    assert {user for user, *_ in sink.flags} == {"a", "b"}
    assert sink.segments.members_of("high") == {"a"}
    assert sink.segments.members_of("low") == set()
    reason = sink.segments.memberships(["a"])["a"]["high"].reason
    assert json.loads(reason)["values"] == {'attribute("band")': "high"}


def test_nothing_is_returned_before_all_is_stored(model: Any) -> None:
    updater = ProfileUpdater(load(), model, sink := MemoryProfileSink(), feeds())
    sink.flush = Mock(side_effect=OSError("no store"))
    with pytest.raises(OSError, match="no store"):
        updater.update(batch("a"))
