"""Who uses the console: the session of a browser stands for an API key and its scopes.

A browser holds a random token in its cookie, never the key. The key is checked again on each
request, so a revoked key ends its sessions within serve.security.KEY_CACHE_S.
"""

import hashlib
import secrets
from collections.abc import Callable
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials

from liveprofile.units import SECOND_MS
from serve.keys import Scope
from serve.problems import ApiError
from serve.security import Call, Gatekeeper, Require
from serve.store.store import Store

SESSION_S = 12 * 3_600
TOKEN_BYTES = 32


class Sessions:
    """Sessions in Cassandra: all servers know them, and a restart ends none.

    idle_s: a session that is not used for so long ends. clock_ms: the wall clock.
    """

    def __init__(self, store: Store, idle_s: int, clock_ms: Callable[[], int]):
        self._rows, self._idle_ms, self._clock_ms = store.rows, idle_s * SECOND_MS, clock_ms

    async def open(self, key_id: str) -> str:
        """Starts a session of an API key and returns its token."""
        token, now_ms = secrets.token_urlsafe(TOKEN_BYTES), self._clock_ms()
        await self._rows("open_session", (_digest(token), key_id, now_ms, now_ms, SESSION_S))
        return token

    async def key_id(self, token: str, is_use: bool) -> str | None:
        """The API key of a session that has not ended. is_use: it was a person who asked."""
        digest, now_ms = _digest(token), self._clock_ms()
        for key_id, opened_ms, used_ms in await self._rows("session", (digest,)) if token else ():
            left_s = SESSION_S - (now_ms - opened_ms) // SECOND_MS if key_id else 0
            if left_s <= 0 or now_ms - used_ms > self._idle_ms:
                continue
            if is_use:
                await self._rows("use_session", (left_s, now_ms, digest))
            return key_id
        return None

    async def close(self, token: str) -> None:
        await self._rows("end_session", (_digest(token),))


def _digest(token: str) -> bytes:
    """Tokens are looked up by hash: the time of a comparison says nothing about a stored one."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


COOKIE = "liveprofile_session"
HOME = "/"  # leads to the first page that the key may read
REFRESHED = "/alerts/queue"  # console.js asks for it without a person
# Set by console.js: the answer is a part of a page.
FETCH_HEADER = "x-console"


class Visitor(Require):
    """A dependency of a page: the browser's key must have this scope."""

    async def __call__(self, request: Request) -> Call:
        if request.method == "POST":
            require_same_origin(request)
        token, is_use = request.cookies.get(COOKIE, ""), request.url.path != REFRESHED
        key_id = await request.app.state.sessions.key_id(token, is_use)
        gatekeeper: Gatekeeper = request.app.state.gatekeeper
        caller = await gatekeeper.caller(key_id, None) if key_id else None
        call = self.admit(request, caller or await gatekeeper.identify(request, None))
        request.state.caller = call.caller
        return call


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
