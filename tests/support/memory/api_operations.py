"""Audits, drift and rejected records of the read API's store in memory."""

from __future__ import annotations

import asyncio

from liveprofile.audit.results import AuditResult
from liveprofile.errors import InputError
from liveprofile.ingest.rejected import CorrectedRecord, RejectedRecord, correct, parse_id
from serve.store.protocol import AuditEntry, DriftHistory


class MemoryOperations:
    """Holds what a test puts into it; a subclass has `audit` and `_answer`."""

    def __init__(self) -> None:
        self.audit: list[AuditEntry] = []
        self.audit_results: list[AuditResult] = []
        self.drift_history: DriftHistory | None = None
        self.rejected: list[RejectedRecord] = []  # newest first
        self.resent: list[CorrectedRecord] = []

    async def _answer(self) -> None:
        await asyncio.sleep(0)

    async def start_entry(self, audit: AuditEntry) -> str:
        await self._answer()
        self.audit.append(audit)
        return str(len(self.audit) - 1)

    async def complete_entry(self, entry_id: str, audit: AuditEntry) -> None:
        await self._answer()
        self.audit[int(entry_id)] = audit

    async def audits(self, limit: int) -> list[AuditResult]:
        await self._answer()
        return self.audit_results[:limit]

    async def drift(self, periods: int) -> DriftHistory | None:
        await self._answer()
        return self.drift_history

    async def rejected_records(self, reason: str | None, limit: int) -> list[RejectedRecord]:
        await self._answer()
        return [each for each in self.rejected if reason in (None, each.reason)][:limit]

    async def rejected_record(self, record_id: str) -> RejectedRecord | None:
        await self._answer()
        parse_id(record_id)
        found = [each for each in self.rejected if each.id == record_id]
        if not found:
            raise InputError(f"no rejected record {record_id}: it does not exist or has expired")
        return found[0]

    async def resend(self, record_id: str, payload: bytes, audit: AuditEntry | None) -> None:
        corrected = correct(await self.rejected_record(record_id), payload)
        if audit is not None:
            self.resent.append(corrected)
            self.audit.append(audit._replace(after=corrected.headers, outcome="done"))
