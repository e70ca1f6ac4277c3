"""Campaigns: planning, their users, and what they changed."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import RedirectResponse, Response

from console.access import THROUGH, Reader, Visitor, form_of
from console.rendering import page
from console.views.campaigns import (
    FIELDS,
    campaign_row,
    parse_plan,
    report_view,
    requested_facts,
    summary_facts,
    target_rows,
)
from liveprofile.campaigns.plan import Target
from liveprofile.campaigns.store import CampaignExistsError
from liveprofile.client.analysis_models import CAMPAIGN_PATTERN
from liveprofile.errors import InputError
from liveprofile.rows.users import SEGMENT_BUCKETS
from liveprofile.units import DAY_MS
from serve.keys import Role
from serve.routes.campaigns import MAX_DAYS
from serve.routes.common import SCAN_COST, audit_entry, extend_to_scan
from serve.security import Caller
from serve.store.store import Store
from services import campaigns as service

# Targets are stored in buckets: a page has as many buckets as make up so many users.
PAGE_TARGETS = 100
BUCKETS_AT_ONCE = 8

router = APIRouter(prefix="/campaigns")

Planner = Annotated[Caller, Depends(Visitor(Role.ANALYST, SCAN_COST))]
Reporter = Annotated[Caller, Depends(Visitor(Role.READER, SCAN_COST))]
Name = Annotated[str, Path(pattern=CAMPAIGN_PATTERN)]


@router.get("")
async def campaigns(request: Request, caller: Reader) -> Response:
    return await _list(request, FIELDS)


@router.post("")
async def plan(request: Request, caller: Planner) -> Response:
    """Previews (action preview) or stores a plan. May take long: it reads all profiles."""
    fields = FIELDS | await form_of(request)
    parsed = parse_plan(fields)
    if parsed.request is None:
        return await _list(request, fields, 422, problems=parsed.problems)
    start_ms = parsed.request.start_ms
    name = fields["name"].strip()
    extend_to_scan(request)
    is_dry, requested = fields.get("action") != "plan", service.requested_of(parsed.request)
    audit = audit_entry(request, caller, "campaign.plan", name, requested | THROUGH)
    try:
        wish = service.wish_of(
            name,
            parsed.request,
            request.app.state.clock_ms() if start_ms is None else start_ms,
        )
        summary = await request.app.state.store.scan(
            service.plan, wish, caller.name, requested | THROUGH, audit, dry_run=is_dry
        )
    except (InputError, CampaignExistsError) as error:
        return await _list(request, fields, 422, problems=[str(error)])
    if not is_dry:
        return RedirectResponse(f"/campaigns/{name}", 303)
    return await _list(request, fields, preview=summary_facts(summary))


@router.get("/{name}")
async def campaign(
    request: Request,
    name: Name,
    caller: Reader,
    bucket: Annotated[int, Query(ge=0, lt=SEGMENT_BUCKETS)] = 0,
) -> Response:
    """A plan and a page of its users."""
    extend_to_scan(request)
    store: Store = request.app.state.store
    found = await store.run(service.stored_plan, name)
    targets, next_bucket = await _targets(store, name, bucket)
    return page(
        request,
        "campaigns/plan.html",
        name=name,
        requested=requested_facts(found),
        summary=summary_facts(found.summary),
        targets=target_rows(targets, found.requested),
        bucket=bucket,
        next_bucket=next_bucket,
    )


@router.get("/{name}/report")
async def report(
    request: Request,
    name: Name,
    caller: Reporter,
    days: Annotated[int, Query(ge=1, le=MAX_DAYS)] = 30,
) -> Response:
    """Treatment against control. May take long: it reads the windows of all users."""
    extend_to_scan(request)
    _, results = await request.app.state.store.scan(service.report, name, days * DAY_MS)
    view = report_view(results)
    return page(request, "campaigns/report.html", name=name, days=days, report=view)


async def _targets(store: Store, name: str, bucket: int) -> tuple[list[Target], int | None]:
    """The users of some buckets from this one on, and the bucket after them."""
    found: list[Target] = []
    while bucket < SEGMENT_BUCKETS and len(found) < PAGE_TARGETS:
        several = range(bucket, min(bucket + BUCKETS_AT_ONCE, SEGMENT_BUCKETS))
        reads = (store.run(service.targets, name, each) for each in several)
        for part in await asyncio.gather(*reads):
            found += part
        bucket = several.stop
    return found, bucket if bucket < SEGMENT_BUCKETS else None


async def _list(
    request: Request,
    fields: dict[str, str],
    status: int = 200,
    problems: list[str] | None = None,
    preview: list[tuple[str, str]] | None = None,
) -> Response:
    store: Store = request.app.state.store
    rows = [campaign_row(each) for each in await store.run(service.stored_plans)]
    return page(
        request,
        "campaigns/list.html",
        status,
        rows=rows,
        fields=fields,
        problems=problems or [],
        preview=preview,
    )
