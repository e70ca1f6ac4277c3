"""Compares what the scoring pipeline stored and sent with the reference over the same topics."""

import json
import tomllib
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import pytest
from cassandra.cluster import Session

from liveprofile.kafka.records import read_topic
from liveprofile.resources import product_path
from liveprofile.settings import Settings
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import execute
from models.fraud.model import FraudModel
from tests.reference.entity_features import Arrival
from tests.reference.scoring import (
    Decision,
    Key,
    Rules,
    alerting_flag_ids,
    decide,
    event_key,
    read_events,
)
from tests.support.compare import NO_ARCHIVE, Archive, read_records

FlagKey = tuple[str, str, str]  # user, rule, event


class StoredScoring(NamedTuple):
    """The output of the scoring pipeline."""

    scores: dict[Key, Any]  # rows of risk_score_by_hour
    flags: dict[str, FlagKey]  # by flag_id; only flags of events
    alerts: list[dict[str, Any]]  # of events, in topic order, duplicates included


def read_stored_scoring(settings: Settings, session: Session) -> StoredScoring:
    """Reads tables and topic. session: uses the job's keyspace."""
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
    return StoredScoring(scores, flags, alerts)


def _scores(session: Session) -> Any:
    return execute(
        session,
        "SELECT user_id, to_unix_timestamp(event_time) AS event_ms, event_id, score, active_rules,"
        " rules_version FROM risk_score_by_hour",
    )


def sent_events(settings: Settings, archive: Archive = NO_ARCHIVE) -> list[Arrival]:
    """Returns the scored events of the archive and the topic, in the order of arrival."""
    return read_events(read_records(settings, archive), settings.limits)


def file_rules(settings: Settings) -> Rules:
    return tomllib.loads(product_path(settings.rules).read_text(encoding="utf-8"))["rules"]


def assert_consistent(stored: StoredScoring, events: Sequence[Arrival]) -> None:
    """Asserts what holds for any decision.

    Every event is scored, every alert has a stored flag, and duplicates of an alert have one id.
    """
    assert stored.scores.keys() == {event_key(event) for event in events}
    alerted = {alert["id"]: _flag_key(alert) for alert in stored.alerts}
    assert len(set(alerted.values())) == len(alerted)
    assert alerted.items() <= stored.flags.items()


def _flag_key(alert: dict[str, Any]) -> FlagKey:
    data = alert["data"]
    return data["user_id"], data["rule_id"], data["event_id"]


def assert_decisions_match(
    stored: StoredScoring,
    expected: dict[Key, Decision],
    rules: Rules,
    silent: Collection[Key] = (),
) -> set[FlagKey]:
    """Asserts scores, active rules and flags of the expected events; returns the flags.

    Other users and other rules are ignored. Every flag that sends an alert has one, but those of
    `silent` events.
    """
    ids = {rule["id"] for rule in rules}
    flags: dict[str, FlagKey] = {}
    for key, decision in expected.items():
        row = stored.scores[key]
        assert row.score == pytest.approx(decision.score, abs=1e-6), key
        assert set(row.active_rules or ()) & ids == decision.active_rules, key
        flags |= {flag_id: (key[0], rule, key[2]) for rule, flag_id in decision.flags.items()}
    users = {user_id for user_id, _, _ in expected}
    stored_flags = {
        flag_id: key for flag_id, key in stored.flags.items() if key[0] in users and key[1] in ids
    }
    assert stored_flags == flags
    heard = {key: decision for key, decision in expected.items() if key not in silent}
    assert set(alerting_flag_ids(heard, rules)) <= {alert["id"] for alert in stored.alerts}
    return set(flags.values())


def expected_decisions(
    settings: Settings, arrivals: list[Arrival], rules: Rules | Callable[..., Rules]
) -> dict[Key, Decision]:
    model = FraudModel.load(product_path(settings.scoring.checkpoint))
    return decide(arrivals, rules, model, settings.scoring.history)


def assert_scoring(
    settings: Settings, user_prefix: str, rule_id: str = "", archive: Archive = NO_ARCHIVE
) -> None:
    """Asserts that the output is consistent and that rules are decided as in the reference.

    The rules, or the one rule, are compared for the users with the prefix, each of whom must share
    no entity with any other user.
    """
    with open_session(settings.cassandra) as session:
        stored = read_stored_scoring(settings, session)
    events = sent_events(settings, archive)
    assert_consistent(stored, events)
    rules = [rule for rule in file_rules(settings) if rule_id in ("", rule["id"])]
    model = FraudModel.load(product_path(settings.scoring.checkpoint))
    by_user: dict[str, list[Arrival]] = defaultdict(list)
    for event in events:
        if event.user.startswith(user_prefix):
            by_user[event.user].append(event)
    expected: dict[Key, Decision] = {}
    for arrivals in by_user.values():
        expected |= decide(arrivals, rules, model, settings.scoring.history)
    silent = set(map(event_key, read_events(archive.records, settings.limits)))
    assert assert_decisions_match(stored, expected, rules, silent)
