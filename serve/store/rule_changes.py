"""Changes of rules: what one would do, and its way from a proposal to the rules in force."""

from __future__ import annotations

from collections.abc import Sequence

from cassandra.cluster import Session

from liveprofile.feeds.definition_changes import DefinitionsChangedError, apply_definitions
from liveprofile.labels.rule_backtest import Backtest, backtest
from liveprofile.rules.proposals import (
    Proposal,
    ProposalState,
    decide,
    find_proposal,
    new_proposal,
    read_proposals,
    require_other,
    store_proposal,
)
from liveprofile.rules.rules import Rule
from liveprofile.settings import Settings
from liveprofile.storage.cql import now_ms
from serve.definitions import KINDS, parse
from serve.store.audit import audited
from serve.store.definitions import KAFKA_TIMEOUT_MS, read_kind_in_force
from serve.store.link import CassandraLink, bounded_kafka
from serve.store.protocol import AuditEntry
from serve.store.scans import CassandraScans, ScanLimit

RULES = KINDS["rules"]


class CassandraRuleChanges:
    """The methods of serve.store.protocol.Store about edited rules."""

    def __init__(self, link: CassandraLink, scans: CassandraScans, settings: Settings):
        self._link, self._rule_scans = link, scans
        self._rule_settings = bounded_kafka(settings, KAFKA_TIMEOUT_MS)

    async def backtest_rules(self, edited: Sequence[Rule], days: int) -> Backtest:
        settings = self._rule_settings

        def run(session: Session, limit: ScanLimit) -> Backtest:
            current = read_kind_in_force(settings, "rules").definitions.rules
            return backtest(session, settings, current, edited, days, now_ms(), limit.watch)

        return await self._rule_scans.scan(run)

    async def propose_rules(
        self, rules: Sequence[Rule], base_tag: str, note: str, audit: AuditEntry
    ) -> Proposal:
        serve = self._rule_settings.serve

        def write(session: Session) -> Proposal:
            with audited(session, audit, serve.audit_ttl_s) as entry:
                made = new_proposal(rules, base_tag, audit.name, note, audit.at_ms)
                store_proposal(session, made, serve.proposal_ttl_s)
                entry.after = {"proposal_id": made.proposal_id, "rules": made.rules}
                return made

        return await self._link.in_thread(write)

    async def rule_proposals(self, limit: int) -> list[Proposal]:
        return await self._link.in_thread(lambda session: read_proposals(session, limit))

    async def rule_proposal(self, proposal_id: str) -> Proposal:
        return await self._link.in_thread(lambda session: find_proposal(session, proposal_id))

    async def approve_rules(self, proposal_id: str, audit: AuditEntry) -> Proposal:
        serve = self._rule_settings.serve

        def write(session: Session) -> Proposal:
            with audited(session, audit, serve.audit_ttl_s) as entry:
                found = find_proposal(session, proposal_id)
                require_other(found, audit.name)
                rules = parse("rules", found.rules, self._rule_settings.attributes)

                def change(state: ProposalState) -> Proposal:
                    return decide(
                        session, found, state, audit.name, audit.at_ms, serve.proposal_ttl_s
                    )

                change(ProposalState.APPROVED)
                settings, by = self._rule_settings, f"{found.proposed_by}, approved by {audit.name}"
                try:
                    # Rules that an earlier attempt has applied are not applied again.
                    applied = apply_definitions(
                        settings,
                        RULES.topic_name(settings),
                        RULES.read_topic,
                        rules,
                        by=by,
                        expected_tag=found.base_tag,
                    )
                except DefinitionsChangedError:
                    change(ProposalState.OUTDATED)
                    raise
                entry.before, entry.after = applied.audit()
                return change(ProposalState.APPLIED)

        return await self._link.in_thread(write)

    async def refuse_rules(self, proposal_id: str, audit: AuditEntry) -> Proposal:
        serve = self._rule_settings.serve

        def write(session: Session) -> Proposal:
            with audited(session, audit, serve.audit_ttl_s) as entry:
                found = find_proposal(session, proposal_id)
                state, ttl_s = ProposalState.REFUSED, serve.proposal_ttl_s
                refused = decide(session, found, state, audit.name, audit.at_ms, ttl_s)
                entry.after = {"state": refused.state.value}
                return refused

        return await self._link.in_thread(write)
