"""Runs the API with uvicorn, with limits that uvicorn itself does not have."""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from liveprofile.errors import ConfigError, ServiceError
from liveprofile.settings import ServeSettings, Settings
from serve import guard
from serve.app import create_app
from serve.store.store import Store

MAX_CONNECTIONS = 1_024
MAX_HEADER_BYTES = 16_384

KEEP_ALIVE_S = 30
STOP_S = 5
# Answers wait for threads of the driver, which get the interpreter only at a switch (default 5 ms).
SWITCH_INTERVAL_S = 0.0005
TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)


class LimitedHttp(HttpToolsProtocol):
    """Closes a connection whose request head is too long or takes too long to arrive."""

    def __init__(self, *args: object, limits: ServeSettings, **options: object):
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self._limits = limits
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._await_head()
        super().data_received(data)
        # A body may follow the head in the same chunk, so the head is measured without it.
        if self._in_head and self._head_bytes > MAX_HEADER_BYTES:
            self.transport.write(TOO_LARGE)
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(guard.CLIENT_TIMEOUT_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def serve(settings: Settings, started: Callable[[str], None]) -> None:
    """Serves the API as `run` does."""
    store = Store(settings)
    app = create_app(settings.serve, store, running=store.running)
    run(app, settings.serve, started)


def run(app: Any, limits: ServeSettings, started: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C. `started` gets the URL when the server listens.

    Raises ConfigError for a bad certificate, ServiceError if the address is taken.
    """
    server = server_of(app, limits)
    # uvicorn stops at SIGTERM and then passes it on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # A collection of what the imports and the routes have made would stop all requests for 50 ms.
    gc.collect()
    gc.freeze()
    with listen(limits) as listening:
        started(url_of(limits, listening))
        server.run(sockets=[listening])


def server_of(app: Any, limits: ServeSettings, section: str = "serve") -> uvicorn.Server:
    """A server of an ASGI app with the limits of the settings. Raises ConfigError.

    section: of the settings, for messages.
    """
    config = uvicorn.Config(
        app,
        http=partial(LimitedHttp, limits=limits),  # type: ignore[arg-type]
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
        ssl_certfile=limits.certificate_file or None,
        ssl_keyfile=limits.key_file or None,
        # Without a password, even an empty one, OpenSSL would ask for it on the terminal.
        ssl_keyfile_password=limits.key_password.get_secret_value(),
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError too
        raise ConfigError(
            f"settings {section}.certificate_file = {limits.certificate_file!r},"
            f" key_file = {limits.key_file!r}: {error}"
        ) from None
    return uvicorn.Server(config)


def listen(limits: ServeSettings, section: str = "serve") -> socket.socket:
    """The listening socket. Raises ServiceError if the address is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in limits.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((limits.host, limits.port))
        listening.listen()  # from now on a client waits instead of being refused
    except OSError as error:
        listening.close()
        raise ServiceError(
            f"settings {section}.host = {limits.host!r}, port = {limits.port}: {error}"
        ) from None
    return listening


def url_of(limits: ServeSettings, listening: socket.socket) -> str:
    """The URL of a listening socket."""
    scheme = "https" if limits.uses_tls else "http"
    host = f"[{limits.host}]" if ":" in limits.host else limits.host
    return f"{scheme}://{host}:{listening.getsockname()[1]}"
