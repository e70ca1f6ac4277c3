"""Campaigns: planned and reported on by scans, stored with their users."""

import re
from collections.abc import Mapping
from typing import Any

from cassandra.cluster import Session

from liveprofile.consent.changes import ConsentTable, read_changes
from liveprofile.errors import InputError
from liveprofile.feeds.users import read_consents, read_erasures
from liveprofile.kafka.records import send_all
from liveprofile.rows.operations import AuditEntry
from liveprofile.settings import Settings
from liveprofile.storage.cql import now_ms
from liveprofile.storage.erasures import erased_before_ms
from services.audit_trail import audited
from services.campaigns.plan import (
    Campaign,
    Cap,
    Plan,
    Target,
    Wish,
    condition_of,
    summary_of,
)
from services.campaigns.report import Uplift, report_on
from services.campaigns.request import CAMPAIGN_PATTERN, CampaignRequest
from services.campaigns.store import (
    StoredPlan,
    Watch,
    bucket_targets,
    find_plan,
    messages,
    plan_campaign,
    read_targets,
    require_new,
    still_allowed,
    store_plan,
)
from services.privacy.erasures import delete_users


def wish_of(name: str, body: CampaignRequest, now_ms: int, when: str = "when") -> Wish:
    """when: names the condition in messages. Raises InputError for a name or a condition."""
    if not re.fullmatch(CAMPAIGN_PATTERN, name):
        raise InputError(f"name {name!r}: up to 64 of a-z, 0-9, dots, dashes and underscores")
    start_ms = now_ms if body.start_ms is None else body.start_ms
    cap = body.cap and Cap(body.cap.contacts, body.cap.days)
    return Wish(
        Campaign(name, start_ms, body.control_share, body.cost, cap),
        None if body.when is None else condition_of(body.when, when),
        frozenset(body.segments),
        frozenset(body.excluded),
        body.margin,
        body.response,
        body.budget,
    )


def requested_of(body: CampaignRequest) -> dict[str, Any]:
    """What is kept of a request: without ids of users."""
    return body.model_dump(exclude={"excluded"}) | {"excluded": len(body.excluded)}


def choose(session: Session, settings: Settings, wish: Wish, *, watch: Watch = iter) -> Plan:
    """The users that a campaign reaches, and its control group, of those who allow marketing."""
    allows = read_consents(settings).allowing("marketing", now_ms())
    return plan_campaign(session, wish, allows, lambda: read_erasures(settings).is_erased, watch)


def send(session: Session, settings: Settings, name: str, topic: str) -> tuple[int, dict[str, int]]:
    """Sends the treatment group to a topic.

    Returns how many were sent, and how many were left out by reason: erased, no_consent,
    frequency_cap. Raises UnknownCampaignError.
    """
    found = find_plan(session, name)
    allows = read_consents(settings).allowing("marketing", now_ms())
    remaining, left_out = still_allowed(session, found, allows, read_erasures(settings).is_erased)
    return send_all(settings, topic, messages(found.campaign, remaining)), left_out


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
        store_plan(
            session, settings, wish.campaign, found.targets, by, dict(requested), entry.after
        )
        # An erasure that came after the choice may have deleted before the plan was stored.
        erased = read_erasures(settings)
        gone = (user for user, *_, at in found.targets if erased.is_erased(user, at))
        for _ in delete_users(session, settings, {user: erased.before_ms(user) for user in gone}):
            pass
        return entry.after


def targets(session: Session, settings: Settings, name: str, bucket: int) -> list[Target]:
    """Of one of SEGMENT_BUCKETS buckets, without those who were erased since the profile that the
    plan was made with, and who no longer allow marketing.

    Raises UnknownCampaignError.
    """
    plan = find_plan(session, name)
    found = list(bucket_targets(session, plan.plan_id, bucket))
    users = [each.user_id for each in found]
    erased = erased_before_ms(session, users)
    consents = ConsentTable(settings.consent.defaults)
    for user_id, changes in read_changes(session, users).items():
        consents.put(user_id, changes)
    allows = consents.allowing("marketing", now_ms())
    return [
        each
        for each in found
        if allows(each.user_id) and each.window_start_ms >= erased.get(each.user_id, 0)
    ]


def report(
    session: Session, settings: Settings, name: str, days_ms: int, *, watch: Watch = iter
) -> tuple[StoredPlan, Mapping[str, Uplift]]:
    """Outcomes of `days_ms` from the start. Raises UnknownCampaignError."""
    found = find_plan(session, name)
    end_ms = found.campaign.start_ms + days_ms
    users, window_ms = read_targets(session, found), settings.window.length_ms
    return found, report_on(session, found.campaign, users, end_ms, window_ms, watch)
