"""Consents of a user, and erasures."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from liveprofile.client import models
from liveprofile.consent.changes import PURPOSES, ConsentChange, newest
from liveprofile.pseudonym import user_pseudonym
from serve import answers
from serve.guard import extend_deadline
from serve.problems import ApiError
from serve.routes.common import (
    SEND_DEADLINE_S,
    DataStore,
    PrivacyOfficer,
    UserId,
    audit_entry,
    problems,
)
from services import privacy
from services.privacy import ConsentState, ErasureState

Purpose = Literal["profiling", "recommendation", "marketing", "risk", "training"]

router = APIRouter(prefix="/v1", tags=["privacy"], responses=problems())


@router.get("/users/{user_id}/consents", response_model=models.UserConsents)
async def get_consents(
    request: Request, user_id: UserId, store: DataStore, caller: PrivacyOfficer
) -> Response:
    """What the user allows now, by purpose, and the newest 200 changes."""
    found = await store.run(privacy.consents, user_id)
    return _consents_answer(user_id, found, request.app.state.clock_ms())


@router.put(
    "/users/{user_id}/consents/{purpose}",
    response_model=models.UserConsents,
    responses=problems(409),
)
async def put_consent(
    request: Request,
    user_id: UserId,
    purpose: Purpose,
    body: models.ConsentRequest,
    store: DataStore,
    caller: PrivacyOfficer,
) -> Response:
    """Grants or withdraws a purpose from a time on. With a time, repeating it changes nothing.

    May take 5 seconds. After 503 repeat it with the same time.
    """
    extend_deadline(request, SEND_DEADLINE_S)
    audit = audit_entry(request, caller, "consent.set", f"{user_id} {purpose}", body.model_dump())
    time_ms = _past(body.time_ms, audit.at_ms)
    change = ConsentChange(time_ms, purpose, body.granted, body.basis, body.text_version)
    await store.run(privacy.change_consents, [(user_id, change)], audit)
    return _consents_answer(user_id, await store.run(privacy.consents, user_id), audit.at_ms)


@router.get("/users/{user_id}/erasure", response_model=models.UserErasure, responses=problems(404))
async def get_erasure(user_id: UserId, store: DataStore, caller: PrivacyOfficer) -> Response:
    """When each place is clear of an erased user."""
    found = await store.run(privacy.erasure, user_id)
    if found is None:
        raise ApiError(404, "unknown-erasure", "no erasure of this user is known here")
    return _erasure_answer(user_id, found)


@router.put("/users/{user_id}/erasure", response_model=models.UserErasure, responses=problems(409))
async def put_erasure(
    request: Request,
    user_id: UserId,
    body: models.ErasureRequest,
    store: DataStore,
    caller: PrivacyOfficer,
) -> Response:
    """Makes the job forget everything of a user before a time, by default now.

    The rows are deleted by `liveprofile privacy erase --pending`. With a time, repeating it changes
    nothing. May take 5 seconds; after 503 repeat it.
    """
    extend_deadline(request, SEND_DEADLINE_S)
    # Entries about a user are deleted with the user; this one must stay.
    audit = audit_entry(request, caller, "user.erase", user_pseudonym(user_id), body.model_dump())
    before_ms = _past(body.before_ms, audit.at_ms)
    found = await store.run(privacy.request_erasure, user_id, before_ms, audit)
    return _erasure_answer(user_id, found)


def _past(time_ms: int | None, now_ms: int) -> int:
    """The time, by default now. Raises ApiError 409 if it is in the future."""
    if time_ms is not None and time_ms > now_ms:
        raise ApiError(409, "conflict", "the time is in the future of the server's clock")
    return now_ms if time_ms is None else time_ms


def _consents_answer(user_id: str, found: ConsentState, now_ms: int) -> Response:
    purposes = {
        purpose: _in_force(newest(found.changes, purpose, now_ms), found.defaults[purpose])
        for purpose in PURPOSES
    }
    answer = {"user_id": user_id, "purposes": purposes, "history": found.changes}
    return answers.json_response(answer)


def _in_force(change: ConsentChange | None, default: bool) -> dict[str, Any]:
    if change is None:
        return {"allowed": default, "since_ms": None, "basis": "", "text_version": ""}
    return {
        "allowed": change.granted,
        "since_ms": change.time_ms,
        "basis": change.basis,
        "text_version": change.text_version,
    }


def _erasure_answer(user_id: str, found: ErasureState) -> Response:
    return answers.json_response({"user_id": user_id} | found._asdict())
