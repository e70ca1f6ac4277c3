"""Job, input, rejected records and models. Each part of a page is read by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from starlette.responses import Response

from console.access import THROUGH, Admin, Reader, form_of
from console.job import JobReader
from console.rendering import page, part_page
from console.views.models import folder_of, model_versions, read_model
from console.views.operations import (
    audit_views,
    drift_periods,
    job_figures,
    latency_rows,
    reasons,
    rejected_detail,
    rejected_row,
    sent_payload,
    trend_view,
)
from liveprofile.errors import InputError
from liveprofile.ingest.rejected import RejectedRecord
from liveprofile.trends.counts import ALL, Series
from liveprofile.trends.points import Metric
from serve.guard import extend_deadline
from serve.keys import Role
from serve.problems import ApiError
from serve.routes.common import KAFKA_DEADLINE_S, audit_entry
from serve.security import Caller
from serve.store.store import Store
from services import operations as service
from services import trends
from services.operations import REJECTED_OFFSETS

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


SHOWN = 100
SUMMARISED = 1_000

Reason = Annotated[str, Query(pattern=r"^[A-Z_]{0,40}$")]
RecordId = Annotated[str, Query(max_length=32)]


@router.get("/rejected")
async def rejected(request: Request, caller: Reader, reason: Reason = "") -> Response:
    """The latest records. It reads Kafka, which may take seconds."""
    extend_deadline(request, KAFKA_DEADLINE_S)
    store: Store = request.app.state.store
    found = await store.run(service.rejected_records, None, SUMMARISED)
    shown = [record for record in found if reason in ("", record.reason)][:SHOWN]
    return page(
        request,
        "operations/rejected.html",
        rows=[rejected_row(record) for record in shown],
        reasons=reasons(found),
        reason=reason,
        of_each=REJECTED_OFFSETS,
    )


@router.get("/rejected/summary")
async def summary(request: Request, caller: Reader) -> Response:
    """How many of the latest records have each reason, as a part of the operations page."""
    extend_deadline(request, KAFKA_DEADLINE_S)
    store: Store = request.app.state.store
    found = await store.run(service.rejected_records, None, SUMMARISED)
    values = {"reasons": reasons(found), "of_each": REJECTED_OFFSETS}
    return part_page(request, "parts/operations_rejected.html", "Rejected records", **values)


@router.get("/rejected/record")
async def record(request: Request, caller: Reader, id: RecordId) -> Response:
    found = await _record(request, id)
    detail = rejected_detail(found)
    return _show(request, caller, found, detail.payload)


@router.post("/rejected/resend")
async def resend(request: Request, caller: Admin) -> Response:
    """Checks (action check) or sends a corrected payload: fields id, payload, action."""
    fields = await form_of(request)
    record_id, action = fields.get("id", ""), fields.get("action", "")
    if action not in ("check", "send"):
        raise ApiError(422, "invalid-request", "action: check or send")
    found = await _record(request, record_id)
    text = fields.get("payload", "")
    requested = {"reason": found.reason} | THROUGH
    audit = audit_entry(request, caller, "rejected.resend", record_id, requested)
    corrections, is_dry = {record_id: sent_payload(found, text)}, action == "check"
    try:
        await request.app.state.store.run(service.resend, corrections, audit, dry_run=is_dry)
    except InputError as error:
        return _show(request, caller, found, text, 422, problem=str(error))
    done = "The record is valid." if is_dry else "The record was sent to the job."
    return _show(request, caller, found, text, said=done)


async def _record(request: Request, record_id: str) -> RejectedRecord:
    extend_deadline(request, KAFKA_DEADLINE_S)
    try:
        found = await request.app.state.store.run(service.rejected_record, record_id)
    except InputError as error:
        raise ApiError(404, "unknown-record", str(error)) from None
    if found is None:
        raise ApiError(404, "unknown-record", f"no rejected record {record_id[:40]}")
    return found


def _show(
    request: Request,
    caller: Caller,
    found: RejectedRecord,
    text: str,
    status: int = 200,
    said: str = "",
    problem: str = "",
) -> Response:
    return page(
        request,
        "operations/rejected_record.html",
        status,
        detail=rejected_detail(found),
        text=text,
        said=said,
        problem=problem,
        may_send=caller.role.includes(Role.ADMIN),
    )


# A broker that is away takes seconds to tell.
TOPIC_DEADLINE_S = 10.0

models_router = APIRouter(prefix="/models")


@models_router.get("")
async def models(request: Request, caller: Reader) -> Response:
    return await _cards(request, "Models", request.app.state.models)


@models_router.get("/versions")
async def versions(request: Request, caller: Reader) -> Response:
    return page(request, "models/versions.html")


@models_router.get("/versions/list")
async def version_list(request: Request, caller: Reader) -> Response:
    extend_deadline(request, TOPIC_DEADLINE_S)
    reader: JobReader = request.app.state.job
    name, folder = _user_model(request)
    configured = await asyncio.to_thread(read_model, name, folder)
    found = model_versions(await reader.user_models(), configured.version)
    return part_page(
        request,
        "models/version_list.html",
        "Versions of the user model",
        back="/models",
        versions=found,
    )


@models_router.get("/versions/card")
async def version_card(
    request: Request, caller: Reader, revision: int | None = None, canary: bool = False
) -> Response:
    """The card of a deployment's model, without a revision that of the settings."""
    extend_deadline(request, TOPIC_DEADLINE_S)
    reader: JobReader = request.app.state.job
    name, configured = _user_model(request)
    folder = folder_of(await reader.user_models(), revision, canary, configured)
    if folder is None:
        raise HTTPException(404, f"the topic has no model of revision {revision}")
    return await _cards(request, "Model card", {name: folder})


def _user_model(request: Request) -> tuple[str, Path]:
    """Name and checkpoint of the user model of the settings, which comes first."""
    return next(iter(request.app.state.models.items()))


async def _cards(request: Request, title: str, folders: dict[str, Path]) -> Response:
    reads = (asyncio.to_thread(read_model, name, folder) for name, folder in folders.items())
    return page(request, "models/page.html", title=title, models=await asyncio.gather(*reads))
