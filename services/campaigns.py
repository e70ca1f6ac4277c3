"""Campaigns: planned and reported on by scans, stored with their users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cassandra.cluster import Session

from liveprofile.campaigns import contacts
from liveprofile.campaigns.plan import Cap, Economics, Plan, Target, condition_of
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
    Watch,
    Wish,
    campaign_of,
    plan_campaign,
    report_on,
    summary_of,
)
from liveprofile.campaigns.uplift import Uplift
from liveprofile.client.analysis_models import CampaignRequest
from liveprofile.consent.changes import ConsentBook
from liveprofile.consent.store import read_changes
from liveprofile.feeds.users import read_consents
from liveprofile.kafka.records import send_all
from liveprofile.settings import Settings
from liveprofile.storage.cql import now_ms
from liveprofile.units import DAY_MS
from services.audit import AuditEntry, audited


def wish_of(name: str, body: CampaignRequest, now_ms: int) -> Wish:
    """Raises InputError for a name or a condition."""
    start_ms = now_ms if body.start_ms is None else body.start_ms
    cap = body.cap and Cap(contacts=body.cap.contacts, span_ms=body.cap.days * DAY_MS)
    return Wish(
        campaign_of(
            name=name,
            start_ms=start_ms,
            control_share=body.control_share,
            cost=body.cost,
            cap=cap,
        ),
        Economics(body.cost, body.margin, body.response, body.budget),
        None if body.when is None else condition_of(body.when, "when"),
        frozenset(body.segments),
        frozenset(body.excluded),
    )


def requested_of(body: CampaignRequest) -> dict[str, Any]:
    """What is kept of a request: without ids of users."""
    return body.model_dump(exclude={"excluded"}) | {"excluded": len(body.excluded)}


def choose(session: Session, settings: Settings, wish: Wish, *, watch: Watch = iter) -> Plan:
    """The users that a campaign reaches, and its control group, of those who allow marketing."""
    allows = read_consents(settings).allowing("marketing", now_ms())
    return plan_campaign(session, wish, allows, watch)


def send(
    session: Session, settings: Settings, planned: PlanFile, topic: str
) -> tuple[int, dict[str, int]]:
    """Sends the treatment group to a topic, and counts the contacts of those who are sent.

    Returns how many were sent, and how many were left out by reason: no_consent, frequency_cap.
    """
    allows = read_consents(settings).allowing("marketing", now_ms())
    remaining, left_out = contacts.still_allowed(session, planned, allows)
    contacts.store_contacts(session, settings, remaining)
    return send_all(settings, topic, contacts.messages(remaining)), left_out


def plan(
    session: Session,
    settings: Settings,
    wish: Wish,
    by: str,
    requested: Mapping[str, Any],
    audit: AuditEntry | None = None,
    *,
    dry_run: bool = False,
    watch: Watch = iter,
) -> dict[str, Any]:
    """Plans, stores the plan unless it is a dry run, and returns its summary.

    Raises CampaignExistsError.
    """
    if dry_run:
        return summary_of(choose(session, settings, wish, watch=watch), wish)
    with audited(session, settings, audit) as entry:
        require_new(session, wish.campaign.name)  # before a scan that takes long
        found = choose(session, settings, wish, watch=watch)
        entry.after = summary_of(found, wish)
        file = PlanFile(wish.campaign, found.targets)
        store_plan(session, settings, file, by, dict(requested), entry.after)
        return entry.after


def stored_plans(session: Session, settings: Settings) -> list[StoredPlan]:
    """Newest start first."""
    return read_plans(session)


def stored_plan(session: Session, settings: Settings, name: str) -> StoredPlan:
    """Raises UnknownCampaignError."""
    return find_plan(session, name)


def targets(session: Session, settings: Settings, name: str, bucket: int) -> list[Target]:
    """Of one of SEGMENT_BUCKETS buckets, without those who no longer allow marketing.

    Raises UnknownCampaignError.
    """
    found = list(bucket_targets(session, find_plan(session, name).plan_id, bucket))
    consents = ConsentBook(settings.consent.defaults)
    for user_id, changes in read_changes(session, [each.user_id for each in found]).items():
        consents.put(user_id, changes)
    allows = consents.allowing("marketing", now_ms())
    return [target for target in found if allows(target.user_id)]


def report(
    session: Session, settings: Settings, name: str, days_ms: int, *, watch: Watch = iter
) -> tuple[StoredPlan, Mapping[str, Uplift]]:
    """Outcomes of `days_ms` from the start. Raises UnknownCampaignError."""
    found = find_plan(session, name)
    end_ms = found.campaign.start_ms + days_ms
    file = read_targets(session, found)
    return found, report_on(session, file, end_ms, settings.window.length_ms, watch)
