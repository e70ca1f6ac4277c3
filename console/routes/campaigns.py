"""Campaigns: their plans, and what they changed."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from starlette.responses import Response

from console.access import Visitor
from console.formats import facts, points
from console.rendering import page
from liveprofile.units import DAY_MS
from serve.keys import Scope
from serve.routes.campaigns import MAX_DAYS
from serve.routes.common import SCAN_COST, SCAN_DEADLINE_S
from serve.security import Call
from services.campaigns import campaigns as service
from services.campaigns.report import Uplift
from services.campaigns.request import CAMPAIGN_PATTERN
from services.campaigns.store import find_plan, read_plans

router = APIRouter(prefix="/campaigns")

Reader = Annotated[Call, Depends(Visitor(Scope.CAMPAIGNS))]
Scanner = Annotated[Call, Depends(Visitor(Scope.CAMPAIGNS, SCAN_COST, SCAN_DEADLINE_S))]
Name = Annotated[str, Path(pattern=CAMPAIGN_PATTERN)]


@router.get("")
async def campaigns(call: Reader) -> Response:
    return page(call.request, "campaigns/list.html", plans=await call.read(read_plans))


@router.get("/{name}")
async def campaign(name: Name, call: Reader) -> Response:
    found = await call.read(find_plan, name)
    requested = {key: each for key, each in found.requested.items() if each and key != "start_ms"}
    values = {"requested": facts(requested), "summary": facts(found.summary)}
    return page(call.request, "campaigns/plan.html", name=name, planned=found, **values)


@router.get("/{name}/report")
async def report(
    name: Name, call: Scanner, days: Annotated[int, Query(ge=1, le=MAX_DAYS)] = 30
) -> Response:
    """Treatment against control. May take long: it reads the windows of all users."""
    _, results = await call.scan(service.report, name, days * DAY_MS)
    values = {"name": name, "days": days, "results": results, "verdict": verdict(results)}
    return page(call.request, "campaigns/report.html", **values)


def verdict(results: Mapping[str, Uplift]) -> str:
    if not results:
        return "The plan has no users."
    difference = results["all"].rate_difference
    if difference is None:
        return "There is no control group, so the effect cannot be measured."
    value, low, high = map(points, difference)
    change = f"purchase rate changed by {value} ({low} to {high})"
    if difference.low <= 0 <= difference.high:
        return f"No clear effect: the {change}, and the interval includes zero."
    return f"The {change}."
