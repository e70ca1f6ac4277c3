"""Trends: counts by hour or day with the range that earlier weeks let expect."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from liveprofile.client.analysis_models import (
    Trend,
)
from liveprofile.trends.counts import ALL, CATEGORY, Series
from liveprofile.trends.points import Metric
from liveprofile.wire.tokens import EVENT_TYPES
from serve import answers
from serve.problems import ApiError
from serve.routes.common import DataStore, Reader, problems

MAX_POINTS = 24 * 92
MAX_CATEGORY_CHARS = 256
EventType = Literal[EVENT_TYPES]  # type: ignore[valid-type]

Category = Annotated[
    str | None,
    Query(max_length=MAX_CATEGORY_CHARS, description="All, if it is missing."),
]
TypeOfTrend = Annotated[EventType | None, Query(description="All; with a category, purchase.")]

router = APIRouter(prefix="/v1", tags=["trends"])


@router.get("/trends", response_model=Trend, responses=problems(404))
async def get_trend(
    store: DataStore,
    caller: Reader,
    by: Literal["hour", "day"] = "hour",
    metric: Metric = "events",
    count: Annotated[int, Query(ge=1, le=MAX_POINTS, description="Hours or days.")] = 168,
    category: Category = None,
    event_type: TypeOfTrend = None,
) -> Response:
    """The last complete hours or days of all events, of a type, or of a type in a category."""
    trend = await store.trend(series_of(category, event_type), by, metric, count)
    if trend is None:
        raise not_counted()
    points = [point._asdict() for point in trend.points]
    return answers.json_response(trend._asdict() | {"points": points})


def series_of(category: str | None, event_type: str | None) -> Series:
    if category is None:
        return Series(ALL, "", event_type or ALL)
    return Series(CATEGORY, category, event_type or "purchase")


def not_counted() -> ApiError:
    return ApiError(
        404, "not-counted", "nothing has been counted: run `liveprofile shop trends update`"
    )
