"""The state of the job and the trends of its input. Each part of the page is read by itself."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from console.access import Reader, is_fetch
from console.job import JobReader
from console.rendering import page
from console.views.operations import job_figures, trend_view
from liveprofile.trends.counts import ALL, Series
from liveprofile.trends.points import Metric
from serve.guard import extend_deadline
from serve.store.protocol import Store

# Flink answers a dozen requests in turn, and a broker that is away takes seconds to tell.
JOB_DEADLINE_S = 10.0
POINTS = {"hour": 24 * 7, "day": 60}

router = APIRouter(prefix="/operations")


@router.get("")
async def operations(
    request: Request,
    caller: Reader,
    by: Literal["hour", "day"] = "hour",
    metric: Metric = "events",
) -> Response:
    return page(request, "operations.html", by=by, metric=metric)


@router.get("/job")
async def job(request: Request, caller: Reader) -> Response:
    extend_deadline(request, JOB_DEADLINE_S)
    reader: JobReader = request.app.state.job
    facts = await reader.facts()
    return page(
        request,
        _template(request, "job"),
        figures=job_figures(facts),
        warnings=facts.warnings,
        part="parts/operations_job.html",
        heading="Job",
    )


@router.get("/trend")
async def trend(
    request: Request,
    caller: Reader,
    by: Literal["hour", "day"] = "hour",
    metric: Metric = "events",
) -> Response:
    store: Store = request.app.state.store
    found = await store.trend(Series(ALL, "", ALL), by, metric, POINTS[by])
    return page(
        request,
        _template(request, "trend"),
        trend=None if found is None else trend_view(found),
        by=by,
        metric=metric,
        part="parts/operations_trend.html",
        heading="Trend",
    )


def _template(request: Request, name: str) -> str:
    """The part alone for console.js, else a page with it."""
    return f"parts/operations_{name}.html" if is_fetch(request) else "part.html"
