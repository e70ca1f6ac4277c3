"""Rules and segments: the definitions in force, their change while jobs run, and members."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response

from liveprofile.rows.users import SEGMENT_BUCKETS
from serve import analysis_models as analyses
from serve import answers
from serve.answers import Paging, invalid_cursor
from serve.api_models import Items, Page
from serve.keys import Scope
from serve.problems import ApiError
from serve.routes.common import (
    KAFKA_COST,
    KAFKA_DEADLINE_S,
    SCAN_COST,
    SCAN_DEADLINE_S,
    UNCHANGED,
    ProfileReader,
    SegmentId,
    SegmentReader,
    TimeMs,
    UserId,
    problems,
)
from serve.security import Call, Require
from services import definitions
from services.definitions import KindName, parse
from services.segments import sizes


def _slow(scope: Scope) -> Any:
    return Depends(Require(scope, KAFKA_COST, KAFKA_DEADLINE_S))


RuleReader = Annotated[Call, _slow(Scope.RULES)]
RuleEditor = Annotated[Call, _slow(Scope.RULES_WRITE)]
DefinitionReader = Annotated[Call, _slow(Scope.SEGMENTS)]
SegmentEditor = Annotated[Call, _slow(Scope.SEGMENTS_WRITE)]
Previewer = Annotated[Call, Depends(Require(Scope.SEGMENTS_WRITE, SCAN_COST, SCAN_DEADLINE_S))]
MemberReader = Annotated[Call, Depends(Require(Scope.LISTS))]
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
async def get_rules(call: RuleReader) -> Response:
    """The rules that jobs use. May take seconds."""
    return await _get(call, "rules")


@router.put("/rules", response_model=analyses.AppliedChanges, responses=problems(412, 428))
async def put_rules(
    body: analyses.RulesRequest,
    call: RuleEditor,
    if_match: IfMatch = None,
    dry_run: DryRun = False,
) -> Response:
    """Replaces all rules; running jobs use them within seconds. Repeating it changes nothing.

    412 if the rules have changed since they were read.
    """
    return await _put(call, "rules", body.rules, if_match, dry_run)


@router.get("/segments", response_model=analyses.SegmentList, responses=UNCHANGED)
async def get_segments(call: DefinitionReader) -> Response:
    """The segment definitions that jobs use. May take seconds."""
    return await _get(call, "segments")


@router.put("/segments", response_model=analyses.AppliedChanges, responses=problems(412, 428))
async def put_segments(
    body: analyses.SegmentsRequest,
    call: SegmentEditor,
    if_match: IfMatch = None,
    dry_run: DryRun = False,
) -> Response:
    """Replaces all segment definitions, as `PUT /v1/rules`.

    A user's segments change at the next window or sweep.
    """
    return await _put(call, "segments", body.segments, if_match, dry_run)


@router.post("/segments:preview", response_model=analyses.PreviewAnswer)
async def preview_segments(
    body: analyses.SegmentsRequest,
    call: Previewer,
    at: Annotated[TimeMs | None, Query(description="Evaluate at this time; now. RFC 3339.")] = None,
) -> Response:
    """Who would enter and leave each segment. Evaluates all profiles and changes nothing."""
    segments = parse("segments", body.segments, call.store.settings)
    at_ms = call.now_ms if at is None else at
    now = await call.run(definitions.in_force, "segments")
    users, found = await call.scan(definitions.preview_segments, now.definitions, segments, at_ms)
    return answers.json_response({"at_ms": at_ms, "users": users, "segments": found})


segments = APIRouter(prefix="/v1", tags=["segments"], responses=problems())


@segments.get("/segments/{segment}/members", response_model=Page[analyses.SegmentMember])
async def get_members(segment: SegmentId, call: MemberReader, paging: Paging) -> Response:
    """The members of a segment, in no particular order. Empty for an unknown segment."""
    after = paging.position(int, str)
    if after is not None and not 0 <= after[0] < SEGMENT_BUCKETS:
        raise invalid_cursor()
    members = await call.store.segment_members(segment, after, paging.limit)
    await call.count_users(len(members))
    items = ({"user_id": row.user_id, "since_ms": row.since_ms} for row in members)
    return answers.page_response(
        items, members, paging.limit, lambda row: (row.bucket, row.user_id)
    )


@segments.get("/segments/{segment}/sizes", response_model=Items[analyses.SizeOfSegment])
async def get_sizes(
    segment: SegmentId, call: SegmentReader, limit: Annotated[int, Query(ge=1, le=1_000)] = 50
) -> Response:
    """The sizes at the latest sweeps, newest first."""
    return answers.json_response({"items": await call.read(sizes, segment, limit)})


@segments.get("/users/{user_id}/segments", response_model=Items[analyses.UserSegment])
async def get_user_segments(user_id: UserId, call: ProfileReader) -> Response:
    """The segments that the user is or was in, since when and why."""
    rows = await call.store.user_segments(user_id)
    items = [row._asdict() | {"reason": orjson.Fragment(row.reason or "{}")} for row in rows]
    return answers.json_response({"items": items})


async def _get(call: Call, kind: KindName) -> Response:
    found = await call.run(definitions.in_force, kind)
    listed = [each.model_dump(mode="json") for each in getattr(found.definitions, kind)]
    answer = {"source": found.source, "version": found.definitions.version, "tag": found.tag}
    return answers.tagged_response(call.request, answer | {kind: listed}, found.tag)


async def _put(
    call: Call,
    kind: KindName,
    tables: Sequence[Mapping[str, Any]],
    if_match: str | None,
    dry_run: bool,
) -> Response:
    if if_match is None:
        detail = "send If-Match with the ETag of the definitions that you have read, or *"
        raise ApiError(428, "no-precondition", detail)
    tag = if_match.strip()
    parsed = parse(kind, tables, call.store.settings)
    requested = {"if_match": if_match, "ids": [each.id for each in parsed]}
    audit = call.audit(f"{kind}.put", kind, requested)
    about = (kind, parsed, call.by, None if tag == "*" else tag.strip('"'), audit)
    applied = await call.run(definitions.apply, *about, dry_run=dry_run)
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
