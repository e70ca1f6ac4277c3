"""The application, from parts that tests can replace, with health and metrics."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response
from starlette.routing import BaseRoute

from liveprofile import __version__
from liveprofile.settings import ServeSettings
from liveprofile.storage.cql import now_ms
from serve import answers
from serve.api_models import Health, Problem
from serve.guard import ApiMetrics, RequestGuard
from serve.keys import Scope
from serve.listing import Listing
from serve.problems import install
from serve.routes import alerts, campaigns, privacy, trends, users
from serve.routes import rules_and_segments as definitions
from serve.routes.common import known_parameters, problems, strict_json
from serve.security import Call, Gatekeeper, ReadKey, Require
from serve.store.store import Store

router, health = APIRouter(tags=["operations"]), APIRouter(tags=["operations"])


@health.get("/health/live", response_model=Health)
async def live() -> Response:
    """The process answers."""
    return answers.json_response({"status": "ok"})


@health.get("/health/ready", response_model=Health, responses=problems())
async def ready(request: Request) -> Response:
    """Cassandra answers too; else 503."""
    await request.app.state.store.check()
    return answers.json_response({"status": "ok"})


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Metrics"},
        **problems(),
    },
)
async def metrics(call: Annotated[Call, Depends(Require(Scope.OPERATIONS))]) -> Response:
    """Prometheus metrics of this process."""
    registry = call.request.app.state.metrics.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


ROUTERS = (
    users.router,
    definitions.segments,
    definitions.router,
    campaigns.router,
    alerts.router,
    privacy.router,
    trends.router,
    health,
    router,
)
TITLE = "Liveprofile"
DESCRIPTION = "Profiles, deltas, scores, flags and alerts of Liveprofile. Times are epoch ms (UTC)."


def new_app(
    settings: ServeSettings,
    store: Store,
    *,
    keys: ReadKey | None = None,
    clock_ms: Callable[[], int] = now_ms,
    clock_s: Callable[[], float] = time.monotonic,
    running: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext,
    through: Mapping[str, str] = {},
    **options: Any,
) -> FastAPI:
    """An application with what the routes of API and console need in its state.

    keys: reads a key by its id, by default from the store. clock_ms: the wall clock. clock_s:
    monotonic. running: opened for as long as the server runs. through: what the audit trail says of
    each write. options: of FastAPI.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with running():
            yield

    app = FastAPI(
        docs_url=None,  # the page would load scripts from another host
        redoc_url=None,
        # It would look for exporters in the environment at each request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        lifespan=lifespan,
        **options,
    )
    app.state.settings = settings
    app.state.store = store
    app.state.clock_ms = clock_ms
    app.state.through = through
    app.state.listing = Listing(settings.max_listed_users_per_day, store, clock_ms)
    app.state.gatekeeper = Gatekeeper(settings, keys or store.key, clock_ms, clock_s)
    return app


def create_app(settings: ServeSettings, store: Store, **parts: Any) -> FastAPI:
    """The API on `store`. parts: as of `new_app`."""
    app = new_app(
        settings,
        store,
        openapi_url="/v1/openapi.json",
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        **parts,
    )
    app.state.metrics = metrics = ApiMetrics()
    install(app)
    app.router.routes.extend(_routes())
    app.add_middleware(RequestGuard, settings=settings, metrics=metrics)
    app.openapi = _document
    return app


@cache
def _routes() -> list[BaseRoute]:
    """The routes of every app. FastAPI needs a third of a second to make them."""
    every = APIRouter(generate_unique_id_function=lambda route: route.name)
    for each in ROUTERS:
        every.include_router(each, dependencies=[Depends(strict_json), Depends(known_parameters)])
    return [users.PlainProfile(), *every.routes]


@cache
def _document() -> dict[str, Any]:
    """The OpenAPI document of every app; FastAPI's own form of validation errors is not used."""
    document = get_openapi(
        title=TITLE,
        version=__version__,
        openapi_version="3.1.0",
        description=DESCRIPTION,
        routes=_routes(),
    )
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs", {}) | {"Problem": problem}
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    return document
