"""What the synchronous and the asynchronous client have in common."""

from __future__ import annotations

import random
import ssl
from typing import Any, Generic, TypeVar

import httpx
from pydantic import ValidationError

from liveprofile import __version__
from liveprofile.client.calls import Call
from liveprofile.client.errors import ApiClientError, BadAnswer, NoAnswer, refusal
from liveprofile.client.models import (
    Problem,
)

Result = TypeVar("Result")

# Longer than the server takes at most, also for a label.
TIMEOUT_S = 6.0
ATTEMPTS = 3
RETRIED_STATUSES = frozenset({429, 502, 503, 504})
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0


def http_options(
    url: str, key: str | None, timeout_s: float, verify: ssl.SSLContext | bool
) -> dict[str, Any]:
    """The arguments of httpx.Client and httpx.AsyncClient."""
    headers = {"User-Agent": f"liveprofile-client/{__version__}"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return {"base_url": url, "headers": headers, "timeout": timeout_s, "verify": verify}


class Attempts(Generic[Result]):
    """The attempts to send one call. After each, the client sets `response` or `failure`."""

    def __init__(self, call: Call[Result], attempts: int):
        self._call = call
        self._left = attempts if call.retried else 1
        self._number = 0
        self.response: httpx.Response | None = None
        self.failure: httpx.TransportError | None = None

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
        """The answer. Raises Refused for an error of the server, NoAnswer, or BadAnswer."""
        named = f"{self._call.method} {self._call.path}"
        if self.response is None:
            raise NoAnswer(f"{named}: {self.failure!r}")
        if not self.response.is_success:
            raise _refusal_of(named, self.response)
        try:
            return self._call.parse(self.response.content)
        except ValidationError as error:
            raise BadAnswer(f"{named}: {error}") from None


def _refusal_of(named: str, response: httpx.Response) -> ApiClientError:
    try:
        return refusal(Problem.model_validate_json(response.content))
    except ValidationError:
        return BadAnswer(
            f"{named}: status {response.status_code} without a problem: is this the address of the"
            " API?"
        )
