"""Counts by hour or day with their expected range, and forecasts."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from liveprofile.wire.tokens import EVENT_TYPES
from serve import analysis_models as analyses
from serve import answers
from serve.keys import Scope
from serve.problems import ApiError
from serve.routes.common import SCAN_COST, SCAN_DEADLINE_S, problems
from serve.security import Call, Require
from services.trends import trends
from services.trends.count_store import Series
from services.trends.points import Metric

MAX_POINTS = 24 * 92
MAX_CATEGORY_CHARS = 256
FORECAST_COST = 10.0
FORECAST_DEADLINE_S = 10.0
EventType = Literal[EVENT_TYPES]  # type: ignore[valid-type]

Category = Annotated[
    str | None,
    Query(max_length=MAX_CATEGORY_CHARS, description="All, if it is missing."),
]
TypeOfTrend = Annotated[EventType | None, Query(description="All; with a category, purchase.")]

Reader = Annotated[Call, Depends(Require(Scope.TRENDS))]
Forecaster = Annotated[Call, Depends(Require(Scope.TRENDS, FORECAST_COST, FORECAST_DEADLINE_S))]
Scanner = Annotated[Call, Depends(Require(Scope.TRENDS, SCAN_COST, SCAN_DEADLINE_S))]

router = APIRouter(prefix="/v1", tags=["trends"], responses=problems())


@router.get("/trends", response_model=analyses.Trend, responses=problems(404))
async def get_trend(
    call: Reader,
    by: Literal["hour", "day"] = "hour",
    metric: Metric = "events",
    count: Annotated[int, Query(ge=1, le=MAX_POINTS, description="Hours or days.")] = 168,
    category: Category = None,
    event_type: TypeOfTrend = None,
) -> Response:
    """The last complete hours or days of all events, of a type, or of a type in a category."""
    trend = await call.run(trends.trend, Series.of(category, event_type), by, metric, count)
    if trend is None:
        raise not_counted()
    return answers.json_response(trend)


@router.get("/trends/forecast", response_model=analyses.TrendForecast, responses=problems(404))
async def get_forecast(
    call: Forecaster,
    metric: Metric = "events",
    category: Category = None,
    event_type: TypeOfTrend = None,
) -> Response:
    """The hours of the day after the last complete one, with an 80 % interval."""
    found = await call.run(trends.forecast, Series.of(category, event_type), metric)
    if found is None:
        raise not_counted()
    if found.forecast is None:
        raise ApiError(404, "too-short", f"the series has {found.days} complete days: too few")
    about = {"day_ms": found.day_ms, "metric": metric}
    return answers.json_response(about | found.forecast._asdict())


def not_counted() -> ApiError:
    return ApiError(
        404, "not-counted", "nothing has been counted: run `liveprofile shop trends update`"
    )
