"""Who uses the console: the session of a browser stands for an API key and its role."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials

from console.sessions import Sessions
from serve.keys import Role
from serve.problems import ApiError
from serve.security import Caller, admit

COOKIE = "liveprofile_session"
HOME = "/alerts"
# What the audit trail says of writes, beside what was requested.
THROUGH = {"through": "console"}
# Set by console.js: the answer is a part of a page.
FETCH_HEADER = "x-console"


class Visitor:
    """A dependency of a page: the browser's key must have this role. `cost`: in requests."""

    def __init__(self, role: Role, cost: float = 1.0):
        self._role, self._cost = role, cost

    async def __call__(self, request: Request) -> Caller:
        if request.method == "POST":
            require_same_origin(request)
        caller = await admit(request, credentials_of(request), self._role, self._cost)
        request.state.caller = caller
        return caller


def credentials_of(request: Request) -> HTTPAuthorizationCredentials | None:
    """The key of the browser's session; None without one."""
    sessions: Sessions = request.app.state.sessions
    key = sessions.key_of(request.cookies.get(COOKIE, ""))
    return None if key is None else bearer(key)


def bearer(key: str) -> HTTPAuthorizationCredentials:
    return HTTPAuthorizationCredentials(scheme="Bearer", credentials=key)


def require_same_origin(request: Request) -> None:
    """Refuses forms of other sites (CSRF), in addition to the cookie's SameSite. ApiError 403.

    Browsers send Origin with every POST and no page can change it.
    """
    origin = request.headers.get("origin", "")
    if not origin or urlsplit(origin).netloc != request.headers.get("host"):
        raise ApiError(403, "forbidden", "this form was not sent by a page of the console")


def local_path(path: str) -> str:
    """The path to go on to after signing in; HOME if it could lead to another site."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\", "/sign-"))
    return path if is_local and path.isprintable() else HOME


def is_fetch(request: Request) -> bool:
    """Whether console.js asks for a part of a page."""
    return FETCH_HEADER in request.headers


Reader = Annotated[Caller, Depends(Visitor(Role.READER))]
Analyst = Annotated[Caller, Depends(Visitor(Role.ANALYST))]
Admin = Annotated[Caller, Depends(Visitor(Role.ADMIN))]
