"""Campaigns: planned and reported on by scans, stored with their users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cassandra.cluster import Session

from liveprofile.campaigns.plan import Target
from liveprofile.campaigns.plan_file import PlanFile
from liveprofile.campaigns.plan_store import (
    StoredPlan,
    bucket_targets,
    find_plan,
    read_plans,
    read_targets,
    require_new,
    store_plan,
)
from liveprofile.campaigns.planning import (
    Wish,
    plan_campaign,
    report_on,
    summary_of,
)
from liveprofile.campaigns.uplift import Uplift
from liveprofile.consent.changes import ConsentBook
from liveprofile.consent.store import read_changes
from liveprofile.feeds.users import read_consents
from liveprofile.settings import Settings
from liveprofile.storage.cql import now_ms
from serve.store.audit import audited
from serve.store.link import CassandraLink
from serve.store.protocol import AuditEntry
from serve.store.scans import CassandraScans, ScanLimit


class CassandraCampaigns:
    """The methods of serve.store.protocol.Store about campaigns."""

    def __init__(self, link: CassandraLink, scans: CassandraScans, settings: Settings):
        self._link, self._scans = link, scans
        self._campaign_settings = settings

    async def campaigns(self) -> list[StoredPlan]:
        return await self._link.in_thread(read_plans)

    async def campaign(self, name: str) -> StoredPlan:
        return await self._link.in_thread(lambda session: find_plan(session, name))

    async def campaign_targets(self, name: str, bucket: int) -> list[Target]:
        def read(session: Session) -> list[Target]:
            targets = list(bucket_targets(session, find_plan(session, name).plan_id, bucket))
            consents = ConsentBook(self._campaign_settings.consent.defaults)
            users = [target.user_id for target in targets]
            for user_id, changes in read_changes(session, users).items():
                consents.put(user_id, changes)
            allows = consents.allowing("marketing", now_ms())
            return [target for target in targets if allows(target.user_id)]

        return await self._link.in_thread(read)

    async def plan_campaign(self, wish: Wish, audit: AuditEntry | None) -> dict[str, Any]:
        settings = self._campaign_settings

        def work(session: Session, limit: ScanLimit) -> dict[str, Any]:
            allows = read_consents(settings).allowing("marketing", now_ms())
            if audit is None:
                return summary_of(plan_campaign(session, wish, allows, limit.watch), wish)
            with audited(session, audit, settings.serve.audit_ttl_s) as entry:
                require_new(session, wish.campaign.name)  # before a scan that takes long
                plan = plan_campaign(session, wish, allows, limit.watch)
                entry.after = summary_of(plan, wish)
                file = PlanFile(wish.campaign, plan.targets)
                store_plan(session, settings, file, audit.name, audit.requested, entry.after)
                return entry.after

        return await self._scans.scan(work)

    async def campaign_report(
        self, name: str, days_ms: int
    ) -> tuple[StoredPlan, Mapping[str, Uplift]]:
        window_ms = self._campaign_settings.window.length_ms

        def work(session: Session, limit: ScanLimit) -> tuple[StoredPlan, Mapping[str, Uplift]]:
            plan = find_plan(session, name)
            end_ms = plan.campaign.start_ms + days_ms
            targets = read_targets(session, plan)
            return plan, report_on(session, targets, end_ms, window_ms, limit.watch)

        return await self._scans.scan(work)
