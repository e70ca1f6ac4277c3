"""Which events of a window moved a user's values."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from console.access import THROUGH, Visitor
from console.forms import form_of
from console.rendering import part_page
from console.views.explanation import explanation_page
from liveprofile.client.explanation_models import Explanation
from liveprofile.client.models import MAX_ID_CHARS
from liveprofile.errors import LiveprofileError
from serve.keys import Role
from serve.problems import ApiError, to_api_error
from serve.routes.explanations import COST, explain_window
from serve.security import Caller
from serve.store.statements import END_OF_TIME_MS

PART = "parts/explanation.html"

router = APIRouter()


@router.post("/user/explain")
async def explain(
    request: Request, caller: Annotated[Caller, Depends(Visitor(Role.ANALYST, COST))]
) -> Response:
    """Explains the window of a user that ends at a time: fields id, end. Takes about a minute."""
    fields = await form_of(request)
    user_id, end_ms = fields.get("id", ""), _time_ms(fields.get("end", ""))
    if not 0 < len(user_id) <= MAX_ID_CHARS:
        raise ApiError(422, "invalid-request", f"id: 1 to {MAX_ID_CHARS} characters")
    request.state.user_id = user_id
    requested = {"at_ms": end_ms} | THROUGH
    values = {"heading": f"Window of user {user_id}", "back": f"/user?id={quote(user_id, safe='')}"}
    try:
        found = await explain_window(request, caller, user_id, end_ms, requested)
    except LiveprofileError as error:
        answer = to_api_error(error)
        return part_page(request, PART, status=answer.status, refused=answer.detail, **values)
    page = explanation_page(Explanation.model_validate(found))
    return part_page(request, PART, refused="", explanation=page, **values)


def _time_ms(text: str) -> int:
    """Raises ApiError 422."""
    try:
        time_ms = int(text)
    except ValueError:
        time_ms = -1
    if not 0 <= time_ms <= END_OF_TIME_MS:
        raise ApiError(422, "invalid-request", "end: the time at which a window ends, in ms")
    return time_ms
