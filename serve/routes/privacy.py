"""Consents of a user, and erasures."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from liveprofile.consent.changes import ConsentChange
from liveprofile.pseudonym import user_pseudonym
from liveprofile.settings.sections import Purpose
from serve import answers
from serve import api_models as models
from serve.keys import Scope
from serve.problems import ApiError
from serve.routes.common import SEND_DEADLINE_S, UserId, problems
from serve.security import Call, Require
from services.privacy import consents as consent_service
from services.privacy import erasures

PrivacyOfficer = Annotated[Call, Depends(Require(Scope.PRIVACY))]
PrivacySender = Annotated[Call, Depends(Require(Scope.PRIVACY, deadline_s=SEND_DEADLINE_S))]

router = APIRouter(prefix="/v1", tags=["privacy"], responses=problems())


@router.get("/users/{user_id}/consents", response_model=models.UserConsents)
async def get_consents(user_id: UserId, call: PrivacyOfficer) -> Response:
    """What the user allows now, by purpose, and the newest 200 changes."""
    return await _consents(call, user_id, call.now_ms)


@router.put(
    "/users/{user_id}/consents/{purpose}",
    response_model=models.UserConsents,
    responses=problems(409),
)
async def put_consent(
    user_id: UserId, purpose: Purpose, body: models.ConsentRequest, call: PrivacySender
) -> Response:
    """Grants or withdraws a purpose from a time on. With a time, repeating it changes nothing.

    May take 5 seconds. After 503 repeat it with the same time.
    """
    audit = call.audit("consent.set", f"{user_id} {purpose}", body.model_dump())
    time_ms = _past(body.time_ms, audit.at_ms)
    change = ConsentChange(time_ms, purpose, body.granted, body.basis, body.text_version)
    await call.run(consent_service.change_consents, [(user_id, change)], audit)
    return await _consents(call, user_id, audit.at_ms)


@router.get("/users/{user_id}/erasure", response_model=models.UserErasure, responses=problems(404))
async def get_erasure(user_id: UserId, call: PrivacyOfficer) -> Response:
    """When each place is clear of an erased user."""
    found = await call.run(erasures.erasure, user_id)
    if found is None:
        raise ApiError(404, "unknown-erasure", "no erasure of this user is known here")
    return answers.json_response({"user_id": user_id} | found._asdict())


@router.put("/users/{user_id}/erasure", response_model=models.UserErasure, responses=problems(409))
async def put_erasure(
    user_id: UserId, body: models.ErasureRequest, call: PrivacySender
) -> Response:
    """Makes the job forget everything of a user before a time, by default now.

    The rows are deleted by `liveprofile serve chores`. With a time, repeating it changes
    nothing. May take 5 seconds; after 503 repeat it.
    """
    # Entries about a user are deleted with the user; this one must stay.
    audit = call.audit("user.erase", user_pseudonym(user_id), body.model_dump())
    before_ms = _past(body.before_ms, audit.at_ms)
    found = await call.run(erasures.request_erasure, user_id, before_ms, audit)
    return answers.json_response({"user_id": user_id} | found._asdict())


def _past(time_ms: int | None, now_ms: int) -> int:
    """The time, by default now. Raises ApiError 409 if it is in the future."""
    if time_ms is not None and time_ms > now_ms:
        raise ApiError(409, "conflict", "the time is in the future of the server's clock")
    return now_ms if time_ms is None else time_ms


async def _consents(call: Call, user_id: str, now_ms: int) -> Response:
    found = await call.run(consent_service.consents, user_id)
    answer = {"user_id": user_id, "purposes": found.purposes(now_ms), "history": found.changes}
    return answers.json_response(answer)
