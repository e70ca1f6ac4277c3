"""Rules and segments: the definitions in force, their change while jobs run, and members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response

from liveprofile.client import analysis_models as analyses
from liveprofile.client.models import Items, Page
from liveprofile.rows.users import SEGMENT_BUCKETS
from liveprofile.segments.members import sizes
from serve import answers
from serve.answers import Paging, invalid_cursor
from serve.guard import extend_deadline
from serve.keys import Role
from serve.problems import ApiError
from serve.routes.common import (
    KAFKA_COST,
    KAFKA_DEADLINE_S,
    UNCHANGED,
    DataStore,
    Reader,
    ScanningAnalyst,
    SegmentId,
    Time,
    UserId,
    audit_entry,
    extend_to_scan,
    problems,
    to_ms,
)
from serve.security import Caller, Require
from serve.store.store import Store
from services import definitions
from services.definitions import DefinitionKind, parse

DefinitionReader = Annotated[Caller, Depends(Require(Role.READER, KAFKA_COST))]
SegmentEditor = Annotated[Caller, Depends(Require(Role.ANALYST, KAFKA_COST))]
RuleEditor = Annotated[Caller, Depends(Require(Role.ADMIN, KAFKA_COST))]
IfMatch = Annotated[
    str | None,
    Header(
        max_length=200,
        description="The ETag of the definitions that this change is based on; * for any.",
    ),
]
DryRun = Annotated[bool, Query(description="Answer with the changes and write nothing.")]

router = APIRouter(prefix="/v1", tags=["definitions"], responses=problems())


@router.get("/rules", response_model=analyses.RuleList, responses=UNCHANGED)
async def get_rules(request: Request, store: DataStore, caller: DefinitionReader) -> Response:
    """The rules that jobs use. May take seconds."""
    return await _get(request, store, "rules")


@router.put("/rules", response_model=analyses.AppliedChanges, responses=problems(412, 428))
async def put_rules(
    request: Request,
    body: analyses.RulesRequest,
    store: DataStore,
    caller: RuleEditor,
    if_match: IfMatch = None,
    dry_run: DryRun = False,
) -> Response:
    """Replaces all rules; running jobs use them within seconds. Repeating it changes nothing.

    412 if the rules have changed since they were read.
    """
    return await _put(request, store, caller, "rules", body.rules, if_match, dry_run)


@router.get("/segments", response_model=analyses.SegmentList, responses=UNCHANGED)
async def get_segments(request: Request, store: DataStore, caller: DefinitionReader) -> Response:
    """The segment definitions that jobs use. May take seconds."""
    return await _get(request, store, "segments")


@router.put("/segments", response_model=analyses.AppliedChanges, responses=problems(412, 428))
async def put_segments(
    request: Request,
    body: analyses.SegmentsRequest,
    store: DataStore,
    caller: SegmentEditor,
    if_match: IfMatch = None,
    dry_run: DryRun = False,
) -> Response:
    """Replaces all segment definitions, as `PUT /v1/rules`.

    A user's segments change at the next window or sweep.
    """
    return await _put(request, store, caller, "segments", body.segments, if_match, dry_run)


@router.post("/segments:preview", response_model=analyses.PreviewAnswer)
async def preview_segments(
    request: Request,
    body: analyses.SegmentsRequest,
    store: DataStore,
    caller: ScanningAnalyst,
    at: Annotated[Time | None, Query(description="Evaluate at this time; now. RFC 3339.")] = None,
) -> Response:
    """Who would enter and leave each segment. Evaluates all profiles and changes nothing."""
    segments = parse("segments", body.segments, request.app.state.store.settings.attributes)
    extend_to_scan(request)
    at_ms = request.app.state.clock_ms() if at is None else to_ms(at)
    users, found = await store.scan(definitions.preview_segments, segments, at_ms)
    return answers.json_response({"at_ms": at_ms, "users": users, "segments": found})


segments = APIRouter(prefix="/v1", tags=["segments"], responses=problems())


@segments.get("/segments/{segment}/members", response_model=Page[analyses.SegmentMember])
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


@segments.get("/segments/{segment}/sizes", response_model=Items[analyses.SizeOfSegment])
async def get_sizes(
    segment: SegmentId,
    store: DataStore,
    caller: Reader,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 50,
) -> Response:
    """The sizes at the latest sweeps, newest first."""
    found = await store.read(sizes, segment, limit)
    return answers.json_response({"items": found})


@segments.get("/users/{user_id}/segments", response_model=Items[analyses.UserSegment])
async def get_user_segments(user_id: UserId, store: DataStore, caller: Reader) -> Response:
    """The segments that the user is or was in, since when and why."""
    rows = await store.user_segments(user_id)
    items = [row._asdict() | {"reason": orjson.Fragment(row.reason or "{}")} for row in rows]
    return answers.json_response({"items": items})


async def _get(request: Request, store: Store, kind: DefinitionKind) -> Response:
    extend_deadline(request, KAFKA_DEADLINE_S)
    found = await store.run(definitions.in_force, kind)
    listed = [each.model_dump(mode="json") for each in getattr(found.definitions, kind)]
    answer = {"source": found.source, "version": found.definitions.version, "tag": found.tag}
    return answers.tagged_response(request, answer | {kind: listed}, found.tag)


async def _put(
    request: Request,
    store: Store,
    caller: Caller,
    kind: DefinitionKind,
    tables: Sequence[Mapping[str, Any]],
    if_match: str | None,
    dry_run: bool,
) -> Response:
    expected_tag = _tag(if_match)
    parsed = parse(kind, tables, request.app.state.store.settings.attributes)
    extend_deadline(request, KAFKA_DEADLINE_S)
    requested = {"if_match": if_match, "ids": [each.id for each in parsed]}
    audit = audit_entry(request, caller, f"{kind}.put", kind, requested)
    applied = await store.run(
        definitions.apply, kind, parsed, caller.name, expected_tag, audit, dry_run=dry_run
    )
    changes = [
        {
            "id": change.name,
            "what": change.kind,
            "version": None if change.definition is None else change.definition.version,
        }
        for change in applied.changes
    ]
    answer = {"dry_run": dry_run, "tag": applied.tag, "changes": changes}
    return answers.json_response(answer, {"ETag": f'"{applied.tag}"'})


def _tag(if_match: str | None) -> str | None:
    """The tag that the definitions must have; None: any. Raises ApiError 428."""
    if if_match is None:
        raise ApiError(
            428,
            "no-precondition",
            "send If-Match with the ETag of the definitions that you have read, or *",
        )
    text = if_match.strip()
    return None if text == "*" else text.strip('"')
