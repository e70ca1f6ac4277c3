"""What a job's event lane stored and sent, against tests/reference/scoring.py over the same topics."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from cassandra.cluster import Session

from liveprofile.config import Settings
from liveprofile.kafka.records import read_topic
from liveprofile.resources import product_path
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import execute
from models.fraud.model import FraudModel
from tests.reference.entity_features import Arrival
from tests.reference.profile import Record
from tests.reference.scoring import Decision, Key, Rules, decide, key_of, loud, read_events

FlagKey = tuple[str, str, str]  # user, rule, event


class Found(NamedTuple):
    """All that a lane left behind."""

    scores: dict[Key, Any]  # rows of risk_score
    flags: dict[str, FlagKey]  # by flag_id; only those of events
    alerts: list[dict[str, Any]]  # of events, in order, copies among them


def find(settings: Settings, session: Session) -> Found:
    """session: of the job's keyspace."""
    scores = {(row.user_id, row.event_ms, row.event_id): row for row in _scores(session)}
    flags = {
        row.flag_id: (row.user_id, row.rule_id, row.event_id)
        for row in execute(session, "SELECT flag_id, user_id, rule_id, event_id FROM risk_flag")
        if row.event_id
    }
    alerts = [
        alert
        for record in read_topic(settings, settings.topics.alerts)
        if (alert := json.loads(record.value or b""))["data"].get("event_id")
    ]
    return Found(scores, flags, alerts)


def _scores(session: Session) -> Any:
    return execute(
        session,
        "SELECT user_id, to_unix_timestamp(event_time) AS event_ms, event_id, score, active_rules,"
        " rules_version FROM risk_score",
    )


def sent_events(settings: Settings) -> list[Arrival]:
    """The topic's scored events, each partition in its order."""
    records = [
        Record(one.partition, one.offset, one.timestamp_ms, one.key, one.value)
        for one in read_topic(settings, settings.topics.events)
    ]
    return read_events(sorted(records, key=lambda one: one[:2]), settings.limits)


def file_rules(settings: Settings) -> Rules:
    return tomllib.loads(product_path(settings.rules).read_text(encoding="utf-8"))["rules"]


def assert_sound(found: Found, events: Sequence[Arrival]) -> None:
    """What holds whatever was decided: each event is scored, no alert without its stored flag, and
    all copies of one carry one id."""
    assert found.scores.keys() == {key_of(one) for one in events}
    told = {alert["id"]: _of(alert) for alert in found.alerts}
    assert len(set(told.values())) == len(told)
    assert told.items() <= found.flags.items()


def _of(alert: dict[str, Any]) -> FlagKey:
    data = alert["data"]
    return data["user_id"], data["rule_id"], data["event_id"]


def assert_decided(found: Found, expected: dict[Key, Decision], rules: Rules) -> set[FlagKey]:
    """What these rules made of these events; returns the flags. Those of
    rules in force have an alert."""
    ids = {rule["id"] for rule in rules}
    flags: dict[str, FlagKey] = {}
    for key, decision in expected.items():
        row = found.scores[key]
        assert row.score == pytest.approx(decision.score, abs=1e-6), key
        assert set(row.active_rules or ()) & ids == decision.active_rules, key
        flags |= {flag_id: (key[0], rule, key[2]) for rule, flag_id in decision.flags.items()}
    users = {user_id for user_id, _, _ in expected}
    stored = {one: of for one, of in found.flags.items() if of[0] in users and of[1] in ids}
    assert stored == flags
    assert set(loud(expected, rules)) <= {alert["id"] for alert in found.alerts}
    return set(flags.values())


def expect(
    settings: Settings, arrivals: list[Arrival], rules: Rules | Callable[..., Rules]
) -> dict[Key, Decision]:
    model = FraudModel.load(product_path(settings.scoring.checkpoint))
    return decide(arrivals, rules, model, settings.scoring.history)


def assert_scoring(settings: Settings, of_users: str, rule_id: str) -> None:
    """That everything is sound, and that the rule judged the users of this prefix, who share
    nothing with others, exactly as the reference does."""
    with open_session(settings.cassandra) as session:
        found = find(settings, session)
    events = sent_events(settings)
    assert_sound(found, events)
    own = [one for one in events if one.user.startswith(of_users)]
    rules = [rule for rule in file_rules(settings) if rule["id"] == rule_id]
    assert assert_decided(found, expect(settings, own, rules), rules)
