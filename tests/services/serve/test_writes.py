"""Writes through the API on a real node and broker, and their audit trail."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from liveprofile.feeds.users import read_consents, read_erasures
from liveprofile.kafka.records import read_topic
from liveprofile.pseudonym import user_pseudonym
from liveprofile.storage.cql import from_ms
from liveprofile_client import Client, NotFoundError, RefusedError, calls
from tests.services.serve.conftest import Api
from tests.support.api_server import api_server
from tests.support.rows.profile_rows import START_MS, flag


def test_analyst_changes_alerts_and_each_write_is_audited(api: Api) -> None:
    flag_id = "u5-0-0"
    with api.client("otto", "analyst") as otto, api.client("anna", "analyst") as anna:
        assert otto.send(calls.set_state(flag_id, state="acknowledged")).by == "otto"
        with pytest.raises(RefusedError, match="acknowledged by otto"):
            anna.send(calls.set_state(flag_id, state="acknowledged"))
        assert anna.send(calls.label(flag_id, label="fraud", note="chargeback")).labels_sent == 0
        anna.send(calls.snooze("u5", "rule0", for_s=3_600))
        details = otto.send(calls.alert(flag_id))
        assert [change.to_state for change in details.history] == ["confirmed", "acknowledged"]
        assert [snooze.by for snooze in details.snoozes] == ["anna"]
        anna.send(calls.end_snooze("u5", "rule0"))
        assert otto.send(calls.snoozes("u5"))["items"] == []
        [confirmed] = otto.items(calls.alerts(user_id="u5", state="confirmed"))
        assert (confirmed.flag_id, confirmed.note) == (flag_id, "chargeback")
    with api.client("root", "admin") as admin:
        trail = admin.send(calls.audit(day=datetime.now(UTC)))
    writes = [(entry.name, entry.action, entry.outcome) for entry in trail["items"]]
    assert writes[:5] == [
        ("anna", "snooze.end", "done"),
        ("anna", "snooze.set", "done"),
        ("anna", "alert.label", "done"),
        ("anna", "alert.state", "refused"),
        ("otto", "alert.state", "done"),
    ]
    assert trail["items"][2].before["state"] == "acknowledged"
    assert trail["items"][2].after["state"] == "confirmed"


def test_label_of_an_event_reaches_kafka(api: Api) -> None:
    of_event = flag("event_rule", flag_id="f-event", event_id="e00")
    api.session.execute(
        "INSERT INTO risk_flag (user_id, window_end, rule_id, event_id, flag_id, window_start,"
        " reason, severity, action, value, threshold, message, evidence, model_version,"
        " rules_version) VALUES ('u0', %s, %s, 'e00', 'f-event', %s, 'R', 'high', 'a', 1, 1, 'm',"
        " '{}', 'm', 'r') USING TTL 3600",
        (from_ms(START_MS), of_event.rule_id, from_ms(START_MS)),
    )
    with api.client("otto", "analyst") as client:
        assert client.send(calls.label("f-event", label="legitimate")).labels_sent == 1
    [record] = read_topic(api.settings, api.settings.topics.feedback)
    assert json.loads(record.value)["label"] == "legitimate"


def test_consents_and_erasures_reach_the_topics_and_are_carried_out(api: Api) -> None:
    asked_ms = round(time.time() * 1_000) - 1_000
    request = {"granted": False, "time_ms": asked_ms, "basis": "consent"}
    with api.client("pia", "privacy") as client:
        for _ in range(2):
            answer = client.send(calls.put_consent("asked", "marketing", **request))
        assert not answer.purposes["marketing"].allowed and len(answer.history) == 1
        assert not read_consents(api.settings).allowed("asked", "marketing", asked_ms)
        with pytest.raises(NotFoundError, match="no erasure"):
            client.send(calls.erasure("asked"))
        first = client.send(calls.put_erasure("asked", before_ms=asked_ms))
        assert (
            client.send(calls.put_erasure("asked", before_ms=asked_ms)) == first and not first.done
        )
        assert read_erasures(api.settings).before_ms("asked") == asked_ms
        report = api.job.run("privacy", "erase", "--pending")
        assert (report["user_id"], report["pending"]) == ("asked", {})
        assert client.send(calls.erasure("asked")).done
    with api.client("root", "admin") as admin:
        entries = admin.send(calls.audit(day=datetime.now(UTC)))["items"]
    done = [(entry.action, entry.target) for entry in entries if entry.name == "pia"]
    # What the trail says of the user by name is deleted with the user.
    assert done == [("user.erase", user_pseudonym("asked"))]


def test_of_two_editors_of_the_same_rules_one_wins(api: Api) -> None:
    with api.client("root", "admin") as admin:
        rules = admin.send(calls.rules())
        shown = admin.send(calls.put_rules(rules=rules.rules[:1], tag=rules.tag, dry_run=True))
        assert (shown.dry_run, shown.tag) == (True, rules.tag)

        def edit(count: int) -> list[str]:
            try:
                admin.send(calls.put_rules(rules=rules.rules[:count], tag=rules.tag))
            except RefusedError as error:
                assert error.problem.status in (409, 412)
                return []
            return [rule["id"] for rule in rules.rules[:count]]

        with ThreadPoolExecutor() as threads:
            [written] = filter(None, threads.map(edit, (1, 2)))
        now = admin.send(calls.rules())
        assert [rule["id"] for rule in now.rules] == sorted(written)
        assert now.source == f"topic {api.settings.topics.rules}"
        trail = admin.send(calls.audit(day=datetime.now(UTC)))["items"]
        outcomes = [entry.outcome for entry in trail if entry.action == "rules.put"]
        assert sorted(outcomes) == ["done", "refused"]
    listed = api.job.run("risk", "rules", "list")
    assert listed["rules"] == now.rules


def test_server_waits_for_the_tables(api: Api) -> None:
    keyspace = f"{api.settings.cassandra.keyspace}_later"
    config = api.job.other_settings("later.toml", cassandra={"keyspace": keyspace})
    with api_server(config) as url, Client(url) as client, pytest.raises(RefusedError, match="503"):
        client.send(calls.ready())
