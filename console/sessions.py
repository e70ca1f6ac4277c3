"""Signed-in browsers, in the memory of this process.

A browser holds a random token in its cookie, never the key. The key is checked again on each
request, so a revoked key ends its sessions within serve.key_cache_ms. A restart ends all.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable

MAX_SESSIONS = 10_000
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
