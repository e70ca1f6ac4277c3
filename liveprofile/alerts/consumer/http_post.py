"""An HTTP POST that ends by a deadline, whatever the receiver sends."""

from __future__ import annotations

import io
import socket
import ssl
import time
from collections.abc import Mapping
from http.client import HTTPConnection
from urllib.parse import urlsplit


def post(
    url: str, body: bytes, headers: Mapping[str, str], timeout_s: float, tls: ssl.SSLContext
) -> int:
    """Returns the status of the response; its body is not read.

    `timeout_s` limits the whole call: connection, TLS handshake, request and response headers. Only
    the look-up of the host name has time-outs of its own, those of the system. Each call uses a new
    connection, because a response whose body is not read blocks the next one.

    url: http or https, in ASCII. Raises OSError, with TimeoutError at the deadline, and
    http.client.HTTPException if the response is not HTTP.
    """
    end_s = time.monotonic() + timeout_s
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    with (
        _connect(parts.hostname, parts.port or (443 if secure else 80), end_s) as plain,
        _handshake(plain, parts.hostname, tls, end_s) if secure else plain as sock,
    ):
        connection = HTTPConnection(parts.hostname)
        connection.sock = _DeadlineSocket(sock, end_s)
        host = parts.netloc.rpartition("@")[2]
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, {"host": host, "connection": "close", **headers})
        with connection.getresponse() as response:
            return response.status


def _connect(host: str, port: int, end_s: float) -> socket.socket:
    """Tries the addresses of the host in turn."""
    failure: OSError | None = None
    for *kind, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(*kind)
        try:
            # Headers and body are two small packets: Nagle's algorithm would delay the second.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _limit_wait(sock, end_s)
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure


def _handshake(sock: socket.socket, host: str, tls: ssl.SSLContext, end_s: float) -> ssl.SSLSocket:
    _limit_wait(sock, end_s)  # Python counts a handshake as one operation
    return tls.wrap_socket(sock, server_hostname=host)


def _limit_wait(sock: socket.socket, end_s: float) -> None:
    """Lets the next operation of the socket wait until the deadline. Raises TimeoutError after it.

    Python's time-outs are for one operation: without this, a receiver could send a byte before each
    time-out for ever.
    """
    left_s = end_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the deadline has passed")
    sock.settimeout(left_s)


class _DeadlineSocket:
    """What http.client uses of a socket; no operation waits beyond the deadline."""

    def __init__(self, sock: socket.socket, end_s: float):
        self._sock, self._end_s = sock, end_s

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            _limit_wait(self._sock, self._end_s)
            left = left[self._sock.send(left) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineReader(self._sock, self._end_s))

    def close(self) -> None:
        """`post` closes the socket."""


class _DeadlineReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, end_s: float):
        self._sock, self._end_s = sock, end_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        _limit_wait(self._sock, self._end_s)
        return self._sock.recv_into(buffer)
