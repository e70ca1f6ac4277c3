"""Who uses the console: the session of a browser stands for an API key and its scopes.

A browser holds a random token in its cookie, never the key. The key is checked again on each
request, so a revoked key ends its sessions within serve.security.KEY_CACHE_S. A restart ends all.
"""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials

from serve.keys import Scope
from serve.problems import ApiError
from serve.security import Call, Require

MAX_SESSIONS = 10_000
SESSION_S = 12 * 3_600
TOKEN_BYTES = 32


class Sessions:
    """lifetime_s: from the sign-in. clock_s: monotonic. The oldest of too many sessions end."""

    def __init__(self, lifetime_s: float, clock_s: Callable[[], float]):
        self._lifetime_s, self._clock_s = lifetime_s, clock_s
        self._open: OrderedDict[bytes, tuple[str, float]] = OrderedDict()  # key, end

    def open(self, key: str) -> str:
        """Starts a session of the API key and returns its token."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        self._open[_digest(token)] = (key, self._clock_s() + self._lifetime_s)
        if len(self._open) > MAX_SESSIONS:
            self._open.popitem(last=False)
        return token

    def key_of(self, token: str) -> str | None:
        """The API key of a session that has not ended."""
        found = self._open.get(_digest(token))
        if found is None:
            return None
        key, ends_s = found
        if self._clock_s() >= ends_s:
            self.close(token)
            return None
        return key

    def close(self, token: str) -> None:
        self._open.pop(_digest(token), None)


def _digest(token: str) -> bytes:
    """Tokens are looked up by hash: the time of a comparison says nothing about a stored one."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


COOKIE = "liveprofile_session"
HOME = "/"  # leads to the first page that the key may read
# Set by console.js: the answer is a part of a page.
FETCH_HEADER = "x-console"


class Visitor(Require):
    """A dependency of a page: the browser's key must have this scope."""

    async def __call__(self, request: Request) -> Call:
        if request.method == "POST":
            require_same_origin(request)
        call = await self.admit(request, credentials_of(request))
        request.state.caller = call.caller
        return call


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


Operator = Annotated[Call, Depends(Visitor(Scope.OPERATIONS))]

MAX_FIELDS = 50


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form; of two with one name the last. Raises ApiError 422."""
    body = await request.body()
    try:
        fields = parse_qsl(
            body.decode("utf-8"),
            keep_blank_values=True,
            max_num_fields=MAX_FIELDS,
            errors="strict",
        )
    except ValueError:  # UnicodeDecodeError too
        raise ApiError(422, "invalid-request", "the form is not readable") from None
    return dict(fields)
