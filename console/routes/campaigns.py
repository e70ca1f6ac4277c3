"""Campaigns: planning, their users, and what they changed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import ValidationError
from starlette.responses import RedirectResponse, Response

from console.access import Planner, Reader, Scanner, SlowReader, form_of
from console.formats import facts, number, points, share, words
from console.rendering import page
from liveprofile.campaigns.plan import Target
from liveprofile.campaigns.report import Uplift
from liveprofile.campaigns.store import CampaignExistsError, find_plan, read_plans
from liveprofile.client.analysis_models import CAMPAIGN_PATTERN, CampaignRequest
from liveprofile.errors import InputError
from liveprofile.rows.users import SEGMENT_BUCKETS
from liveprofile.units import DAY_MS
from serve.routes.campaigns import MAX_DAYS
from serve.routes.common import to_ms
from serve.security import Call
from services import campaigns as service

# Targets are stored in buckets: a page has as many buckets as make up so many users.
PAGE_TARGETS = 100
BUCKETS_AT_ONCE = 8
_NUMBERS = ("control_share", "cost", "margin", "response", "budget")
FIELDS = dict.fromkeys(("name", "segments", "when", *_NUMBERS, "contacts", "start", "excluded"), "")
FIELDS |= {"control_share": "0.1", "cost": "0", "margin": "1", "days": "30"}

router = APIRouter(prefix="/campaigns")

Name = Annotated[str, Path(pattern=CAMPAIGN_PATTERN)]


@router.get("")
async def campaigns(call: Reader) -> Response:
    return await _list(call, FIELDS)


@router.post("")
async def plan(call: Planner) -> Response:
    """Previews (action preview) or stores a plan. May take long: it reads all profiles."""
    fields = FIELDS | await form_of(call.request)
    name, is_dry = fields["name"].strip(), fields.get("action") != "plan"
    try:
        body = parse_plan(fields)
        requested = service.requested_of(body)
        audit = call.audit("campaign.plan", name, requested)
        wish = service.wish_of(name, body, audit.at_ms)
        summary = await call.scan(service.plan, wish, call.by, requested, audit, dry_run=is_dry)
    except (InputError, CampaignExistsError) as error:
        return await _list(call, fields, 422, problems=str(error).splitlines())
    if not is_dry:
        return RedirectResponse(f"/campaigns/{name}", 303)
    return await _list(call, fields, preview=list(facts(summary)))


@router.get("/{name}")
async def campaign(
    name: Name, call: SlowReader, bucket: Annotated[int, Query(ge=0, lt=SEGMENT_BUCKETS)] = 0
) -> Response:
    """A plan and a page of its users."""
    found = await call.read(find_plan, name)
    targets, next_bucket = await _targets(call, name, bucket)
    return page(
        call.request,
        "campaigns/plan.html",
        name=name,
        planned=found,
        requested=facts(
            {key: each for key, each in found.requested.items() if each and key != "start_ms"}
        ),
        summary=facts(found.summary),
        targets=sorted(targets, key=lambda each: (-each.expected_gain, each.user_id)),
        calculation=lambda target: calculation(target, found.requested),
        bucket=bucket,
        next_bucket=next_bucket,
    )


@router.get("/{name}/report")
async def report(
    name: Name, call: Scanner, days: Annotated[int, Query(ge=1, le=MAX_DAYS)] = 30
) -> Response:
    """Treatment against control. May take long: it reads the windows of all users."""
    _, results = await call.scan(service.report, name, days * DAY_MS)
    values = {"name": name, "days": days, "results": results, "verdict": verdict(results)}
    return page(call.request, "campaigns/report.html", **values)


async def _targets(call: Call, name: str, bucket: int) -> tuple[list[Target], int | None]:
    """The users of some buckets from this one on, and the bucket after them."""
    found: list[Target] = []
    while bucket < SEGMENT_BUCKETS and len(found) < PAGE_TARGETS:
        several = range(bucket, min(bucket + BUCKETS_AT_ONCE, SEGMENT_BUCKETS))
        for part in await asyncio.gather(
            *(call.run(service.targets, name, each) for each in several)
        ):
            found += part
        bucket = several.stop
    return found, bucket if bucket < SEGMENT_BUCKETS else None


async def _list(
    call: Call,
    fields: Mapping[str, str],
    status: int = 200,
    problems: Iterable[str] = (),
    preview: Sequence[tuple[str, str]] | None = None,
) -> Response:
    values = {"fields": fields, "problems": problems, "preview": preview}
    plans = await call.read(read_plans)
    return page(call.request, "campaigns/list.html", status, plans=plans, **values)


def parse_plan(fields: Mapping[str, str]) -> CampaignRequest:
    """The request of a form. Raises InputError with a line for each fault."""
    given = {name: text.strip() for name, text in fields.items() if text.strip()}
    values: dict[str, Any] = {name: given[name] for name in (*_NUMBERS, "when") if name in given}
    lists = {"segments": given.get("segments", "").split(",")}
    lists["excluded"] = given.get("excluded", "").splitlines()
    for name, texts in lists.items():
        values[name] = [text.strip() for text in texts if text.strip()]
    if "contacts" in given:
        values["cap"] = {name: given.get(name, "") for name in ("contacts", "days")}
    if start := given.get("start"):
        try:
            values["start_ms"] = to_ms(datetime.fromisoformat(start))
        except ValueError:
            raise InputError(f"start: {start[:40]!r} is not a time") from None
    try:
        return CampaignRequest.model_validate(values, strict=False)
    except ValidationError as error:
        faults = [(".".join(map(str, each["loc"])), each["msg"]) for each in error.errors()]
        raise InputError("\n".join(f"{words(name)}: {told}" for name, told in faults)) from None


def calculation(target: Target, requested: Mapping[str, Any]) -> str:
    """What the expected gain of a user is made of."""
    response = requested.get("response")
    chance = 1 - target.churn if response is None else response
    parts = [f"expected spend {number(target.expected_spend)}", f"× {share(chance)} response"]
    if (margin := requested.get("margin", 1.0)) != 1:
        parts.append(f"× {share(margin)} margin")
    if cost := requested.get("cost", 0.0):
        parts.append(f"− {number(cost)} for the contact")
    return " ".join(parts)


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
