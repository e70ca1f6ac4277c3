"""Plans in Cassandra. A plan has an id; its targets are stored before the campaign names it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
from cassandra.cluster import Session
from cassandra.query import BoundStatement, SimpleStatement

from liveprofile.campaigns.contacts import store_contacts
from liveprofile.campaigns.plan import Cap, Target
from liveprofile.campaigns.plan_file import Campaign, PlanFile
from liveprofile.errors import LiveprofileError
from liveprofile.rows.users import CAMPAIGN_PLAN, CAMPAIGN_TARGET, SEGMENT_BUCKETS, segment_bucket
from liveprofile.settings import Settings
from liveprofile.storage.cql import (
    execute,
    from_ms,
    now_ms,
    prepare,
    read,
    read_pages,
    to_ms,
    write_all,
)
from liveprofile.units import DAY_MS

_COLUMNS = ", ".join(CAMPAIGN_PLAN.names())


class UnknownCampaignError(LiveprofileError):
    """No stored plan has this name. Exit code 1."""


class CampaignExistsError(LiveprofileError):
    """A stored plan has this name already. Exit code 1."""


class StoredPlan(NamedTuple):
    """A campaign with the summary of its plan."""

    campaign: Campaign
    plan_id: uuid.UUID
    planned_at_ms: int
    planned_by: str
    requested: dict[str, Any]
    summary: dict[str, Any]


def store_plan(
    session: Session,
    settings: Settings,
    plan: PlanFile,
    by: str,
    requested: dict[str, Any],
    summary: dict[str, Any],
) -> StoredPlan:
    """Stores a new plan and the contacts of its treatment group. Raises ServiceError,
    CampaignExistsError.

    A failure leaves at most targets of a plan that no campaign names, and contacts that nobody
    makes. Both expire. The other order could lose contacts, and users would hear too often.
    """
    stored = StoredPlan(plan.campaign, uuid.uuid4(), now_ms(), by, requested, summary)
    require_new(session, plan.campaign.name)
    ttl_s = settings.cassandra.history_ttl_s
    planned_us = str(stored.planned_at_ms * 1_000)
    insert = prepare(session, CAMPAIGN_TARGET.insert(ttl_s, time=planned_us))
    insert.is_idempotent = True

    def statements() -> Iterator[BoundStatement]:
        for user_id, *rest in plan.targets:
            group, segments, *numbers = rest
            key = (stored.plan_id, segment_bucket(user_id), user_id)
            yield insert.bind((*key, group, set(segments), *numbers))

    write_all(session, statements())
    store_contacts(session, settings, plan)
    execute(
        session,
        CAMPAIGN_PLAN.insert(ttl_s, time="", mark="%s", condition=" IF NOT EXISTS"),
        (
            stored.campaign.name,
            stored.plan_id,
            from_ms(stored.campaign.start_ms),
            stored.campaign.control_share,
            stored.campaign.cost,
            from_ms(stored.planned_at_ms),
            by,
            orjson.dumps(requested).decode(),
            orjson.dumps(summary).decode(),
        ),
    )
    # Two requests may plan the same campaign at once: one of them is the first.
    first = _find(session, stored.campaign.name)
    if first is None or first.plan_id != stored.plan_id:
        raise _exists(stored.campaign.name)
    return stored


def require_new(session: Session, name: str) -> None:
    """Raises CampaignExistsError, ServiceError."""
    if _find(session, name) is not None:
        raise _exists(name)


def read_plans(session: Session) -> list[StoredPlan]:
    """All stored campaigns, newest start first. Raises ServiceError."""
    rows = read_pages(session, SimpleStatement(f"SELECT {_COLUMNS} FROM campaign_plan"))
    return sorted(
        map(_stored, rows), key=lambda plan: (-plan.campaign.start_ms, plan.campaign.name)
    )


def find_plan(session: Session, name: str) -> StoredPlan:
    """Raises UnknownCampaignError, ServiceError."""
    found = _find(session, name)
    if found is None:
        raise UnknownCampaignError(f"no campaign {name!r} is stored")
    return found


def read_targets(session: Session, plan: StoredPlan) -> PlanFile:
    """The whole plan, users in order of their ids. Raises ServiceError."""
    targets = [
        target
        for bucket in range(SEGMENT_BUCKETS)
        for target in bucket_targets(session, plan.plan_id, bucket)
    ]
    return PlanFile(plan.campaign, sorted(targets))


def bucket_targets(session: Session, plan_id: uuid.UUID, bucket: int) -> Iterator[Target]:
    query = SimpleStatement(
        "SELECT user_id, arm, segments, churn, expected_spend, expected_gain FROM campaign_target"
        " WHERE plan_id = %s AND bucket = %s",
        fetch_size=5_000,
    )
    for row in read_pages(session, query, (plan_id, bucket)):
        yield Target(*row)._replace(segments=tuple(sorted(row.segments or ())))


def _find(session: Session, name: str) -> StoredPlan | None:
    query = f"SELECT {_COLUMNS} FROM campaign_plan WHERE campaign = %s"
    row = read(session, query, (name,)).one()
    return None if row is None else _stored(row)


def plan_as_json(plan: StoredPlan) -> dict[str, Any]:
    """The campaign as `campaign list --json` and the read API give it."""
    about = plan.campaign
    return about.model_dump(exclude={"cap"}) | {
        "planned_at_ms": plan.planned_at_ms,
        "planned_by": plan.planned_by,
        "requested": plan.requested,
        "summary": {"name": about.name, "start_ms": about.start_ms} | plan.summary,
    }


def _stored(row: Any) -> StoredPlan:
    requested = orjson.loads(row.requested)
    cap = requested.get("cap")
    campaign = Campaign(
        name=row.campaign,
        start_ms=to_ms(row.start),
        control_share=row.control_share,
        cost=row.cost,
        cap=cap and Cap(contacts=cap["contacts"], span_ms=cap["days"] * DAY_MS),
    )
    return StoredPlan(
        campaign,
        row.plan_id,
        to_ms(row.planned_at),
        row.planned_by,
        requested,
        orjson.loads(row.summary),
    )


def _exists(name: str) -> CampaignExistsError:
    return CampaignExistsError(f"campaign {name!r} is planned already: choose another name")
