"""The alert consumer: retries, duplicates, dead letters, rebalances, stopping."""

import json
import time
from contextlib import nullcontext
from datetime import timedelta
from typing import Any
from unittest.mock import Mock, call

import pytest
from confluent_kafka import KafkaError, KafkaException

from liveprofile.errors import ServiceError
from liveprofile.storage.cql import from_ms, now_ms
from liveprofile.storage.queries import StoredFlag
from services.alerts.consumer import (
    Alert,
    AlertRefusedError,
    RestrictAccount,
    RetryPolicy,
    Severity,
)
from services.alerts.consumer.alert import read_alert
from services.alerts.consumer.loop import DeliveryFailure
from services.alerts.flags import UnknownFlagError
from tests.unit.services.alerts.consumer_runs import (
    EXAMPLE,
    FAST,
    TOPIC,
    Recorder,
    Run,
    an_alert,
    kafka_of,
    payload,
)


def test_alerts_of_a_partition_are_handled_in_order_then_committed():
    kafka = kafka_of([payload(1), payload(2)], [payload(3)])
    handler = Recorder()
    run = Run(kafka, handler)()
    assert sorted(handler.seen) == [f"{n:032x}" for n in (1, 2, 3)]
    assert handler.seen.index(f"{1:032x}") < handler.seen.index(f"{2:032x}")
    assert kafka.committed == {0: 2, 1: 1} and kafka.closed and not run.dead
    assert (run.counts.received, run.counts.handled) == (3, 3)


def test_duplicate_alert_is_handled_once_by_each_handler():
    first, second = Recorder(name="first"), Recorder(name="second")
    run = Run(kafka_of([payload(1), payload(1)]), first, second)()
    assert len(first.seen) == len(second.seen) == 1
    assert (run.counts.handled, run.counts.known) == (2, 2)


def test_transient_failure_is_retried():
    handler = Recorder(TimeoutError(), TimeoutError())
    run = Run(kafka_of([payload(1)]), handler)()
    assert len(handler.seen) == 3 and not run.dead
    assert (run.counts.handled, run.counts.retried) == (1, 2)


def test_poison_alert_goes_to_dead_letters_and_blocks_nothing():
    poison = Recorder(*[ValueError("no\nsuch thing")] * FAST.attempts, name="poison")
    other = Recorder(name="other")
    run = Run(kafka := kafka_of([payload(1), payload(2)]), poison, other)()
    assert run.dead == [
        (0, DeliveryFailure("poison", "HANDLER_FAILED", "ValueError: no such thing"))
    ]
    assert len(other.seen) == 2 and len(poison.seen) == FAST.attempts + 1
    assert kafka.committed == {0: 2} and run.counts.dead == 1


def test_alert_of_a_user_who_is_erased_during_its_retries_is_dropped():
    class Receiver(Recorder):
        def handle(self, alert: Alert) -> None:
            run.store.erased.add(alert.id)  # the erasure is accepted at this moment
            super().handle(alert)

    failing = Receiver(*[TimeoutError()] * FAST.attempts, name="webhook")
    run = Run(kafka := kafka_of([payload(1)]), failing, other := Recorder())
    assert (run().counts.erased, run.counts.handled) == (1, 0)
    assert len(failing.seen) == 1 and not other.seen and not run.dead
    assert kafka.committed == {0: 1} and not run.store.handled


def test_refused_alert_is_not_retried():
    handler = Recorder(AlertRefusedError("gone"))
    run = Run(kafka_of([payload(1)]), handler)()
    assert len(handler.seen) == 1
    assert run.dead == [(0, DeliveryFailure("recorder", "REFUSED", "AlertRefusedError: gone"))]


@pytest.mark.parametrize("value", [None, b"x", b"{}", payload(severity="fatal")])
def test_invalid_alert_goes_to_dead_letters(value: bytes | None):
    handler = Recorder()
    run = Run(kafka := kafka_of([value, payload(1)]), handler)()
    assert [(offset, failure.reason) for offset, failure in run.dead] == [(0, "NOT_AN_ALERT")]
    assert len(handler.seen) == 1 and kafka.committed == {0: 2}


def test_alerts_below_minimum_severity_are_skipped():
    handler = Recorder()
    values = [payload(n, severity=severity) for n, severity in enumerate(Severity)]
    run = Run(kafka_of(values), handler, min_severity=Severity.HIGH)()
    assert len(handler.seen) == 2 and run.counts.below == 2


def test_service_outage_ends_consumer_without_commit_or_dead_letter():
    handler = Recorder(*[ServiceError("Cassandra is away")] * FAST.attempts)
    kafka = kafka_of([payload(1), payload(2)])
    run = Run(kafka, handler)
    with pytest.raises(ServiceError, match="Cassandra is away"):
        run()
    assert not kafka.committed and not run.dead and kafka.closed


def test_stop_interrupts_retry_wait_and_commits_handled_records():
    handler = Recorder()
    kafka = kafka_of([payload(1), payload(2), payload(3)])
    run = Run(kafka, handler, retries=RetryPolicy(3, initial_wait_s=60.0, max_wait_s=60.0))
    handle = handler.handle

    def fail_on_second(alert: Alert) -> None:
        if alert.id == f"{2:032x}":
            run.consumer.stop()
            raise TimeoutError
        handle(alert)

    handler.handle = fail_on_second
    started_s = time.monotonic()
    run()
    assert time.monotonic() - started_s < 5
    assert handler.seen == [f"{1:032x}"] and kafka.committed == {0: 1} and not run.dead


@pytest.mark.parametrize("is_lost", [True, False])
def test_commit_error_ends_the_consumer_unless_the_partition_is_lost(is_lost: bool):
    code = KafkaError.ILLEGAL_GENERATION if is_lost else KafkaError.GROUP_AUTHORIZATION_FAILED
    kafka = kafka_of([payload(1)])
    kafka.commit_error = KafkaException(KafkaError(code))
    with nullcontext() if is_lost else pytest.raises(ServiceError, match=TOPIC):
        assert Run(kafka, Recorder())().counts.handled == 1


def test_user_ids_in_logs_are_hashed(caplog):
    caplog.set_level("INFO")
    errors = TimeoutError(), AlertRefusedError("u-4711 is gone")
    Run(kafka_of([payload(1), payload(2)]), Recorder(*errors))()
    assert "recorder took" in caplog.text and "REFUSED" in caplog.text
    assert "user:" in caplog.text and "u-4711" not in caplog.text


def test_event_of_another_type_is_no_alert():
    assert read_alert(json.dumps(EXAMPLE | {"type": "liveprofile.risk.drift"}).encode()) is None


def restrictions(time_ms: int, action: str) -> list[Any]:
    """What an alert and its duplicate restrict. It names another user, action and time than the
    stored flag, and only that counts."""
    flag = StoredFlag(
        "u-1", time_ms, time_ms, "rule", an_alert().id, "CODE", "high", action, 9.0, 3.0, "9 of 3",
        {}, "model", "rules",
    )  # fmt: skip
    accounts = Mock()
    for _ in range(2):
        handler = RestrictAccount(accounts, lambda _: flag, timedelta(hours=2))
        handler.handle(an_alert(action="restrict_trading"))
    return accounts.restrict.call_args_list


def test_restriction_is_that_of_the_stored_flag_and_starts_at_its_time():
    time_ms = now_ms()
    until = from_ms(time_ms) + timedelta(hours=2)
    expected = 2 * [call("u-1", "limit_trading", until, "CODE: 9 of 3")]
    assert restrictions(time_ms, "limit_trading") == expected


def test_old_flag_or_other_action_or_no_stored_flag_restricts_nobody():
    assert not restrictions(now_ms() - 3 * 3_600_000, "limit_trading")
    assert not restrictions(now_ms(), "notify_customer_service")
    unknown = Mock(side_effect=UnknownFlagError("f"))
    with pytest.raises(AlertRefusedError, match="no flag is stored"):
        RestrictAccount(Mock(), unknown).handle(an_alert())
