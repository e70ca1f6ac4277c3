"""Signing in with an API key, and out."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import RedirectResponse, Response

from console.access import COOKIE, HOME, Visitor, bearer, form_of, local_path, require_same_origin
from console.rendering import PAGES, page
from serve.problems import ApiError
from serve.security import Call

router = APIRouter()


@router.get("/")
async def home(call: Annotated[Call, Depends(Visitor(None))]) -> Response:
    """The first page that the key may read."""
    for address, _, scope in PAGES:
        if scope in call.caller.scopes:
            return RedirectResponse(address, 303)
    raise ApiError(403, "forbidden", "the key has no scope that a page of the console needs")


@router.get("/sign-in")
async def form(request: Request, next: str = HOME) -> Response:
    return page(request, "sign_in.html", next=local_path(next), problem="")


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Starts a session of a valid key; a wrong one is told on the form."""
    require_same_origin(request)
    fields = await form_of(request)
    key, target = fields.get("key", "").strip(), local_path(fields.get("next", HOME))
    try:
        caller = await request.app.state.gatekeeper.identify(request, bearer(key))
    except ApiError as error:
        if error.status != 401:
            raise
        problem = "This key is not valid: it is wrong, expired or revoked."
        return page(request, "sign_in.html", 401, next=target, problem=problem)
    request.state.key_name = caller.name
    request.app.state.gatekeeper.charge(caller, 1.0)
    answer = RedirectResponse(target, 303)
    settings = request.app.state.settings
    answer.set_cookie(
        COOKIE,
        await request.app.state.sessions.open(caller.key_id),
        httponly=True,
        samesite="strict",
        # Behind a proxy with TLS the server itself has none; browsers accept this on loopback too.
        secure=settings.uses_tls or settings.allow_plaintext,
    )
    return answer


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    require_same_origin(request)
    await request.app.state.sessions.close(request.cookies.get(COOKIE, ""))
    answer = RedirectResponse("/sign-in", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
