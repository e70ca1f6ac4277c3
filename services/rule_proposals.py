"""Proposed rules: one person proposes a set of rules, another one approves it.

open -> approved -> applied, or outdated if the rules in force have changed since; open -> refused.
Who finds a proposal approved may go on: whoever approved it may have died before it was applied.
"""

import uuid
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import orjson
from cassandra.cluster import Session
from cassandra.util import datetime_from_uuid1, uuid_from_time

from liveprofile.errors import LiveprofileError
from liveprofile.rows.risk import RULE_PROPOSAL
from liveprofile.rules.rules import Rule
from liveprofile.storage.cql import execute, from_ms, read, to_ms
from liveprofile.units import SECOND_MS

_KIND = "rules"
_COLUMNS = ", ".join(RULE_PROPOSAL.names(["kind"]))


class ProposalState(StrEnum):
    OPEN = "open"
    APPROVED = "approved"  # is being applied
    APPLIED = "applied"
    REFUSED = "refused"
    OUTDATED = "outdated"


# From which states a decision leads to a state.
DECISIONS = {
    ProposalState.APPROVED: (ProposalState.OPEN, ProposalState.APPROVED),
    ProposalState.APPLIED: (ProposalState.APPROVED,),
    ProposalState.OUTDATED: (ProposalState.APPROVED,),
    ProposalState.REFUSED: (ProposalState.OPEN,),
}


class Proposal(NamedTuple):
    proposal_id: str
    proposed_at_ms: int
    proposed_by: str
    note: str
    base_tag: str  # of the rules in force that it changes
    rules: Sequence[dict[str, Any]]
    state: ProposalState = ProposalState.OPEN
    decided_by: str | None = None
    decided_at_ms: int | None = None

    def may_be_approved_by(self, name: str) -> bool:
        return name != self.proposed_by and self.state in DECISIONS[ProposalState.APPROVED]


class UnknownProposalError(LiveprofileError):
    """No stored proposal has this id. Exit code 1."""


class ProposalDecidedError(LiveprofileError):
    """Somebody else has decided on the proposal. Exit code 1."""


class OwnProposalError(LiveprofileError):
    """Nobody approves what he has proposed. Exit code 1."""


def new_proposal(rules: Sequence[Rule], base_tag: str, by: str, note: str, now_ms: int) -> Proposal:
    proposal_id = str(uuid_from_time(now_ms / SECOND_MS))
    listed = [rule.model_dump(mode="json") for rule in rules]
    return Proposal(proposal_id, now_ms, by, note, base_tag, listed)


def require_other(proposal: Proposal, name: str) -> None:
    """Raises OwnProposalError."""
    if name == proposal.proposed_by:
        raise OwnProposalError(f"{name} has proposed these rules: another person must approve them")


def store_proposal(session: Session, proposal: Proposal, ttl_s: int) -> None:
    """Raises ServiceError."""
    execute(
        session,
        RULE_PROPOSAL.insert(ttl_s, time="", mark="%s", condition=" IF NOT EXISTS"),
        (_KIND, uuid.UUID(proposal.proposal_id), *_values(proposal)),
    )


def read_proposals(session: Session, limit: int) -> list[Proposal]:
    """Newest first. Raises ServiceError."""
    query = f"SELECT {_COLUMNS} FROM rule_proposal WHERE kind = %s LIMIT %s"
    return [_proposal(row) for row in read(session, query, (_KIND, limit)) if row.state]


def find_proposal(session: Session, proposal_id: str) -> Proposal:
    """Raises UnknownProposalError, ServiceError."""
    query = f"SELECT {_COLUMNS} FROM rule_proposal WHERE kind = %s AND proposal_id = %s"
    try:
        row = read(session, query, (_KIND, uuid.UUID(proposal_id))).one()
    except ValueError:  # no UUID
        row = None
    if row is None:
        raise UnknownProposalError(
            f"no proposal {proposal_id[:40]!r}: it does not exist or has expired"
        )
    return _proposal(row)


def decide(
    session: Session, proposal: Proposal, state: ProposalState, by: str, at_ms: int, ttl_s: int
) -> Proposal:
    """Changes the state, if it still is one that may change so.

    Raises ProposalDecidedError, ServiceError.
    """
    decided = proposal._replace(state=state, decided_by=by, decided_at_ms=at_ms)
    names = [f"{name} = %s" for name in _COLUMNS.split(", ")[1:]]
    allowed = ", ".join(f"'{each}'" for each in DECISIONS[state])
    applied = execute(
        session,
        f"UPDATE rule_proposal USING TTL {ttl_s:d} SET {', '.join(names)}"
        f" WHERE kind = %s AND proposal_id = %s IF state IN ({allowed})",
        (*_values(decided), _KIND, uuid.UUID(proposal.proposal_id)),
    )
    if not applied.was_applied:
        raise ProposalDecidedError(
            "somebody else has decided on this proposal: load the page again"
        )
    return decided


def _values(each: Proposal) -> tuple[Any, ...]:
    decided_at = None if each.decided_at_ms is None else from_ms(each.decided_at_ms)
    rules = orjson.dumps(each.rules).decode()
    names = (each.proposed_by, each.note, each.base_tag, rules, each.state.value, each.decided_by)
    return (*names, decided_at)


def _proposal(row: Any) -> Proposal:
    return Proposal(
        str(row.proposal_id),
        to_ms(datetime_from_uuid1(row.proposal_id)),
        row.proposed_by,
        row.note or "",
        row.base_tag,
        orjson.loads(row.rules),
        ProposalState(row.state),
        row.decided_by,
        None if row.decided_at is None else to_ms(row.decided_at),
    )
