"""Forecasts, funnels and retention."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from liveprofile.client.analysis_models import (
    CohortList,
    FunnelAnswer,
    TrendForecast,
)
from liveprofile.trends.funnel import STEPS
from liveprofile.trends.points import Metric
from liveprofile.units import DAY_MS, HOUR_MS
from serve import answers
from serve.guard import extend_deadline
from serve.keys import Role
from serve.problems import ApiError
from serve.routes.common import DataStore, problems
from serve.routes.trends import Category, EventType, TypeOfTrend, not_counted, series_of
from serve.security import Caller, Require

# A scan reads the rows of all users.
SCAN_COST = 50.0
FORECAST_COST = 10.0
FORECAST_DEADLINE_S = 10.0
MAX_DAYS = 366
MAX_STEPS = 8

Analyst = Annotated[Caller, Depends(Require(Role.READER, SCAN_COST))]
Forecaster = Annotated[Caller, Depends(Require(Role.READER, FORECAST_COST))]
router = APIRouter(prefix="/v1", tags=["trends"])


@router.get("/trends/forecast", response_model=TrendForecast, responses=problems(404))
async def get_forecast(
    request: Request,
    store: DataStore,
    caller: Forecaster,
    metric: Metric = "events",
    category: Category = None,
    event_type: TypeOfTrend = None,
) -> Response:
    """The hours of the day after the last complete one, with an 80 % interval."""
    extend_deadline(request, FORECAST_DEADLINE_S)
    found = await store.forecast(series_of(category, event_type), metric)
    if found is None:
        raise not_counted()
    if found.forecast is None:
        raise ApiError(404, "too-short", f"the series has {found.days} complete days: too few")
    forecast = {
        name: value.tolist() if hasattr(value, "tolist") else value
        for name, value in found.forecast._asdict().items()
    }
    return answers.json_response({"day_ms": found.day_ms, "metric": metric} | forecast)


@router.get("/funnel", response_model=FunnelAnswer, responses=problems())
async def get_funnel(
    request: Request,
    store: DataStore,
    caller: Analyst,
    step: Annotated[
        list[EventType] | None,
        Query(min_length=2, max_length=MAX_STEPS, description="Event types in order."),
    ] = None,
    within_h: Annotated[
        int, Query(ge=1, le=24 * MAX_DAYS, description="Hours from the first step to the last.")
    ] = 168,
    days: Annotated[
        int, Query(ge=1, le=MAX_DAYS, description="Days of first steps, before these hours.")
    ] = 23,
    by: Literal["segment", "category"] = "segment",
    limit: Annotated[int, Query(ge=1, le=10_000, description="Groups.")] = 20,
) -> Response:
    """How many users take the steps of a funnel, from the stored deltas. May take long."""
    extend_deadline(request, request.app.state.scan_deadline_s)
    within_ms = within_h * HOUR_MS
    found = await store.funnel(step or STEPS, within_ms, within_ms + days * DAY_MS, by)
    groups = {
        name: [step._asdict() for step in steps]
        for name, steps in list(found.groups.items())[:limit]
    }
    return answers.json_response(found._asdict() | {"groups": groups})


@router.get("/retention", response_model=CohortList, responses=problems())
async def get_retention(
    request: Request,
    store: DataStore,
    caller: Analyst,
    event_type: Annotated[
        EventType | None, Query(description="A user is active in a week with such an event; any.")
    ] = None,
) -> Response:
    """Which users of a first week come back in the weeks after it. May take long."""
    extend_deadline(request, request.app.state.scan_deadline_s)
    cohorts = await store.retention(event_type)
    return answers.json_response({"items": [cohort._asdict() for cohort in cohorts]})
