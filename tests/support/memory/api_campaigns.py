"""Campaigns of the read API's store in memory."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any

from liveprofile.campaigns.plan import CONTROL, TREATMENT, Plan, Target
from liveprofile.campaigns.plan_store import CampaignExists, StoredPlan, UnknownCampaign
from liveprofile.campaigns.planning import Wish, summary_of
from liveprofile.campaigns.uplift import Uplift, uplift_by_segment
from serve.store.protocol import AuditEntry

TARGETS = [
    Target("42", TREATMENT, ("loyal",), 0.25, 12.5, 9.0),
    Target("43", CONTROL, (), 0.5, 2.0, 1.0),
]


class MemoryCampaigns:
    """Every plan has TARGETS. A subclass has `audit` and `_answer`."""

    def __init__(self) -> None:
        self.audit: list[AuditEntry] = []
        self.plans: dict[str, StoredPlan] = {}

    async def _answer(self) -> None:
        await asyncio.sleep(0)

    async def campaigns(self) -> list[StoredPlan]:
        await self._answer()
        return list(self.plans.values())

    async def campaign(self, name: str) -> StoredPlan:
        await self._answer()
        if name not in self.plans:
            raise UnknownCampaign(f"no campaign {name!r} is stored")
        return self.plans[name]

    async def campaign_targets(self, name: str, bucket: int) -> list[Target]:
        await self.campaign(name)
        return TARGETS[bucket : bucket + 1]

    async def plan_campaign(self, wish: Wish, audit: AuditEntry | None) -> dict[str, Any]:
        await self._answer()
        summary = summary_of(Plan(TARGETS, {"budget": 3}), wish)
        if audit is None:
            return summary
        name = wish.campaign.name
        if name in self.plans:
            self.audit.append(audit._replace(outcome="refused"))
            raise CampaignExists(f"campaign {name!r} is planned already")
        self.plans[name] = StoredPlan(
            wish.campaign, uuid.UUID(int=1), audit.at_ms, audit.name, audit.requested, summary
        )
        self.audit.append(audit._replace(after=summary, outcome="done"))
        return summary

    async def campaign_report(
        self, name: str, days_ms: int
    ) -> tuple[StoredPlan, Mapping[str, Uplift]]:
        return await self.campaign(name), uplift_by_segment(TARGETS, {})
