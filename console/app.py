"""The console as an application, and the server that runs it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from console.access import SESSION_S, Sessions, is_fetch
from console.job import FlinkJobReader, JobReader
from console.rendering import STATIC, error_page
from console.routes import alerts, campaigns, definitions, operations, sign_in, users
from console.routes.alerts import AlertQueue
from liveprofile.errors import LiveprofileError
from liveprofile.resources import product_path
from liveprofile.settings import ServeSettings, Settings
from liveprofile.storage.cql import now_ms
from serve.app import SCAN_MARGIN_S
from serve.explainer import EXPLANATION_S, Explainer
from serve.guard import ApiMetrics, RequestGuard
from serve.problems import to_api_error
from serve.routes.explanations import MARGIN_S
from serve.security import Gatekeeper, ReadKey
from serve.server import SWITCH_INTERVAL_S, listen, server_of, url_of
from serve.store.scans import SCAN_S
from serve.store.store import Store
from services.definitions import ATTRIBUTES_FILE

ROUTERS = (
    sign_in.router,
    users.router,
    alerts.router,
    definitions.router,
    campaigns.router,
    operations.router,
    operations.models_router,
)


def create_console(
    settings: ServeSettings,
    store: Store,
    job: JobReader,
    models: Mapping[str, Path],
    keys: ReadKey | None = None,
    clock_ms: Callable[[], int] = now_ms,
    clock_s: Callable[[], float] = time.monotonic,
    running: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
    attributes: Path = ATTRIBUTES_FILE,
    explainer: Explainer | None = None,
) -> FastAPI:
    """The console on `store` and `job`; the rest is as in serve.app.create_app.

    models: name of each served model to its checkpoint, which may be on another machine.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if running is None:
            yield
            return
        async with running():
            yield

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.settings = settings
    app.state.store = store
    app.state.job = job
    app.state.attributes = attributes
    app.state.models = models
    app.state.clock_ms = clock_ms
    app.state.scan_deadline_s = SCAN_S + SCAN_MARGIN_S
    app.state.explainer = explainer
    app.state.explanation_deadline_s = EXPLANATION_S + MARGIN_S
    app.state.gatekeeper = Gatekeeper(settings, keys or store.key, clock_ms, clock_s)
    app.state.queue = AlertQueue(store, clock_s)
    app.state.sessions = Sessions(SESSION_S, clock_s)
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    for kind in (LiveprofileError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)
    app.add_middleware(RequestGuard, settings=settings, metrics=ApiMetrics(), render=error_page)
    return app


async def _answer(request: Request, error: Exception) -> Response:
    """A known error as a page; without a session, the way to sign in."""
    answer = to_api_error(error)
    if answer.status == 401 and request.method == "GET" and not is_fetch(request):
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/sign-in?next={quote(target, safe='')}", 303)
    return error_page(answer, request.state.request_id, fragment=is_fetch(request))


def run_console(
    settings: Settings, started: Callable[[str], None], explainer: Explainer | None = None
) -> None:
    """Serves until SIGTERM or Ctrl-C. `started` gets the URL when the server listens.

    Raises ConfigError for a bad certificate, ServiceError if the address is taken.
    """
    own = settings.serve.model_copy(update={"port": settings.serve.console_port})
    store = Store(settings)
    models = {
        "user model": product_path(settings.model.checkpoint),
        "fraud model": product_path(settings.scoring.checkpoint),
    }
    app = create_console(
        own,
        store,
        FlinkJobReader(settings),
        models,
        running=store.running,
        attributes=settings.attributes,
        explainer=explainer,
    )
    server = server_of(app, own)
    # uvicorn stops at SIGTERM and then passes it on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with listen(own) as listening:
        started(url_of(own, listening))
        server.run(sockets=[listening])
