"""Campaigns: planning, their users, and what they changed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import ValidationError
from starlette.responses import RedirectResponse, Response

from console.access import THROUGH, Reader, Visitor, form_of
from console.formats import number, points, share, utc, words, written
from console.rendering import page
from liveprofile.campaigns.plan import Target
from liveprofile.campaigns.report import Uplift
from liveprofile.campaigns.store import CampaignExistsError, StoredPlan, find_plan, read_plans
from liveprofile.client.analysis_models import CAMPAIGN_PATTERN, CampaignRequest
from liveprofile.errors import InputError
from liveprofile.rows.users import SEGMENT_BUCKETS
from liveprofile.units import DAY_MS
from serve.keys import Role
from serve.routes.campaigns import MAX_DAYS
from serve.routes.common import SCAN_COST, DataStore, audit_entry, extend_to_scan, to_ms
from serve.security import Caller
from serve.store.store import Store
from services import campaigns as service

# Targets are stored in buckets: a page has as many buckets as make up so many users.
PAGE_TARGETS = 100
BUCKETS_AT_ONCE = 8
FIELDS = {
    "name": "",
    "segments": "",
    "when": "",
    "control_share": "0.1",
    "cost": "0",
    "margin": "1",
    "response": "",
    "budget": "",
    "contacts": "",
    "days": "30",
    "start": "",
    "excluded": "",
}
_NUMBERS = ("control_share", "cost", "margin", "response", "budget")

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
    body, problems = parse_plan(fields)
    if body is None:
        return await _list(request, fields, 422, problems=problems)
    name = fields["name"].strip()
    extend_to_scan(request)
    is_dry, requested = fields.get("action") != "plan", service.requested_of(body)
    audit = audit_entry(request, caller, "campaign.plan", name, requested | THROUGH)
    try:
        wish = service.wish_of(name, body, audit.at_ms)
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
    store: DataStore,
    caller: Reader,
    bucket: Annotated[int, Query(ge=0, lt=SEGMENT_BUCKETS)] = 0,
) -> Response:
    """A plan and a page of its users."""
    extend_to_scan(request)
    found = await store.read(find_plan, name)
    targets, next_bucket = await _targets(store, name, bucket)
    return page(
        request,
        "campaigns/plan.html",
        name=name,
        requested=requested_facts(found),
        summary=summary_facts(found.summary),
        targets=sorted(targets, key=lambda each: (-each.expected_gain, each.user_id)),
        calculation=lambda target: calculation(target, found.requested),
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
    values = {"name": name, "days": days, "results": results, "verdict": verdict(results)}
    return page(request, "campaigns/report.html", **values)


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
    return page(
        request,
        "campaigns/list.html",
        status,
        plans=await request.app.state.store.read(read_plans),
        fields=fields,
        problems=problems or [],
        preview=preview,
    )


def parse_plan(fields: Mapping[str, str]) -> tuple[CampaignRequest | None, list[str]]:
    """A form as the request of the read API, None if a field has a fault, and the faults.

    Empty fields are as if they were not there.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for name in _NUMBERS:
        if text := fields.get(name, "").strip():
            try:
                values[name] = float(text)
            except ValueError:
                problems.append(f"{words(name)}: {text[:40]!r} is not a number")
    if when := fields.get("when", "").strip():
        values["when"] = when
    values["segments"] = _parts(fields.get("segments", "").split(","))
    values["excluded"] = _parts(fields.get("excluded", "").splitlines())
    if contacts := fields.get("contacts", "").strip():
        cap = {"contacts": contacts, "days": fields.get("days", "").strip()}
        if all(text.isascii() and text.isdigit() and len(text) < 6 for text in cap.values()):
            values["cap"] = {name: int(text) for name, text in cap.items()}
        else:
            problems.append("frequency cap: two whole numbers")
    if start := fields.get("start", "").strip():
        try:
            values["start_ms"] = to_ms(datetime.fromisoformat(start))
        except ValueError:
            problems.append(f"start: {start[:40]!r} is not a time")
    if problems:
        return None, problems
    try:
        return CampaignRequest.model_validate(values), []
    except ValidationError as error:
        return None, [_described(each) for each in error.errors()]


def _parts(texts: Iterable[str]) -> list[str]:
    return [text.strip() for text in texts if text.strip()]


def _described(error: Any) -> str:
    return f"{words('.'.join(map(str, error['loc'])))}: {error['msg']}"


def summary_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    effect = summary["detectable_change_of_rate"]
    facts = [
        ("to contact (treatment)", number(summary["treatment"])),
        ("control group", number(summary["control"])),
        ("cost", number(summary["cost"])),
        ("expected gain", number(summary["expected_gain"])),
        ("expected purchase rate", share(summary["expected_purchase_rate"])),
        ("smallest detectable change of the rate", points(effect)),
    ]
    return facts + [
        (f"left out: {reason}", number(users)) for reason, users in summary["left_out"].items()
    ]


def requested_facts(plan: StoredPlan) -> list[tuple[str, str]]:
    """What was asked for, without what is as always."""
    named = {name: value for name, value in plan.requested.items() if name != "start_ms"}
    return [
        ("outcomes count from", f"{utc(plan.campaign.start_ms)} UTC"),
        ("planned", f"{utc(plan.planned_at_ms)} UTC by {plan.planned_by}"),
        *(
            (words(name), _requested(value))
            for name, value in named.items()
            if value not in (None, [], 0)
        ),
    ]


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


def _requested(value: Any) -> str:
    match value:
        case dict():
            return ", ".join(f"{number(each)} {words(name)}" for name, each in value.items())
        case list():
            return ", ".join(map(str, value))
    return written(value)
