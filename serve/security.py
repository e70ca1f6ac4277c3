"""Who may do what: API keys, their scopes, and the rate of each caller."""

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache, partial
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from liveprofile.loopback import is_loopback
from liveprofile.rows.operations import AuditEntry
from liveprofile.settings import ServeSettings
from serve.guard import extend_deadline
from serve.keys import READER, Scope, Scopes, StoredKey, parse_key
from serve.problems import ApiError
from serve.store.store import Store

CACHED_KEYS = 10_000
KEY_CACHE_S = 5.0
# Attempts with a wrong key from one address.
WRONG_KEYS_PER_S, WRONG_KEYS_AT_ONCE = 5.0, 20.0
WRONG_KEYS = "too many wrong keys from this address"

ReadKey = Callable[[str], Awaitable[StoredKey | None]]
bearer = HTTPBearer(auto_error=False, scheme_name="key", description="An API key: lp_...")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


class Caller(NamedTuple):
    key_id: str
    name: str
    scopes: Scopes


ANONYMOUS = Caller("", "anonymous", READER)
# Forgets the callers that have been silent longest. A forgotten caller starts with a full bucket.
MAX_CALLERS = 10_000


class RateLimiter:
    """A token bucket for each caller, in the memory of this process.

    Turner, "New directions in communications (or which way to the information age?)", IEEE
    Communications Magazine 24(10), 1986, describes the leaky bucket that this is a form of.
    `per_s`: tokens that a bucket gains each second. `burst`: its size. `clock_s`: monotonic.
    """

    def __init__(self, per_s: float, burst: float, clock_s: Callable[[], float]):
        self._per_s, self._burst, self._clock_s = per_s, burst, clock_s
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, at

    def wait_s(self, caller: str, cost: float = 1.0, *, take: bool = True) -> float:
        """Takes `cost` tokens and returns 0, or takes none and returns the seconds to wait.

        A cost above the size of the bucket needs a full bucket. take: False only asks.
        """
        now_s = self._clock_s()
        tokens, at_s = self._buckets.pop(caller, (self._burst, now_s))
        tokens = min(self._burst, tokens + (now_s - at_s) * self._per_s)
        needed = min(cost, self._burst)
        taken = needed if tokens >= needed else 0.0
        self._buckets[caller] = (tokens - taken if take else tokens, now_s)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        return 0.0 if taken else (needed - tokens) / self._per_s


class Gatekeeper:
    """Authenticates callers. `clock_ms`: wall clock. `clock_s`: monotonic.

    A key is read again after KEY_CACHE_S, so a revoked key ends within that time. A store that
    does not answer makes unknown keys wait for it, not pass. Ids of no key are kept apart, so that
    they displace no key, and are not read for an address that has sent many wrong keys.
    """

    def __init__(
        self,
        settings: ServeSettings,
        read_key: ReadKey,
        clock_ms: Callable[[], int],
        clock_s: Callable[[], float],
    ):
        self._settings, self._read_key = settings, read_key
        self._clock_ms, self._clock_s = clock_ms, clock_s
        self._known: OrderedDict[str, tuple[StoredKey | None, float]] = OrderedDict()
        self._unknown: OrderedDict[str, tuple[StoredKey | None, float]] = OrderedDict()
        self._rates = RateLimiter(
            settings.max_requests_per_s, 2 * settings.max_requests_per_s, clock_s
        )
        self._failures = RateLimiter(WRONG_KEYS_PER_S, WRONG_KEYS_AT_ONCE, clock_s)

    async def identify(self, request: Request, credentials: Credentials) -> Caller:
        """Returns who calls. Raises ApiError 401, or 429 after many wrong keys."""
        if credentials is None and self._settings.authentication == "none":
            _require_loopback_host(request)
            return ANONYMOUS
        text = credentials.credentials if credentials else ""
        address = request.client.host if request.client else ""
        caller = await self._caller_of(text, address)
        if caller is not None:
            return caller
        if text:
            _refuse_if(self._failures.wait_s(address), WRONG_KEYS)
        raise ApiError(
            401,
            "unauthorized",
            "send a valid key: Authorization: Bearer lp_...",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def charge(self, caller: Caller, cost: float) -> None:
        """Counts a request of this cost. Raises ApiError 429."""
        _refuse_if(self._rates.wait_s(caller.key_id, cost), "too many requests with this key")

    async def _caller_of(self, text: str, address: str) -> Caller | None:
        parsed = parse_key(text)
        if parsed is None:
            return None
        return await self.caller(*parsed, address)

    async def caller(self, key_id: str, secret: str | None, address: str = "") -> Caller | None:
        """Whose key this is; None if it has ended. secret: None in a session of the console."""
        key = await self._key(key_id, address)
        if key is None or not key.accepts(secret, self._clock_ms()):
            return None
        return Caller(key.key_id, key.name, key.scopes)

    async def _key(self, key_id: str, address: str) -> StoredKey | None:
        cached = self._known.get(key_id) or self._unknown.get(key_id)
        now_s = self._clock_s()
        if cached and now_s - cached[1] < KEY_CACHE_S:
            return cached[0]
        if key_id not in self._known:
            _refuse_if(self._failures.wait_s(address, take=False), WRONG_KEYS)
        key = await self._read_key(key_id)
        self._known.pop(key_id, None)
        cache = self._unknown if key is None else self._known
        cache[key_id] = (key, now_s)
        if len(cache) > CACHED_KEYS:
            cache.popitem(last=False)
        return key


class Call:
    """A request whose caller may make it, with what its route reads and does."""

    def __init__(self, request: Request, caller: Caller):
        self.request, self.caller, self.by = request, caller, caller.name
        self._state = request.app.state
        self.store: Store = self._state.store
        self.read, self.scan = self.store.read, self.store.scan
        self.run = partial(self.store.run, is_write=request.state.is_write)

    @property
    def now_ms(self) -> int:
        return self._state.clock_ms()

    def charge(self, cost: float) -> None:
        """Counts work as so many requests of the caller. Raises ApiError 429."""
        self._state.gatekeeper.charge(self.caller, cost)

    async def count_users(self, users: int) -> None:
        """Counts users that the answer lists. Raises ApiError 429 if the key's budget is spent."""
        route = self.request.scope["route"].path
        await self._state.listing.add(self.caller.key_id, self.caller.name, route, users)

    def audit(self, action: str, target: str, requested: Mapping[str, Any]) -> AuditEntry:
        """The entry of the audit trail for a write of this request."""
        return AuditEntry(
            key_id=self.caller.key_id,
            name=self.by,
            action=action,
            target=target,
            request_id=self.request.state.request_id,
            requested={**requested, **self._state.through},
            at_ms=self.now_ms,
        )


class Require:
    """A dependency of a route: the caller must have this scope.

    scope: None: any key will do. cost: in requests. deadline_s: from now on, None: that of the
    settings.
    """

    def __init__(self, scope: Scope | None, cost: float = 1.0, deadline_s: float | None = None):
        self._scope, self._cost, self._deadline_s = scope, cost, deadline_s

    async def __call__(self, request: Request, credentials: Credentials) -> Call:
        """Raises ApiError 401, 403 or 429."""
        gatekeeper: Gatekeeper = request.app.state.gatekeeper
        return self.admit(request, await gatekeeper.identify(request, credentials))

    def admit(self, request: Request, caller: Caller) -> Call:
        """Returns the call, charged to its caller. Raises ApiError 403 or 429."""
        request.state.key_name = caller.name
        request.app.state.gatekeeper.charge(caller, self._cost)
        if self._scope is not None:
            require_scope(caller, self._scope)
        if self._deadline_s is not None:
            extend_deadline(request, self._deadline_s)
        return Call(request, caller)


def require_scope(caller: Caller, scope: Scope) -> None:
    """Raises ApiError 403 if the caller lacks a scope."""
    if scope not in caller.scopes:
        has = ", ".join(sorted(caller.scopes))
        raise ApiError(403, "forbidden", f"this needs the scope {scope}, the key has {has}")


def _refuse_if(wait_s: float, detail: str) -> None:
    if wait_s:
        headers = {"Retry-After": str(math.ceil(wait_s))}
        raise ApiError(429, "too-many-requests", detail, headers=headers)


def _require_loopback_host(request: Request) -> None:
    """Refuses pages of other sites whose name resolves to this machine (DNS rebinding)."""
    authority = request.headers.get("host")
    if not _names_loopback(authority or request.url.netloc):
        raise ApiError(403, "forbidden", "without a key, address this server as 127.0.0.1")


@lru_cache(maxsize=256)
def _names_loopback(authority: str) -> bool:
    """Whether a host with or without a port is this machine; not if it is malformed."""
    try:
        return is_loopback(urlsplit(f"//{authority}").hostname or "")
    except ValueError:
        return False
