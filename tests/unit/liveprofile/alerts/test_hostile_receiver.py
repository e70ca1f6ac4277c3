"""Webhook receivers that never end their response cost an attempt no more than its time-out."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat

import pytest

from liveprofile.alerts.consumer import Webhook
from liveprofile.alerts.consumer.webhook import WebhookFailed
from tests.support.security.certificates import CertificateAuthority
from tests.unit.liveprofile.alerts.fake_kafka import an_alert

SECRET = "whsec_" + "A" * 40
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
def receiver(
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
        with pytest.raises(WebhookFailed):
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
    with receiver(response, PAUSE_S) as url:
        elapsed_s = seconds_of_attempt(Webhook(url, SECRET, TIMEOUT_S), fails=True)
    assert TIMEOUT_S <= elapsed_s < TIMEOUT_S + MARGIN_S


@pytest.mark.parametrize("response", [slow_status, slow_headers])
def test_deadline_holds_over_tls(response: Response, authority: CertificateAuthority):
    with receiver(response, PAUSE_S, server_context(authority)) as url:
        webhook = Webhook(url, SECRET, TIMEOUT_S, client_context(authority))
        assert seconds_of_attempt(webhook, fails=True) < TIMEOUT_S + MARGIN_S


def test_deadline_holds_in_the_tls_handshake():
    with receiver(silence, PAUSE_S) as url:
        webhook = Webhook(url.replace("http:", "https:"), SECRET, TIMEOUT_S)
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
    with receiver(response) as url:
        assert seconds_of_attempt(Webhook(url, SECRET), fails=True) < AT_ONCE_S


@pytest.mark.parametrize("pause_s", [0.0, PAUSE_S])
@pytest.mark.parametrize(
    "header", [b"", b"content-length: 1000000000\r\n", b"transfer-encoding: chunked\r\n"]
)
def test_body_is_not_awaited(header: bytes, pause_s: float):
    def response() -> Iterable[bytes]:
        return chain([OK + header + b"\r\n"], repeat(b"5\r\nabcde\r\n"))

    with receiver(response, pause_s) as url:
        assert seconds_of_attempt(Webhook(url, SECRET), fails=False) < AT_ONCE_S


def test_only_trusted_certificates_are_accepted(authority: CertificateAuthority):
    with receiver(lambda: [OK + b"\r\n"], tls=server_context(authority)) as url:
        Webhook(url, SECRET, tls=client_context(authority)).handle(an_alert())
        with pytest.raises(WebhookFailed, match="SSLCertVerificationError"):
            Webhook(url, SECRET).handle(an_alert())


def server_context(authority: CertificateAuthority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("receiver"))
    return context


def client_context(authority: CertificateAuthority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.file)
