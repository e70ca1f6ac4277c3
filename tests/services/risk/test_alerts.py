"""Alert states, commands, snoozes and consumers with a real Kafka broker and Cassandra node."""

import hashlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cassandra.cluster import Session

from liveprofile.alerts import cloud_event
from liveprofile.kafka.records import read_topic, send_all
from liveprofile.kafka.topics import create_topics
from liveprofile.pseudonym import user_pseudonym
from liveprofile.rows.risk import score_hour_ms
from liveprofile.rules.flags import ALL_RULES
from liveprofile.settings import CassandraSettings, Settings
from liveprofile.storage.cql import from_ms, now_ms
from liveprofile.toml_text import to_toml
from services.alerts import case_store, flags, snooze, states
from services.alerts.consumer import AlertConsumer, AlertRefusedError, OpenCase, RetryPolicy
from services.alerts.consumer.alert import Alert
from services.alerts.consumer.loop import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    HandledStore,
    dead_letter_topic,
)
from services.alerts.states import AlertState, TransitionError
from services.privacy.erasure_log import ErasureRun, write_runs
from tests.services.conftest import empty
from tests.support.job_under_test import JobUnderTest, run_cli
from tests.support.rows.profile_rows import flag, profile_row, write_and_flush
from tests.support.waiting import until
from udfs.profile.store import CassandraProfileStore

FLAG_ID = "a" * 32


@pytest.fixture(scope="module")
def job(new_job: Callable[..., JobUnderTest], settings: CassandraSettings) -> JobUnderTest:
    """Has its topics only; it is not submitted."""
    return new_job("alerts", tables=False, cassandra={"keyspace": settings.keyspace})


@pytest.fixture
def open_flag(sink: CassandraProfileStore, session: Session) -> Any:
    """A stored flag of an event, in state OPEN. Another user has a flag of a window."""
    empty(
        session, ("flag_state", "risk_snooze", "risk_case", "alert_handled", "risk_score_by_hour")
    )
    reasons = [{"code": "R", "value": 13.5, "usual": None, "sentence": "unlike the user"}]
    event_flag = flag(flag_id=FLAG_ID, event_id="e1", reasons=reasons)
    write_and_flush(
        sink,
        profile_row("42", flags=[event_flag]),
        profile_row("43", flags=[flag(flag_id="b" * 32)]),
    )
    return flags.find_flag(session, FLAG_ID)


def alerts(job: JobUnderTest, *arguments: str, ok: bool = True) -> Any:
    done = job.cli("risk", "alerts", *arguments, "--json", ok=ok)
    return json.loads(done.stdout) if done.returncode == 0 else done


def sent_labels(job: JobUnderTest) -> list[dict[str, Any]]:
    """Returns the labels in sending order. Partitions are read in any order."""
    records = read_topic(job.settings, job.settings.topics.feedback)
    return [
        json.loads(record.value)
        for record in sorted(records, key=lambda record: record.timestamp_ms)
    ]


# --- states ---------------------------------------------------------------------------------------


def test_only_one_of_concurrent_transitions_succeeds(session: Session, open_flag: Any):
    analysts = [f"analyst-{number}" for number in range(8)]
    start = threading.Barrier(len(analysts))

    def ack(by: str) -> str | None:
        start.wait()
        try:
            to = AlertState.ACKNOWLEDGED
            return states.transition(session, open_flag, to, by, "why", ttl_s=3_600).by
        except TransitionError:
            return None

    with ThreadPoolExecutor(len(analysts)) as pool:
        winners = [by for by in pool.map(ack, analysts) if by]
    assert len(winners) == 1
    assert states.read_state(session, FLAG_ID).by == winners[0]
    [_] = states.read_state_changes(session, FLAG_ID)  # failed transitions leave no history


# --- commands -------------------------------------------------------------------------------------


def test_label_command_sends_the_same_record_when_repeated(
    job: JobUnderTest, session: Session, open_flag: Any
):
    hour, at = (
        from_ms(each) for each in (score_hour_ms(open_flag.window_end_ms), open_flag.window_end_ms)
    )
    session.execute(
        "INSERT INTO risk_score_by_hour (user_id, hour, event_time, event_id, device_id, shop_id)"
        " VALUES ('42', %s, %s, 'e1', 'd-1', '')",
        (hour, at),
    )
    before = sent_labels(job)
    for _ in range(2):
        answer = alerts(job, "label", FLAG_ID, "fraud", "--by", "anna")
        assert (answer["state"], answer["labels_sent"]) == ("confirmed", 1)
    first, second = sent_labels(job)[len(before) :]
    assert first == second
    assert first == {
        "flag_id": FLAG_ID,
        "event_id": "e1",
        "user_id": "42",
        "label": "fraud",
        "event_time": open_flag.window_end_ms,
        "analyst": "anna",
        "device_id": "d-1",
        "time": states.read_state(session, FLAG_ID).updated_at_ms,
    }
    refused = alerts(job, "label", FLAG_ID, "fraud", "--by", "ben", ok=False)
    assert refused.returncode == 1 and "is confirmed by anna" in refused.stderr


def test_label_command_without_kafka_names_the_command_to_repeat(
    job: JobUnderTest, session: Session, open_flag: Any, tmp_path: Path
):
    settings = job.settings.model_dump(mode="json", include={"cassandra", "topics"})
    file = tmp_path / "unreachable.toml"
    settings["cassandra"].pop("password")
    unreachable = {"bootstrap_servers": "127.0.0.1:1", "request_timeout_ms": 1_000}
    file.write_text(to_toml(settings | {"kafka": unreachable}), "utf-8")
    arguments = ("risk", "alerts", "label", FLAG_ID, "legitimate", "--by", "anna")
    done = run_cli(*arguments, "--config", file, ok=False)
    assert done.returncode == 3
    assert f"repeat `liveprofile {' '.join(arguments)}`" in done.stderr
    assert states.read_state(session, FLAG_ID).state is AlertState.FALSE_POSITIVE
    assert alerts(job, *arguments[2:])["labels_sent"] == 1


def test_commands_of_an_analyst_change_and_show_a_flag(
    job: JobUnderTest, session: Session, open_flag: Any
):
    assert alerts(job, "ack", FLAG_ID, "--by", "anna")["state"] == "acknowledged"
    refused = alerts(job, "ack", FLAG_ID, "--by", "ben", ok=False)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    (listed,) = alerts(job, "list", "--state", "acknowledged", "--rule", "rule")
    assert (listed["flag_id"], listed["by"]) == (FLAG_ID, "anna")
    alerts(job, "snooze", "42", "--rule", "rule", "--for", "1h", "--by", "anna")
    shown = alerts(job, "show", FLAG_ID)
    assert shown["event_id"] == "e1" and shown["reasons"][0]["sentence"] == "unlike the user"
    assert shown["history"][0]["by"] == shown["snoozes"][0]["by"] == "anna"
    assert alerts(job, "close", FLAG_ID, "--by", "anna")["state"] == "closed"
    text = job.cli("risk", "alerts", "show", FLAG_ID).stdout
    assert "acknowledged" in text and "unlike the user" in text and "13.50" in text
    unknown = alerts(job, "show", "c" * 32, ok=False)
    assert unknown.returncode == 1 and "no flag" in unknown.stderr


def test_feedback_command_sends_valid_labels_of_a_file(job: JobUnderTest, tmp_path: Path):
    row = {
        "event_id": "e9",
        "user_id": "9",
        "label": "legitimate",
        "event_time": "2017-11-26T01:00:00Z",
        "known_at": "2017-12-10T00:00:00Z",
    }
    file = tmp_path / "labels.jsonl"
    file.write_text(json.dumps(row) + "\n" + json.dumps(row | {"label": "?"}) + "\n")
    before = sent_labels(job)
    done = job.cli("risk", "feedback", file, "--by", "bank", ok=False)
    answer = json.loads(done.stdout)
    assert done.returncode == 1 and (answer["sent"], answer["rejected"]) == (1, 1)
    assert f"{file} row 2: label: " in done.stderr
    (sent,) = sent_labels(job)[len(before) :]
    assert sent["analyst"] == "bank" and sent["time"] == row["known_at"]


def test_snooze_ends_at_its_time_or_when_ended(session: Session, open_flag: Any):
    until_ms = now_ms() + 3_000
    snooze.snooze(session, "42", "rule", until_ms, "anna")
    snooze.snooze(session, "42", ALL_RULES, until_ms + 60_000, "anna")
    expected = {"rule": until_ms, "*": until_ms + 60_000}
    assert {one.rule_id: one.until_ms for one in snooze.read_snoozes(session, "42")} == expected
    snooze.end_snooze(session, "42", ALL_RULES)
    until(lambda: not snooze.read_snoozes(session, "42"))
    assert now_ms() >= until_ms


# --- consumer -------------------------------------------------------------------------------------


class RecordingHandler:
    name = "recorder"

    def __init__(self) -> None:
        self.handled: list[str] = []
        self.refused_id = ""

    def handle(self, alert: Alert) -> None:
        if alert.id == self.refused_id:
            raise AlertRefusedError("never")
        self.handled.append(alert.id)


def send_alerts(settings: Settings, *flag_ids: str) -> None:
    values = [
        cloud_event(flag(flag_id=flag_id, reasons=[]), profile_row("42")) for flag_id in flag_ids
    ]
    send_all(settings, settings.topics.alerts, [(b"42", value, {}) for value in values])


def consume(
    settings: Settings, session: Session, group: str, handlers: list[Any], records: int
) -> AlertConsumer:
    """Runs a consumer until it has received `records` records; returns it, stopped."""
    consumer = AlertConsumer.connect(
        settings, handlers, session, group_id=group, retries=RetryPolicy(2, 0.05, 0.1)
    )
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        until(lambda: consumer.counts.received >= records)
    finally:
        consumer.stop()
        thread.join(30)
    assert not thread.is_alive() and consumer.counts.received == records
    return consumer


def test_an_alert_from_before_an_erasure_reaches_no_handler(job: JobUnderTest, session: Session):
    settings, recorder = with_alerts_topic(job.settings, "erased"), RecordingHandler()
    send_alerts(settings, "0" * 32)
    write_runs(session, {"42": ErasureRun(now_ms(), now_ms(), {})}, 60)
    assert consume(settings, session, "erased", [recorder], 1).counts.erased == 1
    session.execute("DELETE FROM erasure WHERE user_id = '42'")
    assert not recorder.handled


def test_restarted_consumer_handles_no_alert_twice(
    job: JobUnderTest, session: Session, open_flag: Any
):
    settings = with_alerts_topic(job.settings, "restart")
    first, second, third = (f"{number:032x}" for number in range(3))
    send_alerts(settings, first, second, first)
    recorder = RecordingHandler()
    assert consume(settings, session, "g", [recorder], 3).counts.known == 1
    assert recorder.handled == [first, second]
    # It resumes at the committed offset. A duplicate after the restart is known.
    send_alerts(settings, third, second)
    consume(settings, session, "g", [recorder], 2)
    assert recorder.handled == [first, second, third]
    # As after a crash before the commit: all alerts are read again, none is handled again.
    handled = HandledStore(session, "other")
    for alert_id in (first, second, third):
        handled.add(alert_id, recorder.name)
    assert consume(settings, session, "other", [recorder], 5).counts.known == 5
    assert recorder.handled == [first, second, third]


def test_alerts_open_one_case_and_refused_alert_is_dead_lettered(
    job: JobUnderTest, session: Session, open_flag: Any
):
    settings = with_alerts_topic(job.settings, "case")
    refused = "c" * 32
    send_alerts(settings, FLAG_ID, refused, "d" * 32)
    recorder = RecordingHandler()
    recorder.refused_id = refused
    counts = consume(settings, session, "g", [OpenCase(session, 3_600), recorder], 3).counts
    assert (counts.handled, counts.dead) == (5, 1)
    (case,) = case_store.read_cases(session, "42")
    assert case.is_open and case.number == 1
    assert list(case.alerts) == [FLAG_ID, refused, "d" * 32]
    (dead,) = read_topic(settings, dead_letter_topic(settings))
    assert json.loads(dead.value)["id"] == refused and dead.key == b"42"
    assert dead.headers["reason"] == b"REFUSED" and dead.headers["handler"] == b"recorder"
    assert dead.headers["detail"] == b"AlertRefusedError: never"


def test_long_record_is_truncated_in_the_dead_letter_topic(
    job: JobUnderTest, session: Session, open_flag: Any
):
    settings = with_alerts_topic(job.settings, "long")
    values = [b"x" * (MAX_VALUE_BYTES + more) for more in (0, 450_000)]
    send_all(settings, settings.topics.alerts, [(b"k" * 2_000, value, {}) for value in values])
    assert consume(settings, session, "g", [RecordingHandler()], 2).counts.dead == 2
    dead = sorted(
        read_topic(settings, dead_letter_topic(settings)), key=lambda each: len(each.headers)
    )
    assert {(len(record.key), len(record.value)) for record in dead} == {
        (MAX_KEY_BYTES, MAX_VALUE_BYTES)
    }
    whole, cut = (record.headers for record in dead)
    assert "truncated" not in whole and cut["truncated"] == b"true"
    assert cut["payload_bytes"] == str(len(values[1])).encode()
    assert cut["payload_sha256"] == hashlib.sha256(values[1]).hexdigest().encode()


def test_consume_command_stops_on_sigterm_and_prints_counts(
    job: JobUnderTest, session: Session, open_flag: Any
):
    send_alerts(job.settings, FLAG_ID)
    with job.start("risk", "consume", "--open-case", "--json") as process:
        until(lambda: case_store.read_cases(session, "42"))
        process.terminate()
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    counts = json.loads(out)
    assert (counts["received"], counts["handled"], counts["dead"]) == (1, 1, 0)
    assert f"alert {FLAG_ID} of {user_pseudonym('42')}: open_case took" in err


def with_alerts_topic(settings: Settings, suffix: str) -> Settings:
    """Returns the settings with another alerts topic, which it creates."""
    topics = settings.topics.model_copy(
        update={"prefix": f"{settings.topics.prefix}{suffix.lstrip('-')}-"}
    )
    own = settings.model_copy(update={"topics": topics})
    create_topics(own)
    return own
