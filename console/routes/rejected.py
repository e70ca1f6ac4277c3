"""Rejected records: seeing why, correcting and sending them again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from console.access import THROUGH, Admin, Reader
from console.forms import form_of
from console.rendering import page, part_page
from console.views.operations.rejected import reasons, rejected_detail, rejected_row, sent_payload
from liveprofile.errors import InputError
from liveprofile.ingest.rejected import RejectedRecord
from serve.guard import extend_deadline
from serve.keys import Role
from serve.problems import ApiError
from serve.routes.common import KAFKA_DEADLINE_S, audit_entry
from serve.security import Caller
from serve.store.store import Store
from services import operations
from services.operations import REJECTED_OFFSETS

SHOWN = 100
SUMMARISED = 1_000

router = APIRouter(prefix="/operations/rejected")
Reason = Annotated[str, Query(pattern=r"^[A-Z_]{0,40}$")]
RecordId = Annotated[str, Query(max_length=32)]


@router.get("")
async def rejected(request: Request, caller: Reader, reason: Reason = "") -> Response:
    """The latest records. It reads Kafka, which may take seconds."""
    extend_deadline(request, KAFKA_DEADLINE_S)
    store: Store = request.app.state.store
    found = await store.run(operations.rejected_records, None, SUMMARISED)
    shown = [record for record in found if reason in ("", record.reason)][:SHOWN]
    return page(
        request,
        "operations/rejected.html",
        rows=[rejected_row(record) for record in shown],
        reasons=reasons(found),
        reason=reason,
        of_each=REJECTED_OFFSETS,
    )


@router.get("/summary")
async def summary(request: Request, caller: Reader) -> Response:
    """How many of the latest records have each reason, as a part of the operations page."""
    extend_deadline(request, KAFKA_DEADLINE_S)
    store: Store = request.app.state.store
    found = await store.run(operations.rejected_records, None, SUMMARISED)
    values = {"reasons": reasons(found), "of_each": REJECTED_OFFSETS}
    return part_page(request, "parts/operations_rejected.html", "Rejected records", **values)


@router.get("/record")
async def record(request: Request, caller: Reader, id: RecordId) -> Response:
    found = await _record(request, id)
    detail = rejected_detail(found)
    return _show(request, caller, found, detail.payload)


@router.post("/resend")
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
        await request.app.state.store.run(operations.resend, corrections, audit, dry_run=is_dry)
    except InputError as error:
        return _show(request, caller, found, text, 422, problem=str(error))
    done = "It can be sent." if is_dry else "It was sent: the job reads it within seconds."
    return _show(request, caller, found, text, said=done)


async def _record(request: Request, record_id: str) -> RejectedRecord:
    extend_deadline(request, KAFKA_DEADLINE_S)
    try:
        found = await request.app.state.store.run(operations.rejected_record, record_id)
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
