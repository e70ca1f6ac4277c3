"""The webhook handler: signature, retries, URLs and secrets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any

import pytest

from liveprofile.alerts.consumer import Webhook
from liveprofile.alerts.consumer.alert import read_alert
from liveprofile.alerts.consumer.loop import DeliveryFailure
from liveprofile.alerts.consumer.webhook import WebhookFailedError, decode_secret, sign
from liveprofile.errors import ConfigError
from tests.support.security.certificates import CertificateAuthority
from tests.unit.liveprofile.alerts.fake_kafka import EXAMPLE, FakeKafka, Run, an_alert, payload

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@pytest.fixture
def receiver() -> Iterator[SimpleNamespace]:
    """Answers with each status of `answers` in turn, repeating the last; None: a time-out."""
    state = SimpleNamespace(answers=[200], requests=[])
    test_is_over = threading.Event()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            state.requests.append((self.path, dict(self.headers), body))
            answer = state.answers[0] if len(state.answers) == 1 else state.answers.pop(0)
            if answer is None:
                test_is_over.wait(60)
                return
            self.send_response(answer)
            self.send_header("content-length", "0")
            self.send_header("location", "http://127.0.0.1:1/")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Suppresses the log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}/risk?x=1"
        yield state
        test_is_over.set()
        server.shutdown()
        thread.join()


def test_webhook_request_is_signed_by_the_specification(receiver: SimpleNamespace):
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
    assert headers["traceparent"] == alert.traceparent


def test_text_that_is_no_trace_context_becomes_no_header(receiver: SimpleNamespace):
    alert = read_alert(json.dumps(EXAMPLE | {"traceparent": "00-1\r\nx: y"}).encode())
    Webhook(receiver.url, SECRET).handle(alert)
    ((_, headers, body),) = receiver.requests
    assert "traceparent" not in {name.lower() for name in headers}
    assert json.loads(body)["traceparent"] == "00-1\r\nx: y"


def test_signature_matches_the_specification_example():
    key = decode_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("passing", [500, 503, 429, None])
def test_transient_status_or_timeout_is_retried(receiver: SimpleNamespace, passing: int | None):
    receiver.answers = [passing, 200]
    # An attempt that is answered needs less, also on a busy machine.
    run = Run(FakeKafka([payload(1)]), Webhook(receiver.url, SECRET, timeout_s=2.0))()
    assert len(receiver.requests) == 2 and run.counts.handled == 1 and not run.dead
    ids = {headers["webhook-id"] for _, headers, _ in receiver.requests}
    assert len(ids) == 1


@pytest.mark.parametrize("final", [400, 401, 404, 410, 301])
def test_other_status_goes_to_dead_letters_without_retry(receiver: SimpleNamespace, final: int):
    receiver.answers = [final]
    run = Run(FakeKafka([payload(1)]), Webhook(receiver.url, SECRET))()
    assert len(receiver.requests) == 1
    assert run.dead == [
        (0, DeliveryFailure("webhook", "REFUSED", f"AlertRefusedError: status {final}"))
    ]


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
        "https://shop.example/risk alerts",
        "https://käse.example/",
    ],
)
def test_invalid_webhook_url_is_rejected(url: str):
    with pytest.raises(ConfigError, match="webhook URL"):
        Webhook(url, SECRET)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!", "whsec_c2hvcnQ=", "ü"])
def test_invalid_secret_is_rejected_and_absent_from_the_error(secret: str):
    with pytest.raises(ConfigError) as refused:
        decode_secret(secret)
    assert not secret or secret not in str(refused.value)


SECRET_HOSTILE_RECEIVER = "whsec_" + "A" * 40
TIMEOUT_S = 0.5
MARGIN_S = 1.0  # the responses last a minute or longer
AT_ONCE_S = 5.0  # a third of the time-out
PAUSE_S = 0.05  # between two parts of a slow response

OK = b"HTTP/1.1 200 OK\r\n"
Response = Callable[[], Iterable[bytes]]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("certificates"))


@contextmanager
def receiver_of_hostile_receiver(
    response: Response, pause_s: float = 0.0, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """The URL of a server that reads a request and sends the parts of `response`.

    It handles one connection at a time, until the client closes it.
    """
    closing = threading.Event()

    def serve() -> None:
        while not closing.is_set():
            with suppress(OSError):
                connection, _ = server.accept()
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True)
                with connection:
                    read_request(connection)
                    for part in response():
                        connection.sendall(part)
                        if closing.wait(pause_s):
                            return

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.getsockname()[1]}/"
        closing.set()
        thread.join()


def read_request(connection: socket.socket) -> None:
    """Reads all of it: closing a connection with unread data would reset it."""
    with connection.makefile("rb") as file:
        length = 0
        while line := file.readline().strip():
            name, _, value = line.lower().partition(b":")
            length = int(value) if name == b"content-length" else length
        file.read(length)


def seconds_of_attempt(webhook: Webhook, *, fails: bool) -> float:
    started_s = time.monotonic()
    if fails:
        with pytest.raises(WebhookFailedError):
            webhook.handle(an_alert())
    else:
        webhook.handle(an_alert())
    return time.monotonic() - started_s


def slow_status() -> Iterable[bytes]:
    return (bytes([byte]) for byte in OK + b"x: y\r\n" * 1_000)


def slow_headers() -> Iterable[bytes]:
    return chain([OK, b"x: "], repeat(b"y"))


def endless_headers() -> Iterable[bytes]:
    return chain([OK], repeat(b"x: y\r\n"))


def endless_continue() -> Iterable[bytes]:
    return repeat(b"HTTP/1.1 100 Continue\r\n\r\n")


def silence() -> Iterable[bytes]:
    return repeat(b"")


@pytest.mark.parametrize("response", [slow_status, slow_headers, endless_continue, silence])
def test_response_without_end_of_headers_is_retried_at_the_deadline(response: Response):
    with receiver_of_hostile_receiver(response, PAUSE_S) as url:
        elapsed_s = seconds_of_attempt(Webhook(url, SECRET_HOSTILE_RECEIVER, TIMEOUT_S), fails=True)
    assert TIMEOUT_S <= elapsed_s < TIMEOUT_S + MARGIN_S


@pytest.mark.parametrize("response", [slow_status, slow_headers])
def test_deadline_holds_over_tls(response: Response, authority: CertificateAuthority):
    with receiver_of_hostile_receiver(response, PAUSE_S, server_context(authority)) as url:
        webhook = Webhook(url, SECRET_HOSTILE_RECEIVER, TIMEOUT_S, client_context(authority))
        assert seconds_of_attempt(webhook, fails=True) < TIMEOUT_S + MARGIN_S


def test_deadline_holds_in_the_tls_handshake():
    with receiver_of_hostile_receiver(silence, PAUSE_S) as url:
        webhook = Webhook(url.replace("http:", "https:"), SECRET_HOSTILE_RECEIVER, TIMEOUT_S)
        assert seconds_of_attempt(webhook, fails=True) < TIMEOUT_S + MARGIN_S


@pytest.mark.parametrize(
    "response",
    [
        endless_headers,
        lambda: repeat(b"x" * 4_096),
        lambda: chain([b"HTTP/1.1 200 "], repeat(b"x" * 4_096)),
        lambda: chain([OK], repeat(b"x" * 4_096)),
        lambda: [b"HTTP/1.1 OK\r\n\r\n"],
        lambda: [b"220 smtp.shop.example\r\n"],
        lambda: [],
    ],
    ids=["headers", "no_http", "status_line", "header", "no_status", "smtp", "empty"],
)
def test_response_that_is_not_http_or_too_long_is_retried_at_once(response: Response):
    with receiver_of_hostile_receiver(response) as url:
        assert seconds_of_attempt(Webhook(url, SECRET_HOSTILE_RECEIVER), fails=True) < AT_ONCE_S


@pytest.mark.parametrize("pause_s", [0.0, PAUSE_S])
@pytest.mark.parametrize(
    "header", [b"", b"content-length: 1000000000\r\n", b"transfer-encoding: chunked\r\n"]
)
def test_body_is_not_awaited(header: bytes, pause_s: float):
    def response() -> Iterable[bytes]:
        return chain([OK + header + b"\r\n"], repeat(b"5\r\nabcde\r\n"))

    with receiver_of_hostile_receiver(response, pause_s) as url:
        assert seconds_of_attempt(Webhook(url, SECRET_HOSTILE_RECEIVER), fails=False) < AT_ONCE_S


def test_only_trusted_certificates_are_accepted(authority: CertificateAuthority):
    with receiver_of_hostile_receiver(lambda: [OK + b"\r\n"], tls=server_context(authority)) as url:
        Webhook(url, SECRET_HOSTILE_RECEIVER, tls=client_context(authority)).handle(an_alert())
        with pytest.raises(WebhookFailedError, match="SSLCertVerificationError"):
            Webhook(url, SECRET_HOSTILE_RECEIVER).handle(an_alert())


def server_context(authority: CertificateAuthority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("receiver"))
    return context


def client_context(authority: CertificateAuthority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.file)
