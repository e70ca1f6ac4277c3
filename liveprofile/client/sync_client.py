"""The synchronous client of the read API."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self, TypeVar

import httpx

from liveprofile.client.calls import Call
from liveprofile.client.models import (
    Page,
)
from liveprofile.client.sending import ATTEMPTS, TIMEOUT_S, Attempts, http_options

Result = TypeVar("Result")
Item = TypeVar("Item")


class Client:
    """Sends the calls of liveprofile.client.calls. Threads may share it.

    url: of the server, such as http://127.0.0.1:8070. key: an API key, lp_...; None: without one.
    timeout_s: of each attempt. attempts: how often a call that may be repeated is sent.
    verify: an SSL context with your own certificate authority.
    transport: replaces the network, for tests.
    Every method raises ApiClientError (errors.py).
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        attempts: int = ATTEMPTS,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
    ):
        self._attempts = attempts
        self._http = httpx.Client(**http_options(url, key, timeout_s, verify), transport=transport)

    def send(self, call: Call[Result]) -> Result:
        """Sends a call and returns its typed answer."""
        attempts = Attempts(call, self._attempts)
        while True:
            try:
                attempts.response = self._http.request(**call.request())
            except httpx.TransportError as error:
                attempts.failure = error
            if attempts.end():
                return attempts.result()
            time.sleep(attempts.pause_s())

    def items(self, call: Call[Page[Item]]) -> Iterator[Item]:
        """Yields the items of all pages from the call's page on."""
        while True:
            page = self.send(call)
            yield from page.items
            if page.next_cursor is None:
                return
            call = call.after(page.next_cursor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()
