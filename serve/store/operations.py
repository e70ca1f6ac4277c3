"""What operators look at: audits, drift, and rejected records."""

from __future__ import annotations

import logging
import uuid

from cassandra.cluster import Session

from liveprofile.audit.results import AuditResult, read_results
from liveprofile.drift.reference import DriftReference
from liveprofile.ingest.rejected import RejectedRecord
from liveprofile.ingest.rejected_topic import (
    correct_records,
    find_records,
    last_ranges,
    latest_records,
    send_corrected,
)
from liveprofile.resources import product_path
from liveprofile.settings import Settings
from serve.store.audit import audited, start_entry, write_entry
from serve.store.definitions import KAFKA_TIMEOUT_MS
from serve.store.link import CassandraLink, bounded_kafka
from serve.store.protocol import REJECTED_OFFSETS, AuditEntry, DriftHistory
from udfs.scoring.drift_monitor import PERIOD_MS, decision_scope
from udfs.scoring.drift_store import CassandraDriftStore

log = logging.getLogger(__name__)

# The topic may have millions of records, each of `limits.payload_chars`.
PAYLOAD_START_BYTES = 400


class CassandraOperations:
    """The methods of serve.store.protocol.Store for operators."""

    def __init__(self, link: CassandraLink, settings: Settings):
        self._link = link
        self._operation_settings = bounded_kafka(settings, KAFKA_TIMEOUT_MS)

    async def start_entry(self, audit: AuditEntry) -> str:
        ttl_s = self._operation_settings.serve.audit_ttl_s
        started = await self._link.in_thread(lambda session: start_entry(session, audit, ttl_s))
        return str(started)

    async def complete_entry(self, entry_id: str, audit: AuditEntry) -> None:
        ttl_s, started = self._operation_settings.serve.audit_ttl_s, uuid.UUID(entry_id)
        await self._link.in_thread(lambda session: write_entry(session, started, audit, ttl_s))

    async def audits(self, limit: int) -> list[AuditResult]:
        topic = self._operation_settings.topics.events
        return await self._link.in_thread(lambda session: read_results(session, topic, limit))

    async def drift(self, periods: int) -> DriftHistory | None:
        settings = self._operation_settings

        def read(session: Session) -> DriftHistory | None:
            reference = DriftReference.load(product_path(settings.scoring.checkpoint))
            if reference is None:
                return None
            store = CassandraDriftStore(session, settings.cassandra, settings.scoring.score_ttl_s)
            scopes = {kind: decision_scope(reference, kind) for kind in PERIOD_MS}
            return DriftHistory(
                reference.version,
                {
                    kind: (store.state(scope), store.decisions(scope, periods))
                    for kind, scope in scopes.items()
                },
            )

        return await self._link.in_thread(read)

    async def rejected_records(self, reason: str | None, limit: int) -> list[RejectedRecord]:
        settings = self._operation_settings

        def read(_session: Session) -> list[RejectedRecord]:
            ranges = last_ranges(settings, REJECTED_OFFSETS)
            return latest_records(settings, ranges, reason, limit, log.warning, PAYLOAD_START_BYTES)

        return await self._link.in_thread(read)

    async def rejected_record(self, record_id: str) -> RejectedRecord | None:
        settings = self._operation_settings
        found = await self._link.in_thread(lambda _session: find_records(settings, [record_id]))
        return found[0] if found else None

    async def resend(self, record_id: str, payload: bytes, audit: AuditEntry | None) -> None:
        settings = self._operation_settings

        def send(session: Session) -> None:
            if audit is None:
                correct_records(settings, {record_id: payload})
                return
            with audited(session, audit, settings.serve.audit_ttl_s) as entry:
                corrected = correct_records(settings, {record_id: payload})
                send_corrected(settings, corrected)
                entry.after = {"topic": corrected[0].topic} | corrected[0].headers

        await self._link.in_thread(send)
