"""The client of the read API, and what it raises."""

import json
import random
import ssl
import time
from collections.abc import Iterator
from typing import Any, Self

import httpx2

from liveprofile import __version__
from liveprofile_client.calls import Call

# Longer than the server takes at most, also for a label.
TIMEOUT_S = 6.0
ATTEMPTS = 3
RETRIED_STATUSES = frozenset({429, 502, 503, 504})
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0


class Answer(dict):
    """A JSON object whose fields are attributes, too: `profile.churn` is `profile["churn"]`.

    A field that is named like a method of dict is none: `page["items"]`.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class ApiClientError(Exception):
    """Base class of everything that the client raises."""


class NoAnswerError(ApiClientError):
    """The server could not be reached, or did not answer in time."""


class BadAnswerError(ApiClientError):
    """The answer is not one of this API: is the address right?"""


class RefusedError(ApiClientError):
    """The server answered with an error: `problem` says which, by its `status` and `type`."""

    def __init__(self, problem: Answer):
        super().__init__(f"{problem.status} {problem.detail} (request {problem.request_id})")
        self.problem = problem


class NotFoundError(RefusedError):
    """404: no such user or alert."""


class Client:
    """Sends the calls of liveprofile_client.calls. Threads may share it.

    url: of the server, such as http://127.0.0.1:8070. key: an API key, lp_...; None: without one.
    timeout_s: of each attempt. attempts: how often a call that may be repeated is sent.
    verify: an SSL context with your own certificate authority.
    transport: replaces the network, for tests.
    Every method raises ApiClientError.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        attempts: int = ATTEMPTS,
        verify: ssl.SSLContext | bool = True,
        transport: httpx2.BaseTransport | None = None,
    ):
        headers = {"User-Agent": f"liveprofile-client/{__version__}"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        self._http = httpx2.Client(
            base_url=url, headers=headers, timeout=timeout_s, verify=verify, transport=transport
        )
        self._attempts = attempts

    def send(self, call: Call) -> Any:
        """Sends a call and returns its Answer; None if it has no body."""
        named = f"{call.method} {call.path}"
        for left in reversed(range(self._attempts if call.retried else 1)):
            after = ""
            try:
                response = self._http.request(**call.request())
            except httpx2.TransportError as error:
                if not left:
                    raise NoAnswerError(f"{named}: {error!r}") from None
            else:
                if not left or response.status_code not in RETRIED_STATUSES:
                    break
                after = response.headers.get("retry-after", "")
            time.sleep(_pause_s(self._attempts - left, after))
        try:
            content = response.content
            answer = json.loads(content, object_hook=Answer) if content else None
            if response.is_success:
                return answer
            refused = (NotFoundError if response.status_code == 404 else RefusedError)(answer)
        except (ValueError, AttributeError) as error:
            detail = f"{named}: status {response.status_code}: is this the address of the API?"
            raise BadAnswerError(f"{detail} {error}") from None
        raise refused

    def items(self, call: Call) -> Iterator[Answer]:
        """Yields the items of all pages from the call's page on."""
        while True:
            page = self.send(call)
            yield from page["items"]
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


def _pause_s(number: int, after: str) -> float:
    """Before the next attempt: what the server says in Retry-After, or back-off.

    Full jitter: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    if after.isdigit():
        return min(float(after), LONGEST_PAUSE_S)
    return random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**number))
