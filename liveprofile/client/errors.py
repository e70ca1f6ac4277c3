"""The exceptions of the client: one tree below ApiClientError."""

from __future__ import annotations

from liveprofile.client.models import (
    Problem,
)


class ApiClientError(Exception):
    """Base class of everything that the client raises."""


class NoAnswer(ApiClientError):
    """The server could not be reached, or did not answer in time."""


class BadAnswer(ApiClientError):
    """The answer is not one of this API: is the address right?"""


class Refused(ApiClientError):
    """The server answered with an error. `problem` says which."""

    def __init__(self, problem: Problem):
        super().__init__(f"{problem.status} {problem.detail} (request {problem.request_id})")
        self.problem = problem

    @property
    def status(self) -> int:
        return self.problem.status


class Unauthorized(Refused):
    """401 or 403: the key is missing, wrong, revoked, or has not the role."""


class NotFound(Refused):
    """404: no such user or alert."""


class Conflict(Refused):
    """409 or 412: the state does not allow the change, or somebody else was faster."""


class InvalidRequest(Refused):
    """400, 413 or 422: the arguments are wrong; `problem.errors` names them."""


class TooManyRequests(Refused):
    """429, after the retries."""


class Unavailable(Refused):
    """503, after the retries: the server's database does not answer."""


_BY_STATUS: dict[int, type[Refused]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    409: Conflict,
    412: Conflict,
    413: InvalidRequest,
    422: InvalidRequest,
    428: InvalidRequest,
    429: TooManyRequests,
    503: Unavailable,
}


def refusal(problem: Problem) -> Refused:
    """The exception for an error of the server."""
    return _BY_STATUS.get(problem.status, Refused)(problem)
