"""Rules and segments of the read API's store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from liveprofile.feeds.definition_changes import (
    Applied,
    DefinitionsChangedError,
    InForce,
    in_force,
    plan_changes,
    tag_of,
)
from liveprofile.feeds.definitions import TopicDefinitions, TopicRules, TopicSegments
from liveprofile.labels.rule_backtest import Backtest, compare
from liveprofile.rules.definitions import Definition
from liveprofile.rules.proposals import (
    DECISIONS,
    Proposal,
    ProposalDecided,
    ProposalState,
    UnknownProposal,
    new_proposal,
    require_other,
)
from liveprofile.rules.rules import Rule, RuleSet
from liveprofile.rules.stored_rows import StoredEvent, event_blocks
from liveprofile.segments.definitions import Segment, SegmentSet
from liveprofile.segments.preview import SegmentPreview
from liveprofile.settings import load
from liveprofile.units import DAY_MS
from serve.definitions import ATTRIBUTES_FILE, KINDS, DefinitionKind, parse
from serve.store.protocol import AuditEntry
from tests.support.paths import ROOT


class MemoryDefinitions:
    """The topics of rules and segments; a subclass has `audit` and `_answer`."""

    def __init__(self) -> None:
        self.audit: list[AuditEntry] = []
        self.proposals: dict[str, Proposal] = {}
        self.event_rows: list[StoredEvent] = []  # that rules are tested with
        self.topics: dict[DefinitionKind, TopicDefinitions[Definition, RuleSet | SegmentSet]] = {
            "rules": TopicRules(),
            "segments": TopicSegments(),
        }

    async def _answer(self) -> None:
        await asyncio.sleep(0)

    async def definitions(self, kind: DefinitionKind) -> InForce:
        await self._answer()
        file = ROOT / KINDS[kind].file(load())
        return in_force(kind, self.topics[kind], file, KINDS[kind].read_file)

    async def put_definitions(
        self,
        kind: DefinitionKind,
        definitions: Sequence[Definition],
        expected_tag: str | None,
        audit: AuditEntry | None,
    ) -> Applied:
        await self._answer()
        topic = self.topics[kind]
        changes = plan_changes(topic, definitions)
        if expected_tag not in (None, tag_of(topic)):
            raise DefinitionsChangedError("read them again")
        before = {each.id: each for each in topic.definitions}
        if audit is None:
            return Applied(changes, tag_of(topic), before)
        topic.has_records = True
        topic._definitions = {each.name: each.definition for each in changes if each.definition}
        applied = Applied(changes, tag_of(topic), before)
        was, became = applied.audit()
        self.audit.append(audit._replace(before=was, after=became, outcome="done"))
        return applied

    async def backtest_rules(self, edited: Sequence[Rule], days: int) -> Backtest:
        await self._answer()
        current = (await self.definitions("rules")).definitions.rules
        end_ms = self.event_rows[-1].event_time_ms
        since_ms = end_ms - days * DAY_MS
        return compare(current, edited, event_blocks(self.event_rows), since_ms, end_ms, {})

    async def propose_rules(
        self, rules: Sequence[Rule], base_tag: str, note: str, audit: AuditEntry
    ) -> Proposal:
        await self._answer()
        made = new_proposal(rules, base_tag, audit.name, note, audit.at_ms)
        self.proposals[made.proposal_id] = made
        self.audit.append(audit._replace(outcome="done"))
        return made

    async def rule_proposals(self, limit: int) -> list[Proposal]:
        await self._answer()
        return list(self.proposals.values())[::-1][:limit]

    async def rule_proposal(self, proposal_id: str) -> Proposal:
        await self._answer()
        if proposal_id not in self.proposals:
            raise UnknownProposal("no such proposal")
        return self.proposals[proposal_id]

    async def approve_rules(self, proposal_id: str, audit: AuditEntry) -> Proposal:
        found = await self.rule_proposal(proposal_id)
        require_other(found, audit.name)
        self._decide(found, ProposalState.APPROVED, audit)
        rules = parse("rules", found.rules, ATTRIBUTES_FILE)
        try:
            await self.put_definitions("rules", rules, found.base_tag, audit)
        except DefinitionsChangedError:
            self._decide(self.proposals[proposal_id], ProposalState.OUTDATED, audit)
            raise
        return self._decide(self.proposals[proposal_id], ProposalState.APPLIED, audit)

    async def refuse_rules(self, proposal_id: str, audit: AuditEntry) -> Proposal:
        found = self._decide(await self.rule_proposal(proposal_id), ProposalState.REFUSED, audit)
        self.audit.append(audit._replace(outcome="done"))
        return found

    def _decide(self, found: Proposal, state: ProposalState, audit: AuditEntry) -> Proposal:
        if found.state not in DECISIONS[state]:
            raise ProposalDecided("decided already")
        decided = found._replace(state=state, decided_by=audit.name, decided_at_ms=audit.at_ms)
        self.proposals[found.proposal_id] = decided
        return decided

    async def preview_segments(
        self, segments: Sequence[Segment], at_ms: int
    ) -> tuple[int, list[SegmentPreview]]:
        await self._answer()
        return 9, [SegmentPreview(each.id, 1, 2, 1, 0, ["42"], []) for each in segments]
