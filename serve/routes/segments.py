"""Segments: their members and sizes, and the segments of a user."""

from __future__ import annotations

from typing import Annotated

import orjson
from fastapi import APIRouter, Query
from starlette.responses import Response

from liveprofile.client.analysis_models import (
    SegmentMember,
    SizeList,
    UserSegmentList,
)
from liveprofile.client.models import (
    Page,
)
from liveprofile.rows.users import SEGMENT_BUCKETS
from serve import answers
from serve.paging import Paging, invalid_cursor
from serve.routes.common import DataStore, Reader, SegmentId, UserId, problems

router = APIRouter(prefix="/v1", tags=["segments"])


@router.get("/segments/{segment}/members", response_model=Page[SegmentMember], responses=problems())
async def get_members(
    segment: SegmentId, store: DataStore, paging: Paging, caller: Reader
) -> Response:
    """The members of a segment, in no particular order. Empty for an unknown segment."""
    after = paging.position(int, str)
    if after is not None and not 0 <= after[0] < SEGMENT_BUCKETS:
        raise invalid_cursor()
    members = await store.segment_members(segment, after, paging.limit)
    items = ({"user_id": row.user_id, "since_ms": row.since_ms} for row in members)
    return answers.page_response(
        items, members, paging.limit, lambda row: (row.bucket, row.user_id)
    )


@router.get("/segments/{segment}/sizes", response_model=SizeList, responses=problems())
async def get_sizes(
    segment: SegmentId,
    store: DataStore,
    caller: Reader,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 50,
) -> Response:
    """The sizes at the latest sweeps, newest first."""
    sizes = await store.segment_sizes(segment, limit)
    return answers.json_response({"items": [size._asdict() for size in sizes]})


@router.get("/users/{user_id}/segments", response_model=UserSegmentList, responses=problems())
async def get_user_segments(user_id: UserId, store: DataStore, caller: Reader) -> Response:
    """The segments that the user is or was in, since when and why."""
    rows = await store.user_segments(user_id)
    items = [row._asdict() | {"reason": orjson.Fragment(row.reason or "{}")} for row in rows]
    return answers.json_response({"items": items})
