"""The console as an application, and the server that runs it."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from console.access import Sessions, is_fetch
from console.job import JobReader
from console.rendering import STATIC, error_page
from console.routes import alerts, campaigns, models, operations, sign_in, users
from console.routes import rules_and_segments as definitions
from console.routes.alerts import AlertQueue
from liveprofile.errors import LiveprofileError
from liveprofile.resources import product_path
from liveprofile.settings import ServeSettings, Settings
from serve.app import health, new_app
from serve.guard import ApiMetrics, RequestGuard
from serve.problems import to_api_error
from serve.server import run
from serve.store.store import Store

ROUTERS = (
    health,
    sign_in.router,
    users.router,
    alerts.router,
    definitions.router,
    campaigns.router,
    operations.router,
    models.router,
)


def create_console(
    settings: ServeSettings, store: Store, job: JobReader, models: Mapping[str, Path], **parts: Any
) -> FastAPI:
    """The console on `store` and `job`. parts: as of serve.app.new_app.

    models: name of each served model to its checkpoint, which may be on another machine.
    """
    app = new_app(settings, store, openapi_url=None, through={"through": "console"}, **parts)
    clock_s = parts.get("clock_s", time.monotonic)
    app.state.job = job
    app.state.models = models
    app.state.queue = AlertQueue(store, clock_s)
    app.state.sessions = Sessions(store, settings.console_idle_s, app.state.clock_ms)
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    for kind in (LiveprofileError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(definitions.FaultyTextError, definitions.faults)
    app.add_middleware(RequestGuard, settings=settings, metrics=ApiMetrics(), render=error_page)
    return app


async def _answer(request: Request, error: Exception) -> Response:
    """A known error as a page; without a session, the way to sign in."""
    answer = to_api_error(error)
    if answer.status == 401 and request.method == "GET" and not is_fetch(request):
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/sign-in?next={quote(target, safe='')}", 303)
    return error_page(answer, request.state.request_id, fragment=is_fetch(request))


def run_console(settings: Settings, started: Callable[[str], None]) -> None:
    """Serves the console as serve.server.run does."""
    own = settings.serve.model_copy(update={"port": settings.serve.console_port})
    store = Store(settings)
    models = {
        "user model": product_path(settings.model.checkpoint),
        "fraud model": product_path(settings.scoring.checkpoint),
    }
    app = create_console(own, store, JobReader(settings), models, running=store.running)
    run(app, own, started)
