"""Proposed rules: what they change, and the second person's decision."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import RedirectResponse, Response

from console.access import THROUGH, Analyst, Reader
from console.forms import form_of
from console.rendering import page, part_page
from console.routes.definitions import DAYS, EDITORS, checked_rules
from console.views.backtest import diff
from console.views.definitions import to_toml
from liveprofile.client.models import MAX_NOTE_CHARS
from liveprofile.rules.proposals import Proposal, ProposalState
from liveprofile.rules.rules import Rule
from serve.guard import extend_deadline
from serve.problems import ApiError
from serve.routes.common import KAFKA_DEADLINE_S, audit_entry
from serve.security import Caller
from serve.store.store import Store
from services import definitions as service
from services.definitions import parse

SHOWN = 20

router = APIRouter(prefix="/definitions/rules")
ProposalId = Annotated[str, Path(max_length=36)]


@router.get("/proposals")
async def proposals(request: Request, caller: Reader) -> Response:
    store: Store = request.app.state.store
    return part_page(
        request,
        "parts/rule_proposals.html",
        "Proposed rules",
        proposals=await store.run(service.rule_proposals, SHOWN),
    )


@router.post("/propose")
async def propose(request: Request, caller: Analyst) -> Response:
    """Stores the rules of a text for another person to approve: fields text, tag, note."""
    fields = await form_of(request)
    rules = await checked_rules(request, fields)
    if isinstance(rules, Response):
        return rules
    tag, note = fields.get("tag", ""), fields.get("note", "").strip()
    if not tag or len(note) > MAX_NOTE_CHARS:
        detail = f"tag of the rules in force, and a note of at most {MAX_NOTE_CHARS} characters"
        raise ApiError(422, "invalid-request", detail)
    requested = {"if_match": tag, "ids": [rule.id for rule in rules], "note": note} | THROUGH
    audit = audit_entry(request, caller, "rules.propose", "rules", requested)
    store: Store = request.app.state.store
    made = await store.run(service.propose_rules, rules, tag, note, audit)
    return RedirectResponse(f"/definitions/rules/proposals/{made.proposal_id}", 303)


@router.get("/proposals/{proposal_id}")
async def proposal(request: Request, proposal_id: ProposalId, caller: Reader) -> Response:
    """A proposal beside the rules in force. May take seconds: it reads Kafka."""
    extend_deadline(request, KAFKA_DEADLINE_S)
    store: Store = request.app.state.store
    found, in_force = await asyncio.gather(
        store.run(service.rule_proposal, proposal_id), store.run(service.in_force, "rules")
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


@router.post("/proposals/{proposal_id}")
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
            if not _may_refuse(caller, await store.run(service.rule_proposal, proposal_id)):
                raise ApiError(403, "forbidden", "only an admin, and who has proposed, may refuse")
            await store.run(service.refuse_rules, proposal_id, audit)
        case _:
            raise ApiError(422, "invalid-request", "action: approve or refuse")
    return RedirectResponse(f"/definitions/rules/proposals/{proposal_id}", 303)


async def _parsed(request: Request, found: Proposal) -> list[Rule]:
    attributes = request.app.state.attributes
    return await asyncio.to_thread(parse, "rules", found.rules, attributes)


def _is_approver(caller: Caller) -> bool:
    return caller.role.includes(EDITORS["rules"])


def _may_refuse(caller: Caller, found: Proposal) -> bool:
    is_open = found.state is ProposalState.OPEN
    return is_open and (_is_approver(caller) or caller.name == found.proposed_by)
