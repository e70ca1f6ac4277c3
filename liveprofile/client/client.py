"""The synchronous and the asynchronous client of the read API, and what they raise."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar, Generic, Self, TypeVar

import httpx2
from pydantic import ValidationError

from liveprofile import __version__
from liveprofile.client.calls import Call
from liveprofile.client.models import Page, Problem

Result = TypeVar("Result")
Item = TypeVar("Item")

# Longer than the server takes at most, also for a label.
TIMEOUT_S = 6.0
ATTEMPTS = 3
RETRIED_STATUSES = frozenset({429, 502, 503, 504})
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0


class ApiClientError(Exception):
    """Base class of everything that the client raises."""


class NoAnswerError(ApiClientError):
    """The server could not be reached, or did not answer in time."""


class BadAnswerError(ApiClientError):
    """The answer is not one of this API: is the address right?"""


class RefusedError(ApiClientError):
    """The server answered with an error. `problem` says which."""

    def __init__(self, problem: Problem):
        super().__init__(f"{problem.status} {problem.detail} (request {problem.request_id})")
        self.problem = problem

    @property
    def status(self) -> int:
        return self.problem.status


class UnauthorizedError(RefusedError):
    """401 or 403: the key is missing, wrong, revoked, or has not the role."""


class NotFoundError(RefusedError):
    """404: no such user or alert."""


class ConflictError(RefusedError):
    """409 or 412: the state does not allow the change, or somebody else was faster."""


class InvalidRequestError(RefusedError):
    """400, 413 or 422: the arguments are wrong; `problem.errors` names them."""


class TooManyRequestsError(RefusedError):
    """429, after the retries."""


class UnavailableError(RefusedError):
    """503, after the retries: the server's database does not answer."""


_BY_STATUS: dict[int, type[RefusedError]] = {
    400: InvalidRequestError,
    401: UnauthorizedError,
    403: UnauthorizedError,
    404: NotFoundError,
    409: ConflictError,
    412: ConflictError,
    413: InvalidRequestError,
    422: InvalidRequestError,
    428: InvalidRequestError,
    429: TooManyRequestsError,
    503: UnavailableError,
}


class Attempts(Generic[Result]):
    """The attempts to send one call. After each, the client sets `response` or `failure`."""

    def __init__(self, call: Call[Result], attempts: int):
        self._call = call
        self._left = attempts if call.retried else 1
        self._number = 0
        self.response: httpx2.Response | None = None
        self.failure: httpx2.TransportError | None = None

    def end(self) -> bool:
        """Counts an attempt. Returns whether it was the last one."""
        self._number += 1
        self._left -= 1
        answered = (
            self.failure is None
            and self.response is not None
            and self.response.status_code not in RETRIED_STATUSES
        )
        return answered or self._left <= 0

    def pause_s(self) -> float:
        """How long to wait before the next attempt: what the server says, or back-off.

        Full jitter: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
        """
        response, self.response, self.failure = self.response, None, None
        after = "" if response is None else response.headers.get("retry-after", "")
        if after.isdigit():
            return min(float(after), LONGEST_PAUSE_S)
        return random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._number))

    def result(self) -> Result:
        """The answer. Raises RefusedError, NoAnswerError or BadAnswerError."""
        named = f"{self._call.method} {self._call.path}"
        if self.response is None:
            raise NoAnswerError(f"{named}: {self.failure!r}")
        if not self.response.is_success:
            raise _refusal(named, self.response)
        try:
            return self._call.parse(self.response.content)
        except ValidationError as error:
            raise BadAnswerError(f"{named}: {error}") from None


def _refusal(named: str, response: httpx2.Response) -> ApiClientError:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return BadAnswerError(
            f"{named}: status {response.status_code} without a problem: is this the address of the"
            " API?"
        )
    return _BY_STATUS.get(problem.status, RefusedError)(problem)


class _Connected:
    """What both clients are made of.

    url: of the server, such as http://127.0.0.1:8070. key: an API key, lp_...; None: without one.
    timeout_s: of each attempt. attempts: how often a call that may be repeated is sent.
    verify: an SSL context with your own certificate authority.
    transport: replaces the network, for tests.
    """

    _kind: ClassVar[type]

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        attempts: int = ATTEMPTS,
        verify: ssl.SSLContext | bool = True,
        transport: Any = None,
    ):
        headers = {"User-Agent": f"liveprofile-client/{__version__}"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        options = {"base_url": url, "headers": headers, "timeout": timeout_s, "verify": verify}
        self._http = self._kind(**options, transport=transport)
        self._attempts = attempts


class Client(_Connected):
    """Sends the calls of liveprofile.client.calls. Threads may share it.

    Every method raises ApiClientError.
    """

    _kind = httpx2.Client

    def send(self, call: Call[Result]) -> Result:
        """Sends a call and returns its typed answer."""
        attempts = Attempts(call, self._attempts)
        while True:
            try:
                attempts.response = self._http.request(**call.request())
            except httpx2.TransportError as error:
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

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()


class AsyncClient(_Connected):
    """As Client, for asyncio. Tasks may share it."""

    _kind = httpx2.AsyncClient

    async def send(self, call: Call[Result]) -> Result:
        """Sends a call and returns its typed answer."""
        attempts = Attempts(call, self._attempts)
        while True:
            try:
                attempts.response = await self._http.request(**call.request())
            except httpx2.TransportError as error:
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

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()
