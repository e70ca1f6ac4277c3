"""Campaigns: plans with a control group, their users, and what they changed."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from liveprofile.campaigns.plan import Cap, Economics, condition_of
from liveprofile.campaigns.plan_store import plan_as_json
from liveprofile.campaigns.planning import Wish, campaign_of, report_as_json
from liveprofile.client.analysis_models import (
    CAMPAIGN_PATTERN,
    CampaignAnswer,
    CampaignList,
    CampaignReport,
    CampaignRequest,
    CampaignTarget,
    PlanSummary,
)
from liveprofile.client.models import (
    Page,
)
from liveprofile.rows.users import SEGMENT_BUCKETS
from liveprofile.units import DAY_MS
from serve import answers
from serve.guard import extend_deadline
from serve.keys import Role
from serve.paging import MAX_CURSOR_CHARS, PageQuery, cursor_of, invalid_cursor
from serve.routes.common import DataStore, Reader, audit_entry, problems
from serve.security import Caller, Require

SCAN_COST = 50.0
MAX_DAYS = 366

Planner = Annotated[Caller, Depends(Require(Role.ANALYST, SCAN_COST))]
Reporter = Annotated[Caller, Depends(Require(Role.READER, SCAN_COST))]
CampaignName = Annotated[str, Path(pattern=CAMPAIGN_PATTERN, description="Name of the campaign.")]

router = APIRouter(prefix="/v1", tags=["campaigns"])


@router.get("/campaigns", response_model=CampaignList, responses=problems())
async def get_campaigns(store: DataStore, caller: Reader) -> Response:
    """The campaigns that were planned through the API, newest start first."""
    return answers.json_response(
        {"items": [plan_as_json(plan) for plan in await store.campaigns()]}
    )


@router.get("/campaigns/{name}", response_model=CampaignAnswer, responses=problems(404))
async def get_campaign(name: CampaignName, store: DataStore, caller: Reader) -> Response:
    """A campaign with the summary of its plan."""
    return answers.json_response(plan_as_json(await store.campaign(name)))


@router.put("/campaigns/{name}", response_model=PlanSummary, responses=problems(409))
async def put_campaign(
    request: Request,
    name: CampaignName,
    body: CampaignRequest,
    store: DataStore,
    caller: Planner,
    dry_run: Annotated[bool, Query(description="Plan and store nothing.")] = False,
) -> Response:
    """Chooses the users with the most expected gain and a control group. May take long.

    409 if the campaign is planned already: a plan does not change.
    """
    now_ms = request.app.state.clock_ms()
    start_ms = now_ms if body.start_ms is None else body.start_ms
    wish = wish_of(name, body, start_ms)
    extend_deadline(request, request.app.state.scan_deadline_s)
    audit = None
    if not dry_run:
        audit = audit_entry(request, caller, "campaign.plan", name, requested_of(body))
    summary = await store.plan_campaign(wish, audit)
    return answers.json_response({"name": name, "start_ms": start_ms} | summary)


@router.get(
    "/campaigns/{name}/targets", response_model=Page[CampaignTarget], responses=problems(404)
)
async def get_targets(
    name: CampaignName,
    store: DataStore,
    caller: Reader,
    cursor: Annotated[
        str | None, Query(max_length=MAX_CURSOR_CHARS, description="next_cursor of the page before")
    ] = None,
) -> Response:
    """The users of a plan in 64 pages, in no particular order."""
    after = PageQuery(1, cursor).position(int)
    bucket = 0 if after is None else int(after[0]) + 1
    if not 0 <= bucket < SEGMENT_BUCKETS:
        raise invalid_cursor()
    targets = await store.campaign_targets(name, bucket)
    next_cursor = cursor_of((bucket,)) if bucket + 1 < SEGMENT_BUCKETS else None
    items = [target._asdict() for target in targets]
    return answers.json_response({"items": items, "next_cursor": next_cursor})


@router.get("/campaigns/{name}/report", response_model=CampaignReport, responses=problems(404))
async def get_report(
    request: Request,
    name: CampaignName,
    store: DataStore,
    caller: Reporter,
    days: Annotated[int, Query(ge=1, le=MAX_DAYS, description="Of outcomes.")] = 30,
) -> Response:
    """Purchases and spend of treatment and control, with 95 % intervals. May take long."""
    extend_deadline(request, request.app.state.scan_deadline_s)
    plan, results = await store.campaign_report(name, days * DAY_MS)
    about = plan.campaign
    return answers.json_response(report_as_json(about, about.start_ms + days * DAY_MS, results))


def wish_of(name: str, body: CampaignRequest, start_ms: int) -> Wish:
    """Raises InputError for a name or a condition."""
    cap = body.cap and Cap(contacts=body.cap.contacts, span_ms=body.cap.days * DAY_MS)
    return Wish(
        campaign_of(
            name=name,
            start_ms=start_ms,
            control_share=body.control_share,
            cost=body.cost,
            cap=cap,
        ),
        Economics(body.cost, body.margin, body.response, body.budget),
        None if body.when is None else condition_of(body.when, "when"),
        frozenset(body.segments),
        frozenset(body.excluded),
    )


def requested_of(body: CampaignRequest) -> dict[str, Any]:
    """What is kept of a request: without ids of users."""
    return body.model_dump(exclude={"excluded"}) | {"excluded": len(body.excluded)}
