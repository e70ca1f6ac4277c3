"""The state of the job and the trends of its input. Each part of the page is read by itself."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from console.access import Reader
from console.job import JobReader
from console.rendering import page, part_page
from console.views.operations.drift import audit_views, drift_periods
from console.views.operations.job import job_figures, trend_view
from console.views.operations.latencies import latency_rows
from liveprofile.trends.counts import ALL, Series
from liveprofile.trends.points import Metric
from serve.guard import extend_deadline
from serve.store.store import Store
from services import operations as service
from services import trends

# Flink answers a dozen requests in turn, and a broker that is away takes seconds to tell.
JOB_DEADLINE_S = 10.0
POINTS = {"hour": 24 * 7, "day": 60}
AUDITS, PERIODS = 10, 48

router = APIRouter(prefix="/operations")


@router.get("")
async def operations(
    request: Request,
    caller: Reader,
    by: Literal["hour", "day"] = "hour",
    metric: Metric = "events",
) -> Response:
    return page(request, "operations/page.html", by=by, metric=metric)


@router.get("/job")
async def job(request: Request, caller: Reader) -> Response:
    extend_deadline(request, JOB_DEADLINE_S)
    reader: JobReader = request.app.state.job
    facts = await reader.facts()
    figures = job_figures(facts)
    return _part(request, "job", "Job", figures=figures, warnings=facts.warnings)


@router.get("/trend")
async def trend(
    request: Request,
    caller: Reader,
    by: Literal["hour", "day"] = "hour",
    metric: Metric = "events",
) -> Response:
    store: Store = request.app.state.store
    found = await store.run(trends.trend, Series(ALL, "", ALL), by, metric, POINTS[by])
    view = None if found is None else trend_view(found)
    return _part(request, "trend", "Trend", trend=view, by=by, metric=metric)


@router.get("/latencies")
async def latencies(request: Request, caller: Reader) -> Response:
    extend_deadline(request, JOB_DEADLINE_S)
    reader: JobReader = request.app.state.job
    facts = await reader.facts()
    return _part(request, "latencies", "Latencies", latencies=latency_rows(facts.latencies))


@router.get("/audit")
async def audit(request: Request, caller: Reader) -> Response:
    store: Store = request.app.state.store
    found = await store.run(service.audits, AUDITS)
    return _part(request, "audit", "Last audit", audits=audit_views(found))


@router.get("/drift")
async def drift(request: Request, caller: Reader) -> Response:
    store: Store = request.app.state.store
    found = await store.run(service.drift, PERIODS)
    return _part(request, "drift", "Drift", drift=None if found is None else drift_periods(found))


def _part(request: Request, name: str, heading: str, **values: Any) -> Response:
    return part_page(request, f"parts/operations_{name}.html", heading, **values)
