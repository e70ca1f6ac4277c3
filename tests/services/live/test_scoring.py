"""The scoring pipeline on the local stack, with rules and labels that change while the job runs.

Final state: the job ran without a restart, every event is scored, every window is closed.
"""

import threading
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cassandra.cluster import Session

from intake.simulator import shared_device_ring
from liveprofile.kafka.records import read_topic
from liveprofile.resources import product_path
from liveprofile.storage.cql import now_ms
from liveprofile.units import DAY_MS
from tests.reference.entity_features import Arrival, Event
from tests.reference.scoring import Rules, event_key, read_label
from tests.reference.windows import Record
from tests.support.compare_scoring import (
    StoredScoring,
    assert_consistent,
    assert_decisions_match,
    expected_decisions,
    file_rules,
    read_stored_scoring,
    sent_events,
)
from tests.support.job_under_test import JobUnderTest
from tests.support.streams import simulated
from tests.support.streams.seeded import Message
from tests.support.streams.shop import event_of, to_message
from tests.support.waiting import until

IN_FORCE_WITHIN_S = 5.0
EVENTS_PER_SECOND = 100
CLOSE_S = 12  # a window length, the out-of-orderness and a margin
EVERY_PURCHASE = """
[[rules]]
id = "every_purchase"
scope = "event"
types = ["purchase"]
when = "amount >= threshold and user_purchases_30d >= 1"
value = "amount"
threshold = 7.0
reason = "EVERY_PURCHASE"
severity = "low"
action = "notify_customer_service"
cool_down_hours = 0
message = "{value:.2f} spent"
"""


def purchase(event_id: str, user_id: str, time_ms: int, device: str) -> dict[str, Any]:
    return event_of(user_id, time_ms, event_id, "purchase", amount=20.0, device_id=device)


@pytest.fixture(scope="module")
def new_rules(job: JobUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rules") / "rules.toml"
    shipped = product_path(job.settings.rules).read_text(encoding="utf-8")
    file.write_text(shipped + EVERY_PURCHASE, encoding="utf-8")
    return file


def stored_and_sent(job: JobUnderTest, session: Session) -> tuple[StoredScoring, list[Arrival]]:
    return read_stored_scoring(job.settings, session), sent_events(job.settings)


def last_event_ms(job: JobUnderTest, session: Session) -> int:
    return max(event.time_ms for event in stored_and_sent(job, session)[1])


def test_simulated_stream_equals_reference(job: JobUnderTest, session: Session) -> None:
    events = simulated.one_event_per_time(
        [
            *simulated.simulated_shop(seed=11, users=40),
            *simulated.with_own_ids(shared_device_ring(30, 2), "ring-"),
        ]
    )
    values = list(simulated.irregular_payloads(events, seed=11))
    job.send(Message(None, value) for value in values)
    job.wait_until_caught_up()
    stored, sent = stored_and_sent(job, session)
    assert len(stored.scores) > 150
    assert_consistent(stored, sent)
    rules = file_rules(job.settings)
    flags = assert_decisions_match(stored, expected_decisions(job.settings, sent, rules), rules)
    assert set(Counter(alert["id"] for alert in stored.alerts).values()) == {1}
    raised = {rule for _, rule, _ in flags}
    assert raised >= {"card_testing", "device_many_users", "coupon_ring", "fraud_score"}


def test_applied_rules_take_effect_within_seconds_without_losing_events(
    job: JobUnderTest, session: Session, new_rules: Path
) -> None:
    """The rules are applied while events arrive."""
    sent_at: dict[str, float] = {}
    stop, producer = threading.Event(), job.producer()
    start_ms = last_event_ms(job, session) + DAY_MS

    def send_events() -> None:
        for number in count():
            event_id, user_id = f"flow-{number}", f"flow-user-{number % 50}"
            event = purchase(event_id, user_id, start_ms + number * 1_000, f"d-{user_id}")
            sent_at[event_id] = time.monotonic()
            producer.produce(job.settings.topics.events, simulated.payload(event))
            producer.poll(0)
            if stop.wait(1 / EVENTS_PER_SECOND):
                break

    thread = threading.Thread(target=send_events)
    thread.start()
    try:
        while len(sent_at) < EVENTS_PER_SECOND:
            time.sleep(0.05)
        job.cli("risk", "rules", "apply", new_rules)
        applied_s = time.monotonic()
        time.sleep(IN_FORCE_WITHIN_S)
    finally:
        stop.set()
        thread.join()
        assert producer.flush(60) == 0
    job.wait_until_caught_up()

    stored = read_stored_scoring(job.settings, session)
    version = {event_id: row.rules_version for (_, _, event_id), row in stored.scores.items()}
    assert sent_at.keys() <= version.keys()
    # The version changes once.
    [before, after] = dict.fromkeys(version[event_id] for event_id in sent_at)
    scored_before = [at_s for event_id, at_s in sent_at.items() if version[event_id] == before]
    scored_after = [at_s for event_id, at_s in sent_at.items() if version[event_id] == after]
    assert max(scored_before) < min(scored_after)
    took_s = max(scored_before) - applied_s
    assert took_s < IN_FORCE_WITHIN_S
    alert_counts = Counter(alert["id"] for alert in stored.alerts)
    assert set(alert_counts.values()) == {1}
    flagged = [key for key in stored.flags.values() if key[1] == "every_purchase"]
    # The rule stays true for every later purchase of the user, which raises no second flag.
    users = {user_id for user_id, _, _ in flagged}
    assert len(flagged) == len(users) == 50
    assert job.restarts() == 0


def test_rules_file_with_error_changes_nothing(
    job: JobUnderTest, new_rules: Path, tmp_path: Path
) -> None:
    before = list(read_topic(job.settings, job.settings.topics.rules))
    broken = tmp_path / "broken.toml"
    text = new_rules.read_text(encoding="utf-8")
    broken.write_text(text.replace("amount >= threshold and", "amuont >= threshold and"))
    done = job.cli("risk", "rules", "apply", broken, ok=False)
    assert done.returncode == 2
    assert "rule every_purchase: when, column 1: unknown name amuont; amount?" in done.stderr
    assert list(read_topic(job.settings, job.settings.topics.rules)) == before


def test_label_affects_later_events_of_the_same_device(job: JobUnderTest, session: Session) -> None:
    now = now_ms()
    job.send([to_message(purchase("stolen", "victim", now - 60_000, "d-thief"))])
    job.wait_until_caught_up()
    [flag_id] = [
        flag_id
        for flag_id, key in read_stored_scoring(job.settings, session).flags.items()
        if key == ("victim", "every_purchase", "stolen")
    ]
    answer = job.run("risk", "alerts", "label", flag_id, "fraud", "--by", "anna")
    assert answer["labels_sent"] == 1
    job.wait_until_caught_up()
    job.send([to_message(purchase("next", "other victim", now_ms(), "d-thief"))])
    job.wait_until_caught_up()
    flags = read_stored_scoring(job.settings, session).flags.values()
    assert ("other victim", "device_known_fraud", "next") in flags
    assert ("victim", "device_known_fraud", "stolen") not in flags


def test_all_decisions_equal_reference_after_rules_and_label(
    job: JobUnderTest, session: Session, new_rules: Path
) -> None:
    """The reference uses for each event the rule version that the job has stored with it."""
    stored, sent = stored_and_sent(job, session)
    [record] = read_topic(job.settings, job.settings.topics.feedback)
    label = read_label(Record(0, 0, 0, None, record.value))
    assert label is not None
    arrivals = [*sent[:-1], label, sent[-1]]
    shipped = file_rules(job.settings)
    applied = file_rules(job.settings.model_copy(update={"rules": new_rules}))
    old_version = stored.scores[event_key(sent[0])].rules_version

    def in_force(event: Event) -> Rules:
        return shipped if stored.scores[event_key(event)].rules_version == old_version else applied

    assert_consistent(stored, sent)
    assert_decisions_match(stored, expected_decisions(job.settings, arrivals, in_force), applied)


def test_status_and_audit_count_every_event(job: JobUnderTest, session: Session) -> None:
    """The scoring pipeline does not affect the profile pipeline."""
    scores = len(read_stored_scoring(job.settings, session).scores)
    # Flink refreshes its metrics every 10 s.
    until(lambda: job.run("job", "status", ok=False)["scoring"]["events"] >= scores, poll_s=1)
    scoring = job.run("job", "status", ok=False)["scoring"]
    assert scoring["unscored"] == 0
    time.sleep(CLOSE_S)
    job.send_heartbeats(now_ms())
    job.wait_until_caught_up()
    report = job.audit()
    assert report["ok"], report
    assert (job.state(), job.restarts(), job.failure()) == ("RUNNING", 0, "")
