"""Alerts and cases: what analysts read, and what they write."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from liveprofile.units import SECOND_MS
from serve import answers
from serve import api_models as models
from serve.answers import Paging, invalid_cursor
from serve.api_models import Items, Page
from serve.keys import Scope
from serve.routes.common import (
    SEND_DEADLINE_S,
    Day,
    FlagId,
    RiskReader,
    RuleId,
    Since,
    UserFilter,
    UserId,
    problems,
)
from serve.security import Call, Require
from services.alerts import alerts
from services.alerts.states import AlertState
from services.audit_trail import read_trail

# An alert's state is read for each flag of a page.
MAX_ALERTS = 200
FLAGS_PER_COST = 4
# Cassandra's int.
MAX_CASE_NUMBER = 2**31 - 1

RiskWriter = Annotated[Call, Depends(Require(Scope.RISK_WRITE))]
Labeller = Annotated[Call, Depends(Require(Scope.RISK_WRITE, deadline_s=SEND_DEADLINE_S))]
Auditor = Annotated[Call, Depends(Require(Scope.AUDIT))]

router = APIRouter(prefix="/v1", tags=["alerts"], responses=problems())


@router.get("/alerts", response_model=Page[models.RiskAlert])
async def get_alerts(
    call: RiskReader,
    paging: Paging,
    user_id: UserFilter = None,
    state: models.AlertStateName | None = None,
    since: Since = None,
) -> Response:
    """Flags with their states, newest first. A page examines at most 200 flags."""
    limit = min(paging.limit, MAX_ALERTS)
    after = paging.position(int, str, str, str)
    if user_id is None:  # it may read the flags of as many days
        call.charge(limit / FLAGS_PER_COST)
    examined = await call.store.alerts(user_id, since or 0, after, limit)
    shown = [answers.alert_answer(row) for row in examined if state in (None, row.state.state)]
    return answers.page_response(shown, examined, limit, answers.alert_position)


@router.get("/alerts/{flag_id}", response_model=models.AlertDetails, responses=problems(404))
async def get_alert(flag_id: FlagId, call: RiskReader) -> Response:
    """An alert with its history, the user's snoozes of its rule, and its cases."""
    return answers.json_response(answers.details_answer(await call.run(alerts.flag_file, flag_id)))


@router.put(
    "/alerts/{flag_id}/state", response_model=models.StoredState, responses=problems(404, 409)
)
async def put_state(flag_id: FlagId, body: models.StateRequest, call: RiskWriter) -> Response:
    """Acknowledges or closes an alert. Repeating it changes nothing."""
    audit = call.audit("alert.state", flag_id, body.model_dump())
    state = AlertState(body.state)
    stored = await call.run(alerts.set_state, flag_id, state, call.by, body.note, audit)
    return answers.json_response({"flag_id": flag_id, **stored._asdict(), "labels_sent": 0})


@router.put(
    "/alerts/{flag_id}/label", response_model=models.StoredState, responses=problems(404, 409)
)
async def put_label(flag_id: FlagId, body: models.LabelRequest, call: Labeller) -> Response:
    """Labels the event of an alert; the scoring pipeline uses the label.

    May take 5 seconds. After 503 repeat it: the same label is sent again, and copies change
    nothing.
    """
    audit = call.audit("alert.label", flag_id, body.model_dump())
    stored, sent = await call.run(alerts.label, flag_id, body.label, call.by, body.note, audit)
    return answers.json_response({"flag_id": flag_id, **stored._asdict(), "labels_sent": sent})


@router.get("/users/{user_id}/snoozes", response_model=Items[models.UserSnooze])
async def get_snoozes(user_id: UserId, call: RiskReader) -> Response:
    """The rules that send no alerts about this user for now."""
    return answers.json_response({"items": await call.store.snoozes(user_id)})


@router.put("/users/{user_id}/snoozes/{rule_id}", response_model=models.UserSnooze)
async def put_snooze(
    user_id: UserId, rule_id: RuleId, body: models.SnoozeRequest, call: RiskWriter
) -> Response:
    """Snoozes a rule, or * for all, for this user from now on. Replaces an existing snooze."""
    audit = call.audit("snooze.set", f"{user_id} {rule_id}", body.model_dump())
    until_ms = audit.at_ms + body.for_s * SECOND_MS
    about = (user_id, rule_id, until_ms, call.by, body.note)
    return answers.json_response((await call.run(alerts.snooze, *about, audit))._asdict())


@router.delete("/users/{user_id}/snoozes/{rule_id}", status_code=204)
async def delete_snooze(user_id: UserId, rule_id: RuleId, call: RiskWriter) -> Response:
    """Ends a snooze; does nothing if there is none."""
    audit = call.audit("snooze.end", f"{user_id} {rule_id}", {})
    await call.run(alerts.end_snooze, user_id, rule_id, audit)
    return Response(status_code=204)


@router.get("/cases", response_model=Page[models.CustomerCase])
async def get_cases(
    call: RiskReader,
    paging: Paging,
    user_id: UserFilter = None,
    open: Annotated[bool | None, Query(description="Only open, or only closed cases.")] = None,
) -> Response:
    """Cases of a user, or of all users in no particular order."""
    after = paging.position(str, str, int)
    if after and (user_id not in (None, after[0]) or not 0 < after[2] <= MAX_CASE_NUMBER):
        raise invalid_cursor()
    cases = await call.store.cases(user_id, after, paging.limit)
    rows = [case for case in cases if open is None or case.is_open is open]
    return answers.page_response(rows, cases, paging.limit, lambda case: case[:3])


@router.get("/audit", response_model=Page[models.AuditRecord])
async def get_audit(
    call: Auditor, day: Day, limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000
) -> Response:
    """The writes through this API of a UTC day, newest first."""
    entries = await call.run(read_trail, day, limit)
    return answers.json_response({"items": entries, "next_cursor": None})
