"""Rules and segments: the definitions in force, and their change while jobs run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response

from liveprofile.client.analysis_models import (
    AppliedChanges,
    PreviewAnswer,
    RuleList,
    RulesRequest,
    SegmentList,
    SegmentsRequest,
)
from liveprofile.feeds.definition_changes import InForce
from serve import answers
from serve.definitions import DefinitionKind, parse
from serve.guard import extend_deadline
from serve.keys import Role
from serve.problems import ApiError
from serve.routes.common import DataStore, Time, audit_entry, problems, to_ms
from serve.security import Caller, Require
from serve.store.protocol import Store

# Each request makes its own connections to Kafka.
COST = 10.0
SCAN_COST = 50.0
DEADLINE_S = 15.0

DefinitionReader = Annotated[Caller, Depends(Require(Role.READER, COST))]
SegmentEditor = Annotated[Caller, Depends(Require(Role.ANALYST, COST))]
SegmentPreviewer = Annotated[Caller, Depends(Require(Role.ANALYST, SCAN_COST))]
RuleEditor = Annotated[Caller, Depends(Require(Role.ADMIN, COST))]
IfMatch = Annotated[
    str | None,
    Header(
        max_length=200,
        description="The ETag of the definitions that this change is based on; * for any.",
    ),
]
DryRun = Annotated[bool, Query(description="Answer with the changes and write nothing.")]
UNCHANGED = {304: {"description": "Not modified"}}

router = APIRouter(prefix="/v1", tags=["definitions"])


@router.get("/rules", response_model=RuleList, responses=UNCHANGED | problems())
async def get_rules(request: Request, store: DataStore, caller: DefinitionReader) -> Response:
    """The rules that jobs use. May take seconds."""
    return await _get(request, store, "rules")


@router.put("/rules", response_model=AppliedChanges, responses=problems(412, 428))
async def put_rules(
    request: Request,
    body: RulesRequest,
    store: DataStore,
    caller: RuleEditor,
    if_match: IfMatch = None,
    dry_run: DryRun = False,
) -> Response:
    """Replaces all rules; running jobs use them within seconds. Repeating it changes nothing.

    412 if the rules have changed since they were read.
    """
    return await _put(request, store, caller, "rules", body.rules, if_match, dry_run)


@router.get("/segments", response_model=SegmentList, responses=UNCHANGED | problems())
async def get_segments(request: Request, store: DataStore, caller: DefinitionReader) -> Response:
    """The segment definitions that jobs use. May take seconds."""
    return await _get(request, store, "segments")


@router.put("/segments", response_model=AppliedChanges, responses=problems(412, 428))
async def put_segments(
    request: Request,
    body: SegmentsRequest,
    store: DataStore,
    caller: SegmentEditor,
    if_match: IfMatch = None,
    dry_run: DryRun = False,
) -> Response:
    """Replaces all segment definitions, as `PUT /v1/rules`.

    A user's segments change at the next window or sweep.
    """
    return await _put(request, store, caller, "segments", body.segments, if_match, dry_run)


@router.post("/segments:preview", response_model=PreviewAnswer, responses=problems())
async def preview_segments(
    request: Request,
    body: SegmentsRequest,
    store: DataStore,
    caller: SegmentPreviewer,
    at: Annotated[Time | None, Query(description="Evaluate at this time; now. RFC 3339.")] = None,
) -> Response:
    """Who would enter and leave each segment. Evaluates all profiles and changes nothing."""
    segments = parse("segments", body.segments, request.app.state.attributes)
    extend_deadline(request, request.app.state.scan_deadline_s)
    at_ms = request.app.state.clock_ms() if at is None else to_ms(at)
    users, found = await store.preview_segments(segments, at_ms)
    items = [each._asdict() for each in found]
    return answers.json_response({"at_ms": at_ms, "users": users, "segments": items})


async def _get(request: Request, store: Store, kind: DefinitionKind) -> Response:
    extend_deadline(request, DEADLINE_S)
    found: InForce = await store.definitions(kind)
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
    definitions = parse(kind, tables, request.app.state.attributes)
    extend_deadline(request, DEADLINE_S)
    audit = None
    if not dry_run:
        requested = {"if_match": if_match, "ids": [each.id for each in definitions]}
        audit = audit_entry(request, caller, f"{kind}.put", kind, requested)
    applied = await store.put_definitions(kind, definitions, expected_tag, audit)
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
