"""The consumer of alerts: retries, copies, dead letters, stopping; the shipped handlers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from liveprofile.alerts.consumer import (
    Alert,
    AlertConsumer,
    Refused,
    RestrictAccount,
    Retries,
    Severity,
    Webhook,
)
from liveprofile.alerts.consumer.alert import NotAnAlert, read_alert
from liveprofile.alerts.consumer.delivery import Failure, MemoryHandled
from liveprofile.alerts.consumer.handlers import load_accounts
from liveprofile.alerts.consumer.webhook import WebhookFailed, read_secret
from liveprofile.errors import ConfigError, InputError, ServiceError
from tests.support.paths import ROOT

SCHEMA = ROOT / "schemas/risk-alert.schema.json"
EXAMPLE = json.loads(SCHEMA.read_text("utf-8"))["examples"][0]
FAST = Retries(attempts=3, first_s=0.001, longest_s=0.002)
TOPIC = "risk-alerts"


def payload(number: int = 1, **data: Any) -> bytes:
    return json.dumps(EXAMPLE | {"id": f"{number:032x}", "data": EXAMPLE["data"] | data}).encode()


def an_alert(**data: Any) -> Alert:
    return read_alert(payload(**data))


class Message:
    def __init__(self, partition: int, offset: int, value: bytes | None):
        self._place, self._value = (partition, offset), value

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return self._place[0]

    def offset(self) -> int:
        return self._place[1]

    def key(self) -> bytes:
        return b"u-4711"

    def value(self) -> bytes | None:
        return self._value

    def error(self) -> None:
        return None


class FakeKafka:
    """Two partitions of values; after the last `on_empty` is called. Keeps what is committed."""

    def __init__(self, *partitions: list[bytes | None]):
        self.messages = [
            Message(number, offset, value)
            for number, values in enumerate(partitions)
            for offset, value in enumerate(values)
        ]
        self.places = [TopicPartition(TOPIC, number) for number in range(len(partitions))]
        self.committed: dict[int, int] = {}
        self.paused = self.closed = False
        self.while_paused: Callable[[], None] = lambda: None
        self.on_empty: Callable[[], None] = lambda: None
        self.commit_error: KafkaException | None = None

    def subscribe(self, topics: list[str], on_revoke: Any, on_lost: Any) -> None:
        self.on_revoke = on_revoke

    def consume(self, count: int, timeout: float) -> list[Message]:
        if self.paused:
            self.while_paused()
            time.sleep(0.001)
            return []
        taken, self.messages = self.messages[:count], self.messages[count:]
        if not taken:
            self.on_empty()
        return taken

    def assignment(self) -> list[TopicPartition]:
        return self.places

    def pause(self, places: list[TopicPartition]) -> None:
        self.paused = True

    def resume(self, places: list[TopicPartition]) -> None:
        self.paused = False

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert not asynchronous
        if self.commit_error:
            raise self.commit_error
        self.committed |= {place.partition: place.offset for place in offsets}

    def close(self) -> None:
        self.closed = True


class Recorder:
    """A handler that raises each of `errors` in turn, then succeeds."""

    def __init__(self, *errors: Exception, name: str = "recorder"):
        self.name, self.errors = name, list(errors)
        self.seen: list[str] = []

    def handle(self, alert: Alert) -> None:
        self.seen.append(alert.id)
        if self.errors:
            raise self.errors.pop(0)


class Run:
    """One run of the consumer over what the fake Kafka holds."""

    def __init__(self, kafka: FakeKafka, *handlers: Any, handled: Any = None, **options: Any):
        self.kafka, self.dead = kafka, []
        self.consumer = AlertConsumer(
            kafka, TOPIC, handlers, handled or MemoryHandled(),
            lambda record, failure: self.dead.append((record.offset(), failure)),
            **{"retries": FAST, "workers": 2, **options},
        )  # fmt: skip
        kafka.on_empty = self.consumer.stop

    def __call__(self) -> Run:
        self.counts = self.consumer.run()
        return self


def test_every_alert_is_handled_in_order_and_then_committed():
    kafka = FakeKafka([payload(1), payload(2)], [payload(3)])
    handler = Recorder()
    run = Run(kafka, handler)()
    assert sorted(handler.seen) == [f"{n:032x}" for n in (1, 2, 3)]
    assert handler.seen.index(f"{1:032x}") < handler.seen.index(f"{2:032x}")
    assert kafka.committed == {0: 2, 1: 1} and kafka.closed and not run.dead
    assert (run.counts.received, run.counts.handled) == (3, 3)


def test_a_copy_is_handled_once_by_each_handler():
    first, second = Recorder(name="first"), Recorder(name="second")
    run = Run(FakeKafka([payload(1), payload(1)]), first, second)()
    assert len(first.seen) == len(second.seen) == 1
    assert (run.counts.handled, run.counts.known) == (2, 2)


def test_what_was_handled_is_known_after_a_restart():
    handler, handled = Recorder(), MemoryHandled()
    for _ in range(2):
        Run(FakeKafka([payload(1)]), handler, handled=handled)()
    assert len(handler.seen) == 1


def test_memory_forgets_the_oldest():
    handled = MemoryHandled(capacity=1)
    handled.add("a", "h")
    handled.add("b", "h")
    assert handled.has("b", "h") and not handled.has("a", "h") and not handled.has("b", "other")


def test_a_passing_failure_is_tried_again():
    handler = Recorder(TimeoutError(), TimeoutError())
    run = Run(FakeKafka([payload(1)]), handler)()
    assert len(handler.seen) == 3 and not run.dead
    assert (run.counts.handled, run.counts.retried) == (1, 2)


def test_a_poison_alert_is_put_aside_and_blocks_nothing():
    poison = Recorder(*[ValueError("no\nsuch thing")] * FAST.attempts, name="poison")
    other = Recorder(name="other")
    run = Run(kafka := FakeKafka([payload(1), payload(2)]), poison, other)()
    assert run.dead == [(0, Failure("poison", "HANDLER_FAILED", "ValueError: no such thing"))]
    assert len(other.seen) == 2 and len(poison.seen) == FAST.attempts + 1
    assert kafka.committed == {0: 2} and run.counts.dead == 1


def test_a_refused_alert_is_not_tried_again():
    handler = Recorder(Refused("gone"))
    run = Run(FakeKafka([payload(1)]), handler)()
    assert len(handler.seen) == 1
    assert run.dead == [(0, Failure("recorder", "REFUSED", "Refused: gone"))]


@pytest.mark.parametrize("value", [None, b"x", b"{}", payload(severity="fatal")])
def test_what_is_no_alert_is_put_aside(value: bytes | None):
    handler = Recorder()
    run = Run(kafka := FakeKafka([value, payload(1)]), handler)()
    assert [(offset, failure.reason) for offset, failure in run.dead] == [(0, "NOT_AN_ALERT")]
    assert len(handler.seen) == 1 and kafka.committed == {0: 2}


def test_alerts_below_the_least_severity_are_passed_over():
    handler = Recorder()
    values = [payload(n, severity=severity) for n, severity in enumerate(Severity)]
    run = Run(FakeKafka(values), handler, min_severity=Severity.HIGH)()
    assert len(handler.seen) == 2 and run.counts.below == 2


def test_our_own_outage_ends_the_consumer_and_loses_nothing():
    handler = Recorder(*[ServiceError("Cassandra is away")] * FAST.attempts)
    kafka = FakeKafka([payload(1), payload(2)])
    run = Run(kafka, handler)
    with pytest.raises(ServiceError, match="Cassandra is away"):
        run()
    assert not kafka.committed and not run.dead and kafka.closed


def test_stopping_breaks_off_a_wait_and_commits_what_is_done():
    handler = Recorder()
    kafka = FakeKafka([payload(1), payload(2), payload(3)])
    run = Run(kafka, handler, retries=Retries(3, first_s=60.0, longest_s=60.0), workers=1)
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


def test_partitions_that_go_are_committed_first():
    release = threading.Event()
    handler = Recorder()
    handle = handler.handle

    def slow(alert: Alert) -> None:
        release.wait(5)
        handle(alert)

    handler.handle = slow
    kafka = FakeKafka([payload(1), payload(2)])
    run = Run(kafka, handler, workers=1)

    def rebalance() -> None:
        kafka.while_paused = lambda: None
        threading.Timer(0.05, release.set).start()
        kafka.on_revoke(kafka, kafka.places)
        kafka.committed_at_revoke = dict(kafka.committed)

    kafka.while_paused = rebalance
    run()
    assert kafka.committed_at_revoke == {0: 1}  # the one in progress, not the next
    assert handler.seen == [f"{1:032x}"]


def test_partitions_that_have_gone_cost_only_a_repetition():
    kafka = FakeKafka([payload(1)])
    kafka.commit_error = KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION))
    assert Run(kafka, Recorder())().counts.handled == 1


def test_another_failure_to_commit_ends_it():
    kafka = FakeKafka([payload(1)])
    kafka.commit_error = KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
    with pytest.raises(ServiceError, match=TOPIC):
        Run(kafka, Recorder())()


def test_handlers_have_names_of_their_own():
    for handlers in ([], [Recorder(), Recorder()]):
        with pytest.raises(ValueError, match="a name of its own"):
            Run(FakeKafka([]), *handlers)


def test_user_ids_are_hashed_in_the_log(caplog):
    caplog.set_level("INFO")
    Run(FakeKafka([payload(1), payload(2)]), Recorder(TimeoutError(), Refused("u-4711 is gone")))()
    assert "recorder took" in caplog.text and "REFUSED" in caplog.text
    assert "user:" in caplog.text and "u-4711" not in caplog.text


# --- the alert ------------------------------------------------------------------------------------


def test_an_alert_keeps_what_it_does_not_know():
    alert = read_alert(json.dumps(EXAMPLE | {"traceparent": "00-1"}).encode())
    sent = json.loads(alert.to_json())
    assert sent == EXAMPLE | {"traceparent": "00-1"}


def test_an_alert_of_an_earlier_version_is_read():
    newer = ("event_id", "rule_version", "rule_state", "reasons")
    data = {name: value for name, value in EXAMPLE["data"].items() if name not in newer}
    alert = read_alert(json.dumps(EXAMPLE | {"data": data}).encode())
    assert alert.data.event_id is None and alert.data.reasons == ()


def test_a_wrong_field_is_named():
    with pytest.raises(NotAnAlert, match=r"data\.severity: "):
        an_alert(severity="fatal")


# --- webhook --------------------------------------------------------------------------------------

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@pytest.fixture
def receiver() -> Iterator[SimpleNamespace]:
    """A receiver that gives `answers` in turn (the last again and again; None: none in time)."""
    state = SimpleNamespace(answers=[200], requests=[])

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            state.requests.append((self.path, dict(self.headers), body))
            answer = state.answers[0] if len(state.answers) == 1 else state.answers.pop(0)
            if answer is None:
                time.sleep(0.5)
                return
            self.send_response(answer)
            self.send_header("content-length", "0")
            self.send_header("location", "http://127.0.0.1:1/")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}/risk?x=1"
        yield state
        server.shutdown()
        thread.join()


def test_a_webhook_is_signed_by_the_standard(receiver: SimpleNamespace):
    alert = an_alert()
    Webhook(receiver.url, SECRET).handle(alert)
    ((path, headers, body),) = receiver.requests
    headers = {name.lower(): value for name, value in headers.items()}
    assert path == "/risk?x=1" and json.loads(body)["id"] == alert.id == headers["webhook-id"]
    assert headers["content-type"] == "application/cloudevents+json"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 5
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{mac}"


def test_the_signature_of_the_standard_s_own_example():
    from liveprofile.alerts.consumer.webhook import sign

    key = read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("passing", [500, 503, 429, None])
def test_a_busy_receiver_is_asked_again(receiver: SimpleNamespace, passing: int | None):
    receiver.answers = [passing, 200]
    run = Run(FakeKafka([payload(1)]), Webhook(receiver.url, SECRET, timeout_s=0.2))()
    assert len(receiver.requests) == 2 and run.counts.handled == 1 and not run.dead
    ids = {headers["webhook-id"] for _, headers, _ in receiver.requests}
    assert len(ids) == 1


@pytest.mark.parametrize("final", [400, 401, 404, 410, 301])
def test_another_answer_is_final(receiver: SimpleNamespace, final: int):
    receiver.answers = [final]
    run = Run(FakeKafka([payload(1)]), Webhook(receiver.url, SECRET))()
    assert len(receiver.requests) == 1
    assert run.dead == [(0, Failure("webhook", "REFUSED", f"Refused: answer {final}"))]


def test_a_receiver_that_is_away_is_worth_another_attempt():
    with pytest.raises(WebhookFailed):
        Webhook("http://127.0.0.1:1/", SECRET).handle(an_alert())


@pytest.mark.parametrize(
    "url",
    [
        "http://shop.example/risk",
        "http://10.0.0.1/",
        "http://localhost.evil.example/",
        "http://127.0.0.1@shop.example/",
        "ftp://127.0.0.1/",
        "https://",
        "shop.example",
        "https://[::1",
    ],
)
def test_a_webhook_leaves_this_machine_by_https_only(url: str):
    with pytest.raises(ConfigError, match="webhook URL"):
        Webhook(url, SECRET)


@pytest.mark.parametrize("url", ["https://shop.example/", "http://[::1]:80/", "http://localhost/"])
def test_a_good_url(url: str):
    Webhook(url, SECRET)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!", "whsec_c2hvcnQ=", "ü"])
def test_a_bad_secret_is_refused_and_not_repeated(secret: str):
    with pytest.raises(ConfigError) as refused:
        read_secret(secret)
    assert not secret or secret not in str(refused.value)


def test_without_a_secret_nothing_is_sent(monkeypatch):
    monkeypatch.delenv("LIVEPROFILE_WEBHOOK_SECRET", raising=False)
    with pytest.raises(ConfigError, match="LIVEPROFILE_WEBHOOK_SECRET is not set"):
        Webhook.from_environment("https://shop.example/")


# --- restricting accounts -------------------------------------------------------------------------


class FakeAccounts:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def restrict(self, *arguments: Any) -> None:
        self.calls.append(arguments)


def recent(**data: Any) -> Alert:
    now = datetime.now(UTC).replace(microsecond=0)
    return an_alert(**data).model_copy(update={"time": now})


def test_an_account_is_restricted_from_the_alert_s_time_on():
    accounts, alert = FakeAccounts(), recent(action="limit_trading")
    for _ in range(2):  # a copy asks for the same
        RestrictAccount(accounts, timedelta(hours=2)).handle(alert)
    reason = f"{alert.data.reason}: {alert.data.message}"
    call = ("u-4711", "limit_trading", alert.time + timedelta(hours=2), reason)
    assert accounts.calls == [call, call]


def test_an_old_alert_and_one_for_people_restrict_nobody():
    accounts = FakeAccounts()
    handler = RestrictAccount(accounts)
    handler.handle(an_alert(action="limit_trading"))  # of 2017
    handler.handle(recent(action="notify_customer_service"))
    assert not accounts.calls


def test_accounts_are_loaded_by_their_path():
    accounts = load_accounts("examples.alert_consumer:PrintingAccounts")
    assert callable(accounts.restrict)


@pytest.mark.parametrize(
    "path", ["", "json", "json:", ":x", "no_such:x", "json:none", "json:dumps"]
)
def test_a_wrong_path_is_named(path: str):
    with pytest.raises(InputError, match=repr(path)):
        load_accounts(path)


def test_a_consumer_needs_something_to_do():
    from typer.testing import CliRunner

    from cli.main import app

    result = CliRunner().invoke(app, ["consume"])
    assert isinstance(result.exception, InputError) and result.exception.exit_code == 2


def test_an_event_of_another_type_is_no_alert_and_no_failure():
    assert read_alert(json.dumps(EXAMPLE | {"type": "liveprofile.risk.drift"}).encode()) is None
