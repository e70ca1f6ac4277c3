"""Errors as problem details (RFC 9457): every error of the API has this form."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from liveprofile.errors import InputError, LiveprofileError, ServiceError
from liveprofile.feeds.definition_topics import DefinitionsChangedError
from liveprofile.rules.definition_kinds import DefinitionsError
from services.alerts.flags import UnknownFlagError
from services.alerts.states import TransitionError
from services.campaigns.store import CampaignExistsError, UnknownCampaignError
from services.rule_proposals import OwnProposalError, ProposalDecidedError, UnknownProposalError

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:liveprofile:problem:"
RETRY_AFTER_S = 1
# A validation message may quote its input; this bounds the answer.
MAX_MESSAGE_CHARS = 300
MAX_ERRORS = 20
MAX_DEFINITION_ERRORS = 500


# Errors of services with their status and kind; the detail is the error's text.
ANSWERS: Mapping[type[Exception], tuple[int, str]] = {
    TransitionError: (409, "conflict"),
    UnknownCampaignError: (404, "unknown-campaign"),
    CampaignExistsError: (409, "conflict"),
    UnknownProposalError: (404, "unknown-proposal"),
    OwnProposalError: (403, "forbidden"),
    ProposalDecidedError: (409, "conflict"),
    DefinitionsChangedError: (412, "changed"),
    InputError: (422, "invalid-request"),
}


class ApiError(LiveprofileError):
    """An error with its answer. `kind`: the end of the problem's type."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, str]] = (),
    ):
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.headers, self.errors = dict(headers or {}), list(errors)


class UnavailableError(ApiError):
    """503: the caller may repeat the request."""

    def __init__(self, detail: str, retry_after_s: int = RETRY_AFTER_S):
        headers = {"Retry-After": str(retry_after_s)}
        super().__init__(503, "unavailable", detail, headers=headers)


def unknown_user() -> ApiError:
    return ApiError(404, "unknown-user", "no profile of this user")


def problem_response(error: ApiError, request_id: str) -> Response:
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + error.kind,
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.detail,
        "request_id": request_id,
        "errors": error.errors,
    }
    return Response(orjson.dumps(body), error.status, error.headers, MEDIA_TYPE)


def to_api_error(error: Exception) -> ApiError:
    """The answer for an error that a route raised. Raises it again if it is a bug."""
    match error:
        case ApiError():
            return error
        case RequestValidationError():
            faults = (
                (".".join(map(str, each["loc"])), str(each["msg"])) for each in error.errors()
            )
            return _invalid("invalid-request", list(faults), MAX_ERRORS)
        case HTTPException():
            kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
            return ApiError(error.status_code, kind, str(error.detail), headers=error.headers)
        case DefinitionsError():
            faults = (
                (
                    f"{error.kind} {each.name}: {each.key}",
                    ": ".join(filter(None, (each.column, each.reason))),
                )
                for each in error.problems
            )
            return _invalid("invalid-definitions", list(faults), MAX_DEFINITION_ERRORS)
        case UnknownFlagError():
            return ApiError(404, "unknown-alert", "no alert has this id")
        case ServiceError():
            return UnavailableError("a service that stores the data does not answer: try again")
    for kind, (status, name) in ANSWERS.items():
        if isinstance(error, kind):
            return ApiError(status, name, str(error))
    raise error


def _invalid(kind: str, faults: Sequence[tuple[str, str]], most: int) -> ApiError:
    """422 with at most so many of the faults: field and message."""
    listed = [(field, message[:MAX_MESSAGE_CHARS]) for field, message in faults[:most]]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    errors = [{"field": field, "message": message} for field, message in listed]
    return ApiError(422, kind, ": ".join(listed[0]) + more, errors=errors)


async def _answer(request: Request, error: Exception) -> Response:
    answer = to_api_error(error)
    if answer.status == 405:
        answer.headers["Allow"] = ", ".join(_methods(request))
    return problem_response(answer, request.state.request_id)


def _methods(request: Request) -> list[str]:
    """The methods of all routes with the path; Starlette names those of one."""
    path = request.scope["route"].path
    return sorted(method.upper() for method in request.app.openapi()["paths"].get(path, ()))


def install(app: FastAPI) -> None:
    """Makes every known error of a route a problem."""
    for kind in (LiveprofileError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)
