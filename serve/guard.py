"""What every request passes before and after its route: ids, limits, the deadline, log, metrics."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections import Counter as CountOf
from collections.abc import Callable
from contextlib import ExitStack

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from liveprofile.pseudonym import user_pseudonym
from liveprofile.settings import ServeSettings
from serve.problems import ApiError, UnavailableError, problem_response

MAX_BODY_BYTES = 131_072
CLIENT_TIMEOUT_S = 10.0  # within which a client must send the head, and the body, of a request

log = logging.getLogger(__name__)

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
LATENCY_BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5)
NO_ROUTE = "none"
# Ends of the paths to which a POST reads.
READING = (":batchGet", ":preview", "/check", "/compare")
Render = Callable[[ApiError, str], Response]


class ApiMetrics:
    """Prometheus metrics in a registry of their own, so that one process can have several apps."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "liveprofile_api_requests_total",
            "Answered requests.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "liveprofile_api_request_seconds",
            "Time from the head of a request to the start of its answer.",
            ("route",),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "liveprofile_api_requests_in_flight", "Requests now.", registry=self.registry
        )


class RequestGuard:
    """ASGI middleware around all routes.

    It reads the body first: a client that sends slowly occupies nothing but its connection. The
    deadline begins after that, and ends when the answer starts: a client that reads slowly does
    not make its request fail, and occupies its connection only. Reads and writes have a limit of
    requests at once each. `render`: an error and the request id as an answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServeSettings,
        metrics: ApiMetrics,
        render: Render = problem_response,
    ):
        self._app, self._settings, self._metrics, self._render = app, settings, metrics, render
        self._in_flight: CountOf[bool] = CountOf()  # by whether it writes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        # Routes match the path as it was sent: a user id may contain an encoded slash.
        scope["path"] = scope["raw_path"].decode("latin-1").replace("%3A", ":")
        answer = _Answer(send, request_id)
        started_s = time.perf_counter()
        with self._metrics.in_flight.track_inprogress():
            try:
                await self._handle(scope, receive, answer)
            finally:
                self._record(scope, answer, started_s)

    async def _handle(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        problem: ApiError | None = None
        is_read = scope["method"] == "POST" and scope["path"].endswith(READING)
        is_write = not is_read and scope["method"] not in ("GET", "HEAD")
        scope["state"]["is_write"] = is_write
        try:
            replay = await self._read_body(receive)
            with ExitStack() as place:
                if self._in_flight[is_write] >= self._settings.max_in_flight:
                    raise UnavailableError("too many requests at once: try again")
                self._in_flight[is_write] += 1
                place.callback(self._in_flight.subtract, (is_write,))
                async with asyncio.timeout(self._settings.deadline_s) as deadline:
                    scope["state"]["deadline"] = deadline
                    await self._app(scope, replay, answer.ending(deadline, place))
        except ApiError as error:
            problem = error
        except TimeoutError:
            problem = UnavailableError("the request took too long: try again")
        except Exception:
            log.exception("request %s failed: report this with its id", answer.request_id)
            problem = ApiError(500, "internal", "the server failed: report the request id")
        if problem is not None and answer.status is None:
            await self._render(problem, answer.request_id)(scope, receive, answer)

    async def _read_body(self, receive: Receive) -> Receive:
        """Returns a `receive` that yields the whole body at once."""
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(CLIENT_TIMEOUT_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        break
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if size > MAX_BODY_BYTES:
                        raise ApiError(
                            413,
                            "too-large",
                            f"a body may have {MAX_BODY_BYTES} bytes",
                            headers={"Connection": "close"},
                        )
                    chunks.append(chunk)
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise ApiError(
                408, "timeout", "the body did not arrive in time", headers={"Connection": "close"}
            ) from None
        body: list[Message] = [
            {"type": "http.request", "body": b"".join(chunks), "more_body": False}
        ]

        async def replay() -> Message:
            return body.pop() if body else await receive()

        return replay

    def _record(self, scope: Scope, answer: _Answer, started_s: float) -> None:
        route = getattr(scope.get("route"), "path", NO_ROUTE)
        status = answer.status or 499  # the client left before the answer
        seconds = (answer.started_s or time.perf_counter()) - started_s
        self._metrics.requests.labels(scope["method"], route, status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if log.isEnabledFor(logging.INFO):
            state = scope["state"]
            user = state.get("user_id")
            log.info(
                "%s %s %d %.1f ms key=%s user=%s request=%s",
                scope["method"],
                route,
                status,
                1_000 * seconds,
                state.get("key_name", "-"),
                "-" if user is None else user_pseudonym(user),
                answer.request_id,
            )


def extend_deadline(request: Request, seconds: float) -> None:
    """Gives a request this long from now on."""
    request.state.deadline.reschedule(asyncio.get_running_loop().time() + seconds)


class _Answer:
    """Sends the answer with the headers that each has, and remembers its status."""

    def __init__(self, send: Send, request_id: str):
        self._send, self.request_id = send, request_id
        self.status: int | None = None
        self.started_s: float | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.started_s = message["status"], time.perf_counter()
            headers = message["headers"] = list(message.get("headers", ()))
            headers += [
                (b"x-request-id", self.request_id.encode("ascii")),
                (b"x-content-type-options", b"nosniff"),
            ]
            if not any(name.lower() == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
        await self._send(message)

    def ending(self, deadline: asyncio.Timeout, place: ExitStack) -> Callable[[Message], object]:
        """A `send` that ends the deadline, and leaves the place, when the answer starts."""

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                deadline.reschedule(None)
                place.close()
            await self(message)

        return send


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return value.decode("ascii")
    return uuid.uuid4().hex
