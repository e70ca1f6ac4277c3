"""Rules and segments: those in force, their change while jobs run, and proposed rules."""

from __future__ import annotations

import asyncio
import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as PathParameter
from starlette.responses import RedirectResponse, Response

from console.access import THROUGH, Analyst, Reader, Visitor, form_of
from console.charts import BarChart, bar_chart
from console.formats import number, share, utc
from console.rendering import page, part_page
from liveprofile.client.models import MAX_ID_CHARS, MAX_NOTE_CHARS
from liveprofile.rules.backtest import Backtest, Outcome
from liveprofile.rules.definitions import Definition, DefinitionProblem, DefinitionsError
from liveprofile.rules.proposals import Proposal, ProposalState, find_proposal, read_proposals
from liveprofile.rules.rules import Rule
from liveprofile.segments.members import SegmentSize, sizes
from liveprofile.units import DAY_MS
from serve.guard import extend_deadline
from serve.keys import Role
from serve.problems import ApiError
from serve.routes.common import KAFKA_DEADLINE_S, SCAN_COST, DataStore, audit_entry, extend_to_scan
from serve.security import Caller
from serve.store.store import Store
from services import definitions as service
from services.definitions import ATTRIBUTES_FILE, DefinitionKind, parse

# As in the read API.
EDITORS: dict[DefinitionKind, Role] = {"rules": Role.ADMIN, "segments": Role.ANALYST}
MAX_MEMBERS = 200
DAYS = ("7", "14", "30")

Tester = Annotated[Caller, Depends(Visitor(Role.READER, SCAN_COST))]

router = APIRouter(prefix="/definitions")


@router.get("/segments/members")
async def members(
    request: Request,
    store: DataStore,
    caller: Reader,
    segment: str = Query(max_length=MAX_ID_CHARS),
) -> Response:
    found = await store.segment_members(segment, None, MAX_MEMBERS)
    return page(
        request,
        "members.html",
        segment=segment,
        members=found,
        is_cut=len(found) == MAX_MEMBERS,
    )


@router.get("/{kind}")
async def definitions(request: Request, kind: DefinitionKind, caller: Reader) -> Response:
    """Those in force, as a table and as a text to edit. May take seconds: it reads Kafka."""
    extend_deadline(request, KAFKA_DEADLINE_S)
    store: Store = request.app.state.store
    found = await store.run(service.in_force, kind)
    listed = list(getattr(found.definitions, kind))
    return page(
        request,
        "definitions.html",
        kind=kind,
        source=found.source,
        tag=found.tag,
        definitions=listed,
        details=details,
        text=to_toml(kind, listed),
        sizes=await _sizes(store, [each.id for each in listed]) if kind == "segments" else {},
        may_edit=caller.role.includes(EDITORS[kind]),
        editor=EDITORS[kind],
        days=DAYS,
        needs_approval=_needs_approval(request, kind),
    )


@router.post("/{kind}/check")
async def checked(request: Request, kind: DefinitionKind, caller: Reader) -> Response:
    """The faults of a text: field text. Fast enough for every pause in typing."""
    fields = await form_of(request)
    found, problems = await _checked(request, kind, fields)
    values = {"kind": kind, "problems": problems, "count": found and len(found)}
    return page(request, "parts/definitions_checked.html", **values)


async def _checked(
    request: Request, kind: DefinitionKind, fields: dict[str, str]
) -> tuple[list[Definition] | None, list[str]]:
    """The definitions of the field text, or None; its faults."""
    attributes = request.app.state.store.settings.attributes
    return await asyncio.to_thread(check, kind, fields.get("text", ""), attributes)


@router.post("/{kind}/compare")
async def compare(request: Request, kind: DefinitionKind, caller: Reader) -> Response:
    """What a text would change. Writes nothing."""
    return await _put(request, kind, caller, dry_run=True)


@router.post("/rules/backtest")
async def backtest(request: Request, caller: Tester) -> Response:
    """What the rules of a text would have done in the last days. May take long."""
    fields = await form_of(request)
    days = fields.get("days", "14")
    if days not in DAYS:
        raise ApiError(422, "invalid-request", f"days: one of {', '.join(DAYS)}")
    rules, problems = await _checked(request, "rules", fields)
    if rules is None:
        return _faults(request, "rules", problems)
    extend_to_scan(request)
    store: Store = request.app.state.store
    in_force = (await store.run(service.in_force, "rules")).definitions.rules
    tested = await store.scan(service.backtest_rules, rules, int(days))
    return part_page(
        request,
        "parts/rules_backtest.html",
        "Backtest",
        backtest=tested,
        chart=backtest_chart(tested),
        figures=backtest_figures(tested),
        diff=diff(to_toml("rules", in_force), to_toml("rules", rules)),
    )


@router.post("/{kind}/apply")
async def apply(request: Request, kind: DefinitionKind) -> Response:
    """Makes a text the definitions in force, if nobody has changed them since they were read."""
    caller = await Visitor(EDITORS[kind])(request)
    if _needs_approval(request, kind):
        raise ApiError(403, "forbidden", "a change of rules must be proposed to a second person")
    return await _put(request, kind, caller, dry_run=False)


async def _put(request: Request, kind: DefinitionKind, caller: Caller, dry_run: bool) -> Response:
    fields = await form_of(request)
    edited, problems = await _checked(request, kind, fields)
    if edited is None:
        return _faults(request, kind, problems)
    tag = fields.get("tag", "")
    if not tag:
        raise ApiError(422, "invalid-request", "tag: of the definitions that the text is based on")
    extend_deadline(request, KAFKA_DEADLINE_S)
    requested = {"if_match": tag, "ids": [each.id for each in edited]}
    audit = audit_entry(request, caller, f"{kind}.put", kind, requested | THROUGH)
    store: Store = request.app.state.store
    applied = await store.run(service.apply, kind, edited, caller.name, tag, audit, dry_run=dry_run)
    if not dry_run:
        return RedirectResponse(f"/definitions/{kind}", 303)
    changes = [each for each in applied.changes if each.kind != "unchanged"]
    return page(request, "parts/definitions_changes.html", kind=kind, changes=changes)


def _needs_approval(request: Request, kind: DefinitionKind) -> bool:
    return kind == "rules" and request.app.state.settings.second_approver


def _faults(request: Request, kind: DefinitionKind, problems: list[str]) -> Response:
    template = "parts/definitions_checked.html"
    return page(request, template, 422, kind=kind, problems=problems, count=None)


async def _sizes(store: Store, segments: list[str]) -> dict[str, SegmentSize]:
    """The latest size of each segment that has been swept."""
    latest = await asyncio.gather(*(store.read(sizes, each, 1) for each in segments))
    return {name: found[0] for name, found in zip(segments, latest, strict=True) if found}


SHOWN = 20

ProposalId = Annotated[str, PathParameter(max_length=36)]


@router.get("/rules/proposals")
async def proposals(request: Request, store: DataStore, caller: Reader) -> Response:
    found = await store.read(read_proposals, SHOWN)
    return part_page(request, "parts/rule_proposals.html", "Proposed rules", proposals=found)


@router.post("/rules/propose")
async def propose(request: Request, caller: Analyst) -> Response:
    """Stores the rules of a text for another person to approve: fields text, tag, note."""
    fields = await form_of(request)
    rules, problems = await _checked(request, "rules", fields)
    if rules is None:
        return _faults(request, "rules", problems)
    tag, note = fields.get("tag", ""), fields.get("note", "").strip()
    if not tag or len(note) > MAX_NOTE_CHARS:
        detail = f"tag of the rules in force, and a note of at most {MAX_NOTE_CHARS} characters"
        raise ApiError(422, "invalid-request", detail)
    requested = {"if_match": tag, "ids": [rule.id for rule in rules], "note": note} | THROUGH
    audit = audit_entry(request, caller, "rules.propose", "rules", requested)
    store: Store = request.app.state.store
    made = await store.run(service.propose_rules, rules, tag, note, audit)
    return RedirectResponse(f"/definitions/rules/proposals/{made.proposal_id}", 303)


@router.get("/rules/proposals/{proposal_id}")
async def proposal(request: Request, proposal_id: ProposalId, caller: Reader) -> Response:
    """A proposal beside the rules in force. May take seconds: it reads Kafka."""
    extend_deadline(request, KAFKA_DEADLINE_S)
    store: Store = request.app.state.store
    found, in_force = await asyncio.gather(
        store.read(find_proposal, proposal_id), store.run(service.in_force, "rules")
    )
    text = to_toml("rules", await _parsed(request, found))
    return page(
        request,
        "rule_proposal.html",
        proposal=found,
        text=text,
        diff=diff(to_toml("rules", in_force.definitions.rules), text),
        is_outdated=found.base_tag != in_force.tag and found.state is ProposalState.OPEN,
        may_approve=_is_approver(caller) and found.may_be_approved_by(caller.name),
        may_refuse=_may_refuse(caller, found),
        approver=EDITORS["rules"],
        days=DAYS,
    )


@router.post("/rules/proposals/{proposal_id}")
async def decide(request: Request, proposal_id: ProposalId, caller: Analyst) -> Response:
    """Approves or refuses: field action. Who has proposed may refuse, which withdraws it."""
    fields = await form_of(request)
    action = fields.get("action")
    extend_deadline(request, KAFKA_DEADLINE_S)
    store: Store = request.app.state.store
    audit = audit_entry(request, caller, f"rules.{action}", proposal_id, dict(THROUGH))
    match action:
        case "approve":
            if not _is_approver(caller):
                raise ApiError(403, "forbidden", f"this needs the role {EDITORS['rules']}")
            await store.run(service.approve_rules, proposal_id, audit)
        case "refuse":
            if not _may_refuse(caller, await store.read(find_proposal, proposal_id)):
                raise ApiError(403, "forbidden", "only an admin, and who has proposed, may refuse")
            await store.run(service.refuse_rules, proposal_id, audit)
        case _:
            raise ApiError(422, "invalid-request", "action: approve or refuse")
    return RedirectResponse(f"/definitions/rules/proposals/{proposal_id}", 303)


async def _parsed(request: Request, found: Proposal) -> list[Rule]:
    attributes = request.app.state.store.settings.attributes
    return await asyncio.to_thread(parse, "rules", found.rules, attributes)


def _is_approver(caller: Caller) -> bool:
    return caller.role.includes(EDITORS["rules"])


def _may_refuse(caller: Caller, found: Proposal) -> bool:
    is_open = found.state is ProposalState.OPEN
    return is_open and (_is_approver(caller) or caller.name == found.proposed_by)


_COLUMNS = ("id", "version", "state", "when")


def check(
    kind: DefinitionKind, text: str, attributes: Path = ATTRIBUTES_FILE
) -> tuple[list[Definition] | None, list[str]]:
    """The definitions of a TOML text with tables [[rules]] or [[segments]], or None; its faults.

    attributes: the file with the attributes that conditions may read. Raises ServiceError if that
    file is invalid.
    """
    try:
        tables = tomllib.loads(text).get(kind, [])
    except tomllib.TOMLDecodeError as error:
        return None, [f"TOML: {error}"]
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        return None, [f"{kind}: must be tables [[{kind}]]"]
    if not tables:
        return None, [f"the text has no table [[{kind}]]"]
    try:
        return parse(kind, tables, attributes), []
    except DefinitionsError as error:
        return None, [_described(problem) for problem in error.problems]


def _described(problem: DefinitionProblem) -> str:
    place = ", ".join(filter(None, [problem.key, problem.column]))
    return f"{problem.name or 'the text'}: {place}: {problem.reason}"


def to_toml(kind: DefinitionKind, definitions: Iterable[Definition]) -> str:
    """The definitions as `check` reads them."""
    texts = []
    for each in definitions:
        table = each.model_dump(mode="json")
        lines = [f"{name} = {_value(value)}" for name, value in table.items() if value is not None]
        texts.append("\n".join([f"[[{kind}]]", *lines, ""]))
    return "\n".join(texts)


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str() if "\n" in value:
            return '"""\n' + "\n".join(map(_escaped, value.split("\n"))) + '"""'
        case str():
            return f'"{_escaped(value)}"'
        case Mapping():
            pairs = (f'"{_escaped(k)}" = {_value(v)}' for k, v in value.items())
            return f"{{ {', '.join(pairs)} }}" if value else "{}"
        case Sequence():
            return f"[{', '.join(map(_value, value))}]"
    return repr(value)


def _escaped(text: str) -> str:
    """JSON's escapes are TOML's, which also forbids DEL."""
    return orjson.dumps(text)[1:-1].decode().replace("\x7f", "\\u007f")


def details(definition: Definition) -> list[tuple[str, str]]:
    """What a table of definitions has no column for, without what the definition does not set."""
    return [
        (name, _value(value).strip('"'))
        for name, value in definition.model_dump(mode="json").items()
        if name not in _COLUMNS and value not in (None, "", [], {})
    ]


MONTH_AND_DAY = slice(5, 10)  # of a formatted time
CONTEXT_LINES = 2


def backtest_chart(found: Backtest) -> BarChart:
    """Alerts by day, in force and edited."""
    days = range(found.since_ms // DAY_MS, found.until_ms // DAY_MS + 1)
    series = [
        (name, [float(side.alerts_by_day.get(day * DAY_MS, 0)) for day in days])
        for name, side in (("in force", found.current), ("edited", found.edited))
    ]
    return bar_chart([utc(day * DAY_MS)[MONTH_AND_DAY] for day in days], series)


def backtest_figures(found: Backtest) -> list[tuple[str, str, str]]:
    """Name, in force, edited."""
    days = found.until_ms // DAY_MS - found.since_ms // DAY_MS + 1
    sides = found.current, found.edited
    figures: list[tuple[str, Callable[[Outcome], str]]] = [
        ("alerts", lambda side: number(side.alerts)),
        ("alerts per day", lambda side: number(side.alerts / days, 1)),
        ("users with an alert", lambda side: number(len(side.users))),
        ("precision against labels", _precision),
        ("flags of rules in shadow", lambda side: number(side.shadow_flags)),
    ]
    return [(name, *map(figure, sides)) for name, figure in figures]


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


def _precision(side: Outcome) -> str:
    if side.precision is None:
        return "no label"
    return f"{share(side.precision)} of {number(side.labelled)} labelled"
