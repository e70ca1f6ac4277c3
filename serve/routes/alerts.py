"""Alerts and cases: what analysts read, and what they write."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from liveprofile.alerts.cases.snooze import read_snoozes
from liveprofile.alerts.cases.states import AlertState
from liveprofile.client import models
from liveprofile.client.models import Items, Page
from liveprofile.units import SECOND_MS
from serve import answers
from serve.answers import Paging, invalid_cursor
from serve.guard import extend_deadline
from serve.routes.common import (
    SEND_DEADLINE_S,
    Admin,
    Analyst,
    DataStore,
    Day,
    FlagId,
    Reader,
    RuleId,
    Since,
    UserFilter,
    UserId,
    audit_entry,
    problems,
    to_ms,
)
from services import alerts
from services.audit import read_trail

# An alert's state is read for each flag of a page.
MAX_ALERTS = 200
# Cassandra's int.
MAX_CASE_NUMBER = 2**31 - 1

router = APIRouter(prefix="/v1", tags=["alerts"], responses=problems())


@router.get("/alerts", response_model=Page[models.RiskAlert])
async def get_alerts(
    store: DataStore,
    paging: Paging,
    caller: Reader,
    user_id: UserFilter = None,
    state: models.AlertStateName | None = None,
    since: Since = None,
) -> Response:
    """Flags with their states, newest first. A page examines at most 200 flags."""
    limit = min(paging.limit, MAX_ALERTS)
    since_ms = 0 if since is None else to_ms(since)
    after = paging.position(int, str, str, str)
    examined = await store.alerts(user_id, since_ms, after, limit)
    shown = [row for row in examined if state in (None, row.state.state)]
    return answers.page_response(
        map(answers.alert_answer, shown), examined, limit, answers.alert_position
    )


@router.get("/alerts/{flag_id}", response_model=models.AlertDetails, responses=problems(404))
async def get_alert(flag_id: FlagId, store: DataStore, caller: Reader) -> Response:
    """An alert with its history, the user's snoozes of its rule, and its cases."""
    return answers.json_response(answers.details_answer(await store.run(alerts.flag_file, flag_id)))


@router.put(
    "/alerts/{flag_id}/state", response_model=models.StoredState, responses=problems(404, 409)
)
async def put_state(
    request: Request, flag_id: FlagId, body: models.StateRequest, store: DataStore, caller: Analyst
) -> Response:
    """Acknowledges or closes an alert. Repeating it changes nothing."""
    audit = audit_entry(request, caller, "alert.state", flag_id, body.model_dump())
    state = AlertState(body.state)
    stored = await store.run(alerts.set_state, flag_id, state, caller.name, body.note, audit)
    return answers.json_response({"flag_id": flag_id, **stored._asdict(), "labels_sent": 0})


@router.put(
    "/alerts/{flag_id}/label", response_model=models.StoredState, responses=problems(404, 409)
)
async def put_label(
    request: Request, flag_id: FlagId, body: models.LabelRequest, store: DataStore, caller: Analyst
) -> Response:
    """Labels the event of an alert; the scoring pipeline uses the label.

    May take 5 seconds. After 503 repeat it: the same label is sent again, and copies change
    nothing.
    """
    extend_deadline(request, SEND_DEADLINE_S)
    audit = audit_entry(request, caller, "alert.label", flag_id, body.model_dump())
    stored, sent = await store.run(alerts.label, flag_id, body.label, caller.name, body.note, audit)
    return answers.json_response({"flag_id": flag_id, **stored._asdict(), "labels_sent": sent})


@router.get("/users/{user_id}/snoozes", response_model=Items[models.UserSnooze])
async def get_snoozes(user_id: UserId, store: DataStore, caller: Reader) -> Response:
    """The rules that send no alerts about this user for now."""
    snoozes = await store.read(read_snoozes, user_id)
    return answers.json_response({"items": snoozes})


@router.put("/users/{user_id}/snoozes/{rule_id}", response_model=models.UserSnooze)
async def put_snooze(
    request: Request,
    user_id: UserId,
    rule_id: RuleId,
    body: models.SnoozeRequest,
    store: DataStore,
    caller: Analyst,
) -> Response:
    """Snoozes a rule, or * for all, for this user from now on. Replaces an existing snooze."""
    audit = audit_entry(request, caller, "snooze.set", f"{user_id} {rule_id}", body.model_dump())
    until_ms = audit.at_ms + body.for_s * SECOND_MS
    stored = await store.run(
        alerts.snooze, user_id, rule_id, until_ms, caller.name, body.note, audit
    )
    return answers.json_response(stored._asdict())


@router.delete("/users/{user_id}/snoozes/{rule_id}", status_code=204)
async def delete_snooze(
    request: Request, user_id: UserId, rule_id: RuleId, store: DataStore, caller: Analyst
) -> Response:
    """Ends a snooze; does nothing if there is none."""
    audit = audit_entry(request, caller, "snooze.end", f"{user_id} {rule_id}", {})
    await store.run(alerts.end_snooze, user_id, rule_id, audit)
    return Response(status_code=204)


@router.get("/cases", response_model=Page[models.CustomerCase])
async def get_cases(
    store: DataStore,
    paging: Paging,
    caller: Reader,
    user_id: UserFilter = None,
    open: Annotated[bool | None, Query(description="Only open, or only closed cases.")] = None,
) -> Response:
    """Cases of a user, or of all users in no particular order."""
    after = paging.position(str, str, int)
    if after is not None and (
        user_id not in (None, after[0]) or not 0 < after[2] <= MAX_CASE_NUMBER
    ):
        raise invalid_cursor()
    cases = await store.cases(user_id, after, paging.limit)
    rows = [case for case in cases if open is None or case.is_open is open]
    return answers.page_response(
        rows, cases, paging.limit, lambda case: (case.user_id, case.rule_id, case.number)
    )


@router.get("/audit", response_model=Page[models.AuditRecord])
async def get_audit(
    store: DataStore,
    caller: Admin,
    day: Day,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
) -> Response:
    """The writes through this API of a UTC day, newest first."""
    entries = await store.run(read_trail, to_ms(day), limit)
    return answers.json_response({"items": entries, "next_cursor": None})
