"""ProfileUpdater on users without consent and on erased users."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from liveprofile.consent.changes import ConsentChange, ConsentTable
from liveprofile.features import baselines
from liveprofile.privacy.erasures import HashedErasureTable
from liveprofile.rules.rules import RuleSet
from liveprofile.settings import load
from liveprofile.wire.tokens import FIELD, WINDOW
from tests.support.memory.sinks import MemoryProfileSink
from tests.unit.udfs.profile.batches import (
    ANY_WINDOW,
    END_MS,
    FailingModel,
    batch,
    feeds,
)
from udfs.profile.batch import ProfileUpdater


def test_windows_without_consent_reach_neither_model_nor_tables(model: Any):
    class CountingModel(FailingModel):
        def score(self, history: Any, window: Any, *inputs: Any) -> Any:
            scored.append(len(window.starts) - 1)
            return super().score(history, window, *inputs)

    scored: list[int] = []
    sink, consents = MemoryProfileSink(), ConsentTable(load().consent.defaults)
    consents.put("b", [ConsentChange(END_MS - 1, "profiling", False)])
    updater = ProfileUpdater(
        load(),
        CountingModel(model, lambda _: False),
        sink,
        feeds(consents=consents),
    )
    sent = updater.update(batch("a", "b", "c"))
    assert set(sink.profiles) == {"a", "c"} and sum(scored) == 2
    head, value = sent[1][0].split(WINDOW, 1)
    assert head.split(FIELD)[2:4] == ["NO_CONSENT", "profiling"] and value == ""
    assert [len(records) for records in sent] == [0, 1, 0]
    assert len(updater.update(batch("b"))[0]) == 1 and sum(scored) == 2


def test_windows_without_risk_or_recommendation_keep_neither(model: Any):
    consents = ConsentTable(load().consent.defaults)
    for user, purpose in (("b", "risk"), ("c", "recommendation")):
        consents.put(user, [ConsentChange(END_MS, purpose, False)])
    sink = MemoryProfileSink()
    rules = RuleSet.model_validate({"version": "test", "rules": [ANY_WINDOW]})
    updater = ProfileUpdater(load(), model, sink, feeds(rules, consents=consents))
    sent = updater.update(batch("a", "b", "c"))
    assert [len(records) for records in sent] == [1, 0, 1]
    flags = {user: [flag.rule_id for flag in row.flags] for user, row in sink.profiles.items()}
    assert flags == {"a": ["any_window"], "b": [], "c": ["any_window"]}
    assert [len(sink.profiles[user].active_rules) for user in "abc"] == [1, 0, 1]
    profiles = {user: orjson.loads(row.profile) for user, row in sink.profiles.items()}
    assert profiles["c"]["interests"] == {} and profiles["c"]["next_items"] == []
    for user in "ab":
        assert profiles[user]["interests"] and profiles[user]["next_items"]
    assert profiles["c"]["category_affinity"] == profiles["a"]["category_affinity"]


def test_windows_from_before_an_erasure_reach_neither_model_nor_tables(model: Any):
    sink, erasures = MemoryProfileSink(), HashedErasureTable()
    updater = ProfileUpdater(load(), model, sink, feeds(erasures=erasures))
    start_ms = END_MS - 300_000
    erasures.put("b", start_ms + 1)
    erasures.put("c", start_ms)
    rows = batch("a", "b", "c")._replace(sums=np.full((3, len(baselines.COLUMNS)), 9.0))
    sent = updater.update(rows)
    assert set(sink.profiles) == {"a", "c"} and [len(each) for each in sent] == [0, 1, 0]
    head, value = sent[1][0].split(WINDOW, 1)
    assert head.split(FIELD)[1:4] == ["", "ERASED", "window"] and value == ""
    before = {user: orjson.loads(row.delta)["before"] for user, row in sink.profiles.items()}
    assert (before["a"]["windows"], before["c"]["windows"]) == (8.0, 0.0)
    assert sink.profiles["a"].later_sums is None
    assert sink.profiles["c"].later_sums == (1.0,) * len(baselines.COLUMNS)
    assert [len(each) for each in updater.update(rows.take([1]))] == [1]
