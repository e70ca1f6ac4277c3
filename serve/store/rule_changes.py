"""What a change of rules would do."""

from __future__ import annotations

from collections.abc import Sequence

from cassandra.cluster import Session

from liveprofile.config import Settings
from liveprofile.labels.rule_backtest import Backtest, backtest
from liveprofile.rules.rules import Rule
from liveprofile.storage.cql import now_ms
from serve.store.definitions import bounded_kafka, read_kind_in_force
from serve.store.scans import CassandraScans, ScanLimit


class CassandraRuleChanges:
    """The methods of serve.store.protocol.Store about edited rules."""

    def __init__(self, scans: CassandraScans, settings: Settings):
        self._rule_scans, self._rule_settings = scans, bounded_kafka(settings)

    async def backtest_rules(self, edited: Sequence[Rule], days: int) -> Backtest:
        settings = self._rule_settings

        def run(session: Session, limit: ScanLimit) -> Backtest:
            current = read_kind_in_force(settings, "rules").definitions.rules
            return backtest(session, settings, current, edited, days, now_ms(), limit.watch)

        return await self._rule_scans.scan(run)
