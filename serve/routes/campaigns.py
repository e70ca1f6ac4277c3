"""Campaigns: plans with a control group, their users, and what they changed."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from starlette.responses import Response

from liveprofile.rows.users import SEGMENT_BUCKETS
from liveprofile.units import DAY_MS
from serve import analysis_models as analyses
from serve import answers
from serve.answers import Cursor, PageQuery, cursor_of, invalid_cursor
from serve.api_models import Items, Page
from serve.keys import Scope
from serve.routes.common import SCAN_COST, SCAN_DEADLINE_S, problems
from serve.security import Call, Require
from services.campaigns import campaigns
from services.campaigns.report import report_as_json
from services.campaigns.request import CAMPAIGN_PATTERN, CampaignRequest
from services.campaigns.store import find_plan, plan_as_json, read_plans

MAX_DAYS = 366

CampaignName = Annotated[str, Path(pattern=CAMPAIGN_PATTERN, description="Name of the campaign.")]

Reader = Annotated[Call, Depends(Require(Scope.CAMPAIGNS))]
Reporter = Annotated[Call, Depends(Require(Scope.CAMPAIGNS, SCAN_COST, SCAN_DEADLINE_S))]
Planner = Annotated[Call, Depends(Require(Scope.CAMPAIGNS_WRITE, SCAN_COST, SCAN_DEADLINE_S))]
ListReader = Annotated[Call, Depends(Require(Scope.LISTS))]

router = APIRouter(prefix="/v1", tags=["campaigns"], responses=problems())


@router.get("/campaigns", response_model=Items[analyses.CampaignAnswer])
async def get_campaigns(call: Reader) -> Response:
    """The planned campaigns, newest start first."""
    return answers.json_response({"items": [*map(plan_as_json, await call.read(read_plans))]})


@router.get("/campaigns/{name}", response_model=analyses.CampaignAnswer, responses=problems(404))
async def get_campaign(name: CampaignName, call: Reader) -> Response:
    """A campaign with the summary of its plan."""
    return answers.json_response(plan_as_json(await call.read(find_plan, name)))


@router.put("/campaigns/{name}", response_model=analyses.PlanSummary, responses=problems(409))
async def put_campaign(
    name: CampaignName,
    body: CampaignRequest,
    call: Planner,
    dry_run: Annotated[bool, Query(description="Plan and store nothing.")] = False,
) -> Response:
    """Chooses the users with the most expected gain and a control group. May take long.

    409 if the campaign is planned already: a plan does not change.
    """
    requested = campaigns.requested_of(body)
    audit = call.audit("campaign.plan", name, requested)
    wish = campaigns.wish_of(name, body, audit.at_ms)
    summary = await call.scan(campaigns.plan, wish, call.by, requested, audit, dry_run=dry_run)
    return answers.json_response({"name": name, "start_ms": wish.campaign.start_ms} | summary)


@router.get(
    "/campaigns/{name}/targets",
    response_model=Page[analyses.CampaignTarget],
    responses=problems(404),
)
async def get_targets(name: CampaignName, call: ListReader, cursor: Cursor = None) -> Response:
    """The users of a plan in 64 pages, in no particular order."""
    after = PageQuery(1, cursor).position(int)
    bucket = 0 if after is None else int(after[0]) + 1
    if not 0 <= bucket < SEGMENT_BUCKETS:
        raise invalid_cursor()
    targets = await call.run(campaigns.targets, name, bucket)
    await call.count_users(len(targets))
    next_cursor = cursor_of((bucket,)) if bucket + 1 < SEGMENT_BUCKETS else None
    return answers.json_response({"items": targets, "next_cursor": next_cursor})


@router.get(
    "/campaigns/{name}/report", response_model=analyses.CampaignReport, responses=problems(404)
)
async def get_report(
    name: CampaignName,
    call: Reporter,
    days: Annotated[int, Query(ge=1, le=MAX_DAYS, description="Of outcomes.")] = 30,
) -> Response:
    """Purchases and spend of treatment and control, with 95 % intervals. May take long."""
    plan, results = await call.scan(campaigns.report, name, days * DAY_MS)
    about = plan.campaign
    return answers.json_response(report_as_json(about, about.start_ms + days * DAY_MS, results))
