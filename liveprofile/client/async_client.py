"""The asynchronous client of the read API."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
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


class AsyncClient:
    """As liveprofile.client.Client, for asyncio. Tasks may share it."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        attempts: int = ATTEMPTS,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ):
        self._attempts = attempts
        self._http = httpx.AsyncClient(
            **http_options(url, key, timeout_s, verify), transport=transport
        )

    async def send(self, call: Call[Result]) -> Result:
        """Sends a call and returns its typed answer."""
        attempts = Attempts(call, self._attempts)
        while True:
            try:
                attempts.response = await self._http.request(**call.request())
            except httpx.TransportError as error:
                attempts.failure = error
            if attempts.end():
                return attempts.result()
            await asyncio.sleep(attempts.pause_s())

    async def items(self, call: Call[Page[Item]]) -> AsyncIterator[Item]:
        """Yields the items of all pages from the call's page on."""
        while True:
            page = await self.send(call)
            for item in page.items:
                yield item
            if page.next_cursor is None:
                return
            call = call.after(page.next_cursor)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()
