"""Which events of a window moved a user's values."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from liveprofile.client.analysis_models import Explanation, ExplanationRequest
from serve import answers
from serve.explainer import (
    EXPLANATION_S,
    Explainer,
    ExplainerBusyError,
    ExplanationRefusedError,
    ExplanationTimeoutError,
)
from serve.keys import Role
from serve.problems import ApiError, UnavailableError, unknown_user
from serve.routes.common import UserId, problems
from serve.security import Call, Require
from serve.store.statements import END_OF_TIME_MS, RawDelta
from services.audit import start_entry, write_entry
from services.privacy import consents, erasure

# In requests of a key: a minute of a core.
COST = 50.0
# An explanation that ends at its own limit says so before the deadline of its request.
DEADLINE_S = EXPLANATION_S + 10.0

Explaining = Annotated[Call, Depends(Require(Role.ANALYST, COST, DEADLINE_S))]

router = APIRouter(prefix="/v1", tags=["users"], responses=problems())


@router.post(
    "/users/{user_id}/explanations",
    response_model=Explanation,
    responses=problems(404, 409, 501),
)
async def post_explanation(
    user_id: UserId, call: Explaining, body: ExplanationRequest | None = None
) -> Response:
    """Explains a window: what each of its events changed in churn, spend and interests.

    Takes about a minute and counts as 50 requests. A server computes a few at a time; more are
    answered with 503. Closing the connection ends the computation.
    """
    body = body or ExplanationRequest()
    found = await explain_window(call, user_id, body.at_ms, body.model_dump())
    return answers.json_response(found)


async def explain_window(
    call: Call, user_id: str, until_ms: int | None, requested: Mapping[str, Any]
) -> dict[str, Any]:
    """Explains the user's last window that ended by then, and records it in the audit trail.

    requested: for the audit trail. Ends the computation if the caller leaves. Raises ApiError 404,
    501, 503, ExplanationRefusedError, ExplainerBusyError, ExplanationTimeoutError, ServiceError.
    """
    explainer: Explainer | None = call.request.app.state.explainer
    if explainer is None:
        raise ApiError(
            501,
            "not-installed",
            "this server does not explain windows: serve.max_explanations is 0, or the model's"
            " packages are not installed (`liveprofile[demo]` has them). `liveprofile profile"
            " explain` does",
        )
    delta = await _window(call, user_id, until_ms)
    # By such targets an erasure finds the entries of a user (liveprofile/privacy/places.py).
    target = f"{user_id} {delta.window_end_ms}"
    audit = call.audit("window.explain", target, requested)
    entry_id = await call.run(start_entry, audit)
    after: dict[str, Any] = {}
    outcome = "failed"
    try:
        if not (await call.run(consents, user_id)).allows("profiling", call.now_ms):
            raise ExplanationRefusedError("no-consent", "the user does not allow profiling")
        work = explainer.explain(user_id, delta.window_end_ms)
        found = await _while_connected(call.request, work)
        outcome = "done"
        return found
    except ExplanationTimeoutError:
        after["reason"] = "timeout"
        raise
    except (ExplanationRefusedError, ExplainerBusyError) as error:
        outcome = "refused"
        after["reason"] = getattr(error, "reason", "busy")
        raise
    finally:
        completed = audit._replace(after=after or None, outcome=outcome)
        await asyncio.shield(call.run(write_entry, entry_id, completed))


async def _window(call: Call, user_id: str, until_ms: int | None) -> RawDelta:
    """The window to explain. Raises ApiError 404, also for one of an erased user."""
    last_ms = END_OF_TIME_MS if until_ms is None else until_ms
    deltas, erased = await asyncio.gather(
        call.store.deltas(user_id, last_ms, 1), call.run(erasure, user_id)
    )
    if not deltas:
        raise ApiError(404, "unknown-past", "no window of this user before this time: they expire")
    if erased is not None and deltas[0].window_start_ms < erased.before_ms:
        raise unknown_user()
    return deltas[0]


async def _while_connected(
    request: Request, work: Coroutine[Any, Any, dict[str, Any]]
) -> dict[str, Any]:
    """The result of the work, which is cancelled if the client closes the connection."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise UnavailableError("the client has closed the connection")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    # The guard has read the whole body, so the next message is the end of the connection.
    while (await request.receive())["type"] != "http.disconnect":
        pass
