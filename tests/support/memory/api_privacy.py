"""Consents and erasures of the read API's store in memory."""

from __future__ import annotations

import asyncio

from liveprofile.consent.changes import ConsentChange, in_order
from liveprofile.privacy.erasure_log import REQUESTED, Deletion
from liveprofile.privacy.erasure_status import place_statuses
from liveprofile.settings import load
from serve.store.protocol import AuditEntry, ConsentState, ErasureState


class MemoryPrivacy:
    """A subclass has `audit`."""

    def __init__(self) -> None:
        self.audit: list[AuditEntry] = []
        self.consent_changes: dict[str, set[ConsentChange]] = {}
        self.erasures: dict[str, int] = {}

    async def _answer(self) -> None:
        await asyncio.sleep(0)

    async def consents(self, user_id: str) -> ConsentState:
        await self._answer()
        changes = in_order(self.consent_changes.get(user_id, ()))
        return ConsentState(changes, load().consent.defaults)

    async def change_consent(
        self, user_id: str, change: ConsentChange, audit: AuditEntry
    ) -> ConsentState:
        await self._answer()
        self.consent_changes.setdefault(user_id, set()).add(change)
        self.audit.append(audit._replace(after=change._asdict(), outcome="done"))
        return await self.consents(user_id)

    async def erasure(self, user_id: str) -> ErasureState | None:
        await self._answer()
        before_ms = self.erasures.get(user_id)
        if before_ms is None:
            return None
        requested = Deletion(before_ms, before_ms, REQUESTED)
        return ErasureState(
            before_ms, False, list(place_statuses(before_ms, requested, load(), before_ms))
        )

    async def request_erasure(
        self, user_id: str, before_ms: int, audit: AuditEntry
    ) -> ErasureState:
        await self._answer()
        if self.erasures.get(user_id, -1) < before_ms:
            self.erasures[user_id] = before_ms
            self.audit.append(audit._replace(after={"before_ms": before_ms}, outcome="done"))
        found = await self.erasure(user_id)
        assert found is not None
        return found
