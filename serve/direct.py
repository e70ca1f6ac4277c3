"""Answers the two requests that are most of the load without FastAPI's work for each request.

FastAPI resolves the dependencies and parameters of a route anew for each request, which costs
several times what the route itself does. A plain `GET /v1/users/{id}` or `POST /v1/users:batchGet`
needs none of it. Every other request passes on to FastAPI: one with a query, or with a body that is
not valid, so that the routes in serve/routes/users.py stay the only place that describes errors of
input. The answers of both ways are equal (tests/unit/serve/test_direct.py).
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from liveprofile.client.models import BatchRequest
from liveprofile.errors import LiveprofileError
from serve.keys import Role
from serve.problems import problem_response, to_api_error
from serve.routes.common import MAX_ENCODED_CHARS, decoded_id
from serve.routes.users import BATCH_COST, batch_response, profile_response
from serve.security import admit_bearer

PROFILE, BATCH = "/v1/users/{user_id}", "/v1/users:batchGet"
PROFILE_PREFIX = "/v1/users/"
JSON = b"application/json"


class _Route(NamedTuple):
    """What serve/guard.py reads of a route."""

    path: str


class DirectRoutes:
    """ASGI middleware between RequestGuard and FastAPI."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["query_string"]:
            await self._app(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        if method == "GET" and _is_profile(path):
            await self._profile(Request(scope), send, path.removeprefix(PROFILE_PREFIX))
        elif method == "POST" and path == BATCH and _content_type(scope) == JSON:
            await self._batch(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _profile(self, request: Request, send: Send, encoded: str) -> None:
        request.scope["route"] = _Route(PROFILE)
        try:
            request.state.user_id = user_id = decoded_id("user_id", encoded)
            await admit_bearer(request, Role.READER)
            response = await profile_response(request, request.app.state.store, user_id)
        except LiveprofileError as error:
            response = _problem(request, error)
        await response(request.scope, request.receive, send)

    async def _batch(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()  # RequestGuard has read the whole body
        try:
            body = BatchRequest.model_validate_json(message.get("body", b""))
        except ValidationError:
            await self._app(scope, _again(message, receive), send)
            return
        request = Request(scope)
        scope["route"] = _Route(BATCH)
        try:
            await admit_bearer(request, Role.READER, BATCH_COST)
            response = await batch_response(request, request.app.state.store, body)
        except LiveprofileError as error:
            response = _problem(request, error)
        await response(scope, receive, send)


def _is_profile(path: str) -> bool:
    encoded = path.removeprefix(PROFILE_PREFIX)
    return encoded != path and "/" not in encoded and 0 < len(encoded) <= MAX_ENCODED_CHARS


def _content_type(scope: Scope) -> bytes:
    return next((value for name, value in scope["headers"] if name == b"content-type"), b"")


def _problem(request: Request, error: LiveprofileError) -> Response:
    return problem_response(to_api_error(error), request.state.request_id)


def _again(message: Message, receive: Receive) -> Receive:
    """A `receive` that yields a message that was received, and then the next ones."""
    messages = [message]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
