"""The HTTP server on real sockets: limits, slow clients, TLS. The store is in memory."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from liveprofile.errors import ConfigError, ServiceError
from liveprofile.settings import ServeSettings
from serve import guard, server
from serve.app import create_app
from serve.server import listen, server_of
from tests.support.api_server import app_server
from tests.support.memory.api import MemoryApi
from tests.support.rows.api_rows import fill
from tests.support.security.certificates import CertificateAuthority


def serving(**settings: Any) -> AbstractContextManager[str]:
    limits = ServeSettings(port=0, authentication="none", **settings)
    return app_server(create_app(limits, fill(MemoryApi()).store()), limits)


def connected(url: str) -> socket.socket:
    address = httpx2.URL(url)
    return socket.create_connection((address.host, address.port), timeout=10)


def received(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    chunks = []
    try:
        while chunk := connection.recv(65_536):
            chunks.append(chunk)
    except ConnectionResetError:
        pass
    return b"".join(chunks)


def test_long_head_is_answered_with_431(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_HEADER_BYTES", 2_000)
    with serving() as url:
        answer = httpx2.get(f"{url}/v1/users/42", headers={"X": "x" * 1_000}, timeout=30)
        assert answer.status_code == 200
        with connected(url) as connection:
            # The end of the head never comes, as if it were endless.
            connection.sendall(
                b"GET /v1/users/42 HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 3_000
            )
            assert received(connection).startswith(b"HTTP/1.1 431 ")


def test_body_does_not_count_as_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_HEADER_BYTES", 1_024)
    with serving() as url:
        ids = [f"{number:0>200}" for number in range(100)]
        answer = httpx2.post(f"{url}/v1/users:batchGet", json={"user_ids": ids}, timeout=30)
    assert (answer.status_code, len(answer.json()["unknown"])) == (200, 100)


@contextmanager
def slow_clients(url: str) -> Iterator[list[socket.socket]]:
    """Connections that have sent a part of a head, a part of a body, and nothing."""
    head = b"POST /v1/users:batchGet HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n"
    with connected(url) as of_head, connected(url) as of_body, connected(url) as silent:
        of_head.sendall(head)
        of_body.sendall(head + b"\r\n{")
        yield [of_head, of_body, silent]


def test_slow_clients_block_nobody() -> None:
    with (
        serving() as url,
        slow_clients(url) as slow,
        httpx2.Client(base_url=url, timeout=30) as client,
    ):
        assert [client.get("/v1/users/42").status_code for _ in range(5)] == [200] * 5
        for connection in slow:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):  # still connected, and still without an answer
                connection.recv(1)


def test_slow_clients_are_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "CLIENT_TIMEOUT_S", 0.3)
    with serving() as url, slow_clients(url) as (of_head, of_body, silent):
        assert received(of_head) == b""
        assert received(of_body).startswith(b"HTTP/1.1 408 ")
        assert received(silent) == b""


def test_answers_over_tls(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    certificate = authority.issue("api", "secret")
    files = {"certificate_file": str(certificate.file), "key_file": str(certificate.key_file)}
    with serving(**files, key_password="secret") as url:
        assert url.startswith("https://")
        context = ssl.create_default_context(cafile=str(authority.file))
        assert httpx2.get(f"{url}/health/live", verify=context, timeout=30).status_code == 200
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{url}/health/live")


def test_bad_certificate_and_taken_port_are_named(tmp_path: Path) -> None:
    file = tmp_path / "x.pem"
    file.write_text("x")
    limits = ServeSettings(certificate_file=str(file), key_file=str(file))
    with pytest.raises(ConfigError, match=r"serve\.certificate_file = .*x\.pem"):
        server_of(create_app(limits, fill(MemoryApi()).store()), limits)
    with listen(ServeSettings(port=0)) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"port = {port}"):
            listen(ServeSettings(port=port))
