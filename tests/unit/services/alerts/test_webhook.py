"""The webhook handler: signature, retries, URLs and secrets."""

import base64
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import chain, repeat
from types import SimpleNamespace

import pytest

from liveprofile.errors import ConfigError
from services.alerts.consumer import Webhook
from services.alerts.consumer.loop import DeliveryFailure
from services.alerts.consumer.webhook import WebhookFailedError, decode_secret, sign
from tests.support.security.certificates import CertificateAuthority
from tests.unit.services.alerts.consumer_runs import Run, an_alert, kafka_of, payload

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
OK = b"HTTP/1.1 200 OK\r\n"
Response = Iterable[bytes]  # the parts of one response


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("certificates"))


def status(number: int) -> Response:
    return [f"HTTP/1.1 {number} x\r\nlocation: http://127.0.0.1:1/\r\n\r\n".encode()]


@contextmanager
def receiver_of(
    *answers: Callable[[], Response], pause_s: float = 0.0, tls: ssl.SSLContext | None = None
) -> Iterator[SimpleNamespace]:
    """A server of one connection at a time; it gives the answers in turn, repeating the last.

    pause_s: between the parts of a response. Its `requests` are the header lines and the body.
    """
    closing, state = threading.Event(), SimpleNamespace(requests=[])

    def serve() -> None:
        while not closing.is_set():
            with suppress(OSError):
                connection, _ = server.accept()
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True)
                with connection:
                    state.requests.append(read_request(connection))
                    answer = answers[min(len(state.requests), len(answers)) - 1]
                    for part in answer():
                        connection.sendall(part)
                        if closing.wait(pause_s):
                            return

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        thread = threading.Thread(target=serve)
        thread.start()
        scheme = "https" if tls else "http"
        state.url = f"{scheme}://127.0.0.1:{server.getsockname()[1]}/risk?x=1"
        yield state
        closing.set()
        thread.join()


def read_request(connection: socket.socket) -> tuple[str, dict[str, str], bytes]:
    """Reads all of it: closing a connection with unread data would reset it."""
    with connection.makefile("rb") as file:
        path, headers = file.readline().split()[1].decode(), {}
        while line := file.readline().decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return path, headers, file.read(int(headers["content-length"]))


def test_webhook_request_is_signed_by_the_specification():
    alert = an_alert()
    with receiver_of(lambda: status(200)) as receiver:
        Webhook(receiver.url, SECRET).handle(alert)
    [(path, headers, body)] = receiver.requests
    assert path == "/risk?x=1" and json.loads(body)["id"] == alert.id == headers["webhook-id"]
    assert headers["content-type"] == "application/cloudevents+json"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 5
    signature = sign(KEY, alert.id, int(headers["webhook-timestamp"]), body)
    assert headers["webhook-signature"] == signature


def test_signature_matches_the_specification_example():
    key = decode_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("code", "is_final"), [(500, False), (503, False), (429, False), (400, True), (301, True)]
)
def test_transient_status_is_retried_and_another_goes_to_dead_letters(code: int, is_final: bool):
    with receiver_of(lambda: status(code), lambda: status(200)) as receiver:
        run = Run(kafka_of([payload(1)]), Webhook(receiver.url, SECRET))()
    refused = DeliveryFailure("webhook", "REFUSED", f"AlertRefusedError: status {code}")
    assert run.dead == ([(0, refused)] if is_final else [])
    assert len(receiver.requests) == (1 if is_final else 2)
    assert len({headers["webhook-id"] for _, headers, _ in receiver.requests}) == 1


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


TIMEOUT_S = 0.5
MARGIN_S = 1.0  # the responses last a minute or longer
AT_ONCE_S = 5.0  # a third of the time-out
PAUSE_S = 0.05  # between two parts of a slow response


def seconds_of_attempt(webhook: Webhook, *, fails: bool) -> float:
    started_s = time.monotonic()
    with pytest.raises(WebhookFailedError) if fails else nullcontext():
        webhook.handle(an_alert())
    return time.monotonic() - started_s


ENDLESS: dict[str, Callable[[], Response]] = {
    "slow status": lambda: (bytes([byte]) for byte in OK + b"x: y\r\n" * 1_000),
    "slow headers": lambda: chain([OK, b"x: "], repeat(b"y")),
    "continue": lambda: repeat(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "silence": lambda: repeat(b""),
}


@pytest.mark.parametrize(
    ("response", "is_tls"),
    [*((each, False) for each in ENDLESS), ("slow status", True), ("slow headers", True)],
)
def test_response_without_end_of_headers_is_retried_at_the_deadline(
    response: str, is_tls: bool, authority: CertificateAuthority
):
    tls = server_context(authority) if is_tls else None
    with receiver_of(ENDLESS[response], pause_s=PAUSE_S, tls=tls) as receiver:
        webhook = Webhook(receiver.url, SECRET, TIMEOUT_S, client_context(authority))
        assert TIMEOUT_S <= seconds_of_attempt(webhook, fails=True) < TIMEOUT_S + MARGIN_S


def test_deadline_holds_in_the_tls_handshake():
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts and never answers
        url = f"https://127.0.0.1:{server.getsockname()[1]}/"
        elapsed_s = seconds_of_attempt(Webhook(url, SECRET, TIMEOUT_S), fails=True)
    assert elapsed_s < TIMEOUT_S + MARGIN_S


@pytest.mark.parametrize(
    "parts",
    [
        chain([OK], repeat(b"x: y\r\n")),  # too many headers
        repeat(b"x" * 4_096),
        chain([b"HTTP/1.1 200 "], repeat(b"x" * 4_096)),
        [b"HTTP/1.1 OK\r\n\r\n"],
        [b"220 smtp.shop.example\r\n"],
        [],
    ],
    ids=["headers", "no_http", "status_line", "no_status", "smtp", "empty"],
)
def test_response_that_is_not_http_or_too_long_is_retried_at_once(parts: Response):
    with receiver_of(lambda: parts) as receiver:
        assert seconds_of_attempt(Webhook(receiver.url, SECRET), fails=True) < AT_ONCE_S


def test_body_is_not_awaited():
    head = OK + b"content-length: 1000000000\r\n\r\n"
    with receiver_of(lambda: chain([head], repeat(b"abcde")), pause_s=PAUSE_S) as receiver:
        assert seconds_of_attempt(Webhook(receiver.url, SECRET), fails=False) < AT_ONCE_S


def test_only_trusted_certificates_are_accepted(authority: CertificateAuthority):
    with receiver_of(lambda: status(200), tls=server_context(authority)) as receiver:
        Webhook(receiver.url, SECRET, tls=client_context(authority)).handle(an_alert())
        with pytest.raises(WebhookFailedError, match="SSLCertVerificationError"):
            Webhook(receiver.url, SECRET).handle(an_alert())


def server_context(authority: CertificateAuthority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("receiver"))
    return context


def client_context(authority: CertificateAuthority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.file)
