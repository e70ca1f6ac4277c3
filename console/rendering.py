"""Fills templates. Values are escaped; a template that names an unknown value fails."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from console import formats
from console.access import is_fetch
from serve.keys import Scope
from serve.problems import ApiError

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
# Pages load their own files only. Charts are inline SVG without styles of their own.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "Referrer-Policy": "same-origin",  # addresses of pages contain user ids
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
}

_templates = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_FILTERS = (
    formats.utc,
    formats.number,
    formats.share,
    formats.points,
    formats.words,
    formats.written,
    formats.sentence,
)
_templates.filters.update(
    {each.__name__: each for each in _FILTERS}, quoted=lambda text: quote(text, safe="")
)

# Address, label, and the scope that it needs.
PAGES = (
    ("/alerts", "Alerts", Scope.RISK),
    ("/alerts/cases", "Cases", Scope.RISK),
    ("/user", "Users", Scope.PROFILES),
    ("/definitions/rules", "Rules", Scope.RULES),
    ("/definitions/segments", "Segments", Scope.SEGMENTS),
    ("/campaigns", "Campaigns", Scope.CAMPAIGNS),
    ("/operations", "Operations", Scope.OPERATIONS),
    ("/models", "Models", Scope.OPERATIONS),
)


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A template as an answer, with what every page shows: who is signed in, and where."""
    caller = getattr(request.state, "caller", None)
    scopes = caller.scopes if caller else ()
    pages = [each for each in PAGES if each[2] in scopes]
    about = {"caller": caller, "scopes": scopes, "pages": pages, "path": request.url.path}
    text = render(template, **about, **values)
    return HTMLResponse(text, status, HEADERS)


def render(template: str, **values: Any) -> str:
    return _templates.get_template(template).render(values)


def part_page(
    request: Request,
    part: str,
    heading: str,
    back: str = "/operations",
    status: int = 200,
    **values: Any,
) -> HTMLResponse:
    """A part of a page: alone for console.js, else as a page of its own that leads to `back`."""
    template = part if is_fetch(request) else "part.html"
    return page(request, template, status, part=part, heading=heading, back=back, **values)


def error_page(error: ApiError, request_id: str, fragment: bool = False) -> HTMLResponse:
    """An error as a page, or as a part of one."""
    text = render(
        "parts/error_part.html" if fragment else "error.html",
        status=error.status,
        title=TITLES.get(error.status, "The request failed"),
        detail=error.detail,
        request_id=request_id,
        caller=None,
        path="",
    )
    return HTMLResponse(text, error.status, HEADERS | error.headers)


TITLES = {
    403: "Your key does not allow this",
    404: "There is no such page",
    409: "Somebody else has changed this",
    422: "This input is not valid",
    429: "Too many requests",
    503: "The data cannot be read now",
}
