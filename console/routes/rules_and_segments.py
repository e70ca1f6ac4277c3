"""Rules and segments: those in force, their change while jobs run, and proposed rules."""

from __future__ import annotations

import asyncio
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as PathParameter
from starlette.responses import RedirectResponse, Response

from console.access import Visitor, form_of
from console.rendering import page, part_page
from liveprofile.errors import LiveprofileError
from liveprofile.rules.definition_kinds import Definition, DefinitionProblem, DefinitionsError
from liveprofile.settings import Settings
from liveprofile.toml_text import toml_value
from serve.api_models import MAX_NOTE_CHARS
from serve.keys import Scope
from serve.problems import ApiError
from serve.routes.common import KAFKA_DEADLINE_S
from serve.security import Call, require_scope
from services import definitions as service
from services.definitions import KindName, parse
from services.requests import MAX_ID_CHARS
from services.rule_proposals import Proposal, ProposalState, find_proposal, read_proposals
from services.segments import SegmentSize, sizes

# A kind is the name of the scope that reads it. By scope; they may ask Kafka.
VISITORS = {
    scope: Visitor(scope, deadline_s=KAFKA_DEADLINE_S)
    for scope in (Scope.RULES, Scope.RULES_WRITE, Scope.SEGMENTS, Scope.SEGMENTS_WRITE)
}


async def _reader(request: Request, kind: KindName) -> Call:
    return await VISITORS[kind](request)


Reader = Annotated[Call, Depends(_reader)]
RuleReader = Annotated[Call, Depends(VISITORS[Scope.RULES])]
MAX_MEMBERS = 200
SHOWN = 20

ProposalId = Annotated[str, PathParameter(max_length=36)]

router = APIRouter(prefix="/definitions")


@router.get("/segments/members")
async def members(
    call: Annotated[Call, Depends(Visitor(Scope.LISTS))],
    segment: str = Query(max_length=MAX_ID_CHARS),
) -> Response:
    found = await call.store.segment_members(segment, None, MAX_MEMBERS)
    await call.count_users(len(found))
    values = {"segment": segment, "members": found, "is_cut": len(found) == MAX_MEMBERS}
    return page(call.request, "members.html", **values)


@router.get("/{kind}")
async def definitions(kind: KindName, call: Reader) -> Response:
    """Those in force, as a table and as a text to edit. May take seconds: it reads Kafka."""
    found = await call.run(service.in_force, kind)
    listed = list(getattr(found.definitions, kind))
    return page(
        call.request,
        "definitions.html",
        kind=kind,
        source=found.source,
        tag=found.tag,
        definitions=listed,
        details=details,
        text=to_toml(kind, listed),
        sizes=await _sizes(call, [each.id for each in listed]) if kind == "segments" else {},
        may_edit=f"{kind}:write" in call.caller.scopes,
        editor=f"{kind}:write",
        needs_approval=_needs_approval(call.request, kind),
    )


@router.post("/{kind}/check")
async def checked(kind: KindName, call: Reader) -> Response:
    """The faults of a text: field text. Fast enough for every pause in typing."""
    try:
        found, _ = await _edited(call, kind)
    except FaultyTextError as error:
        return await faults(call.request, error, status=200)
    return page(call.request, CHECKED, kind=kind, problems=[], count=len(found))


@router.post("/{kind}/compare")
async def compare(kind: KindName, call: Reader) -> Response:
    """What a text would change. Writes nothing."""
    return await _put(call, kind, dry_run=True)


@router.post("/{kind}/apply")
async def apply(request: Request, kind: KindName) -> Response:
    """Makes a text the definitions in force, if nobody has changed them since they were read."""
    call = await VISITORS[f"{kind}:write"](request)
    if _needs_approval(request, kind):
        raise ApiError(403, "forbidden", "a change of rules must be proposed to a second person")
    return await _put(call, kind, dry_run=False)


async def _put(call: Call, kind: KindName, dry_run: bool) -> Response:
    edited, fields = await _edited(call, kind)
    tag = _tag(fields)
    requested = {"if_match": tag, "ids": [each.id for each in edited]}
    audit = call.audit(f"{kind}.put", kind, requested)
    applied = await call.run(service.apply, kind, edited, call.by, tag, audit, dry_run=dry_run)
    if not dry_run:
        return RedirectResponse(f"/definitions/{kind}", 303)
    changes = [each for each in applied.changes if each.kind != "unchanged"]
    return page(call.request, "parts/definitions_changes.html", kind=kind, changes=changes)


def _tag(fields: Mapping[str, str]) -> str:
    if tag := fields.get("tag"):
        return tag
    raise ApiError(422, "invalid-request", "tag: of the definitions that the text is based on")


async def _edited(call: Call, kind: KindName) -> tuple[list[Definition], dict[str, str]]:
    """The definitions of the field text, and all fields. Raises FaultyTextError."""
    fields = await form_of(call.request)
    return await asyncio.to_thread(check, kind, fields.get("text", ""), call.store.settings), fields


def _needs_approval(request: Request, kind: KindName) -> bool:
    return kind == "rules" and request.app.state.settings.second_approver


async def faults(request: Request, error: FaultyTextError, status: int = 422) -> Response:
    return page(request, CHECKED, status, problems=error.problems)


async def _sizes(call: Call, segments: list[str]) -> dict[str, SegmentSize]:
    """The latest size of each segment that has been swept."""
    latest = await asyncio.gather(*(call.read(sizes, each, 1) for each in segments))
    return {name: found[0] for name, found in zip(segments, latest, strict=True) if found}


@router.get("/rules/proposals")
async def proposals(call: RuleReader) -> Response:
    found = await call.read(read_proposals, SHOWN)
    return part_page(
        call.request,
        "parts/rule_proposals.html",
        "Proposed rules",
        back="/definitions/rules",
        proposals=found,
    )


@router.post("/rules/propose")
async def propose(call: Annotated[Call, Depends(Visitor(Scope.RULES_PROPOSE))]) -> Response:
    """Stores the rules of a text for another person to approve: fields text, tag, note."""
    rules, fields = await _edited(call, "rules")
    tag, note = _tag(fields), fields.get("note", "").strip()
    if len(note) > MAX_NOTE_CHARS:
        raise ApiError(422, "invalid-request", f"a note has at most {MAX_NOTE_CHARS} characters")
    requested = {"if_match": tag, "ids": [rule.id for rule in rules], "note": note}
    audit = call.audit("rules.propose", "rules", requested)
    made = await call.run(service.propose_rules, rules, tag, note, audit)
    return RedirectResponse(f"/definitions/rules/proposals/{made.proposal_id}", 303)


@router.get("/rules/proposals/{proposal_id}")
async def proposal(proposal_id: ProposalId, call: RuleReader) -> Response:
    """A proposal beside the rules in force. May take seconds: it reads Kafka."""
    found, in_force = await asyncio.gather(
        call.read(find_proposal, proposal_id), call.run(service.in_force, "rules")
    )
    rules = await asyncio.to_thread(parse, "rules", found.rules, call.store.settings)
    text = to_toml("rules", rules)
    return page(
        call.request,
        "rule_proposal.html",
        proposal=found,
        diff=diff(to_toml("rules", in_force.definitions.rules), text),
        is_outdated=found.base_tag != in_force.tag and found.state is ProposalState.OPEN,
        may_approve=_is_approver(call) and found.may_be_approved_by(call.by),
        may_refuse=_may_refuse(call, found),
        approver=Scope.RULES_WRITE,
    )


@router.post("/rules/proposals/{proposal_id}")
async def decide(proposal_id: ProposalId, call: RuleReader) -> Response:
    """Approves or refuses: field action. Who has proposed may refuse, which withdraws it."""
    action = (await form_of(call.request)).get("action")
    audit = call.audit(f"rules.{action}", proposal_id, {})
    match action:
        case "approve":
            require_scope(call.caller, Scope.RULES_WRITE)
            await call.run(service.approve_rules, proposal_id, audit)
        case "refuse":
            if not _may_refuse(call, await call.read(find_proposal, proposal_id)):
                raise ApiError(
                    403, "forbidden", "only who may approve, and who has proposed, may refuse"
                )
            await call.run(service.refuse_rules, proposal_id, audit)
        case _:
            raise ApiError(422, "invalid-request", "action: approve or refuse")
    return RedirectResponse(f"/definitions/rules/proposals/{proposal_id}", 303)


def _is_approver(call: Call) -> bool:
    return Scope.RULES_WRITE in call.caller.scopes


def _may_refuse(call: Call, found: Proposal) -> bool:
    is_open = found.state is ProposalState.OPEN
    return is_open and (_is_approver(call) or call.by == found.proposed_by)


CHECKED = "parts/definitions_checked.html"


class FaultyTextError(LiveprofileError):
    """A text of definitions has faults."""

    def __init__(self, problems: list[str]):
        super().__init__("; ".join(problems))
        self.problems = problems


_COLUMNS = ("id", "version", "state", "when")


def check(kind: KindName, text: str, settings: Settings) -> list[Definition]:
    """The definitions of a TOML text with tables [[rules]] or [[segments]].

    settings: name the file of the attributes that conditions may read. Raises FaultyTextError, and
    ServiceError if that file is invalid.
    """
    try:
        tables = tomllib.loads(text).get(kind, [])
    except tomllib.TOMLDecodeError as error:
        raise FaultyTextError([f"TOML: {error}"]) from None
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise FaultyTextError([f"{kind}: must be tables [[{kind}]]"])
    if not tables:
        raise FaultyTextError([f"the text has no table [[{kind}]]"])
    try:
        return parse(kind, tables, settings)
    except DefinitionsError as error:
        raise FaultyTextError(list(map(_described, error.problems))) from None


def _described(problem: DefinitionProblem) -> str:
    place = ", ".join(filter(None, [problem.key, problem.column]))
    return f"{problem.name or 'the text'}: {place}: {problem.reason}"


def to_toml(kind: KindName, definitions: Iterable[Definition]) -> str:
    """The definitions as `check` reads them."""
    texts = []
    for each in definitions:
        table = each.model_dump(mode="json")
        lines = [
            f"{name} = {toml_value(value)}" for name, value in table.items() if value is not None
        ]
        texts.append("\n".join([f"[[{kind}]]", *lines, ""]))
    return "\n".join(texts)


def details(definition: Definition) -> list[tuple[str, str]]:
    """What a table of definitions has no column for, without what the definition does not set."""
    return [
        (name, toml_value(value).strip('"'))
        for name, value in definition.model_dump(mode="json").items()
        if name not in _COLUMNS and value not in (None, "", [], {})
    ]


CONTEXT_LINES = 2


def diff(before: str, after: str) -> list[tuple[str, str]]:
    """The changed lines with some around them, [] if nothing changes.

    Each has a kind: added, removed, place or same.
    """
    lines = difflib.unified_diff(
        before.strip().splitlines(), after.strip().splitlines(), lineterm="", n=CONTEXT_LINES
    )
    kinds = {"+": "added", "-": "removed", "@": "place"}
    return [
        (kinds.get(line[:1], "same"), line)
        for line in list(lines)[2:]  # without the names of files
    ]
