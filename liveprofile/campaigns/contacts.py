"""Contacts in Cassandra: for frequency caps; and the users with open fraud cases."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import orjson
from cassandra.cluster import Session
from cassandra.query import BoundStatement

from liveprofile.campaigns.plan import TREATMENT, Contact, is_at_cap
from liveprofile.campaigns.plan_file import Campaign, PlanFile
from liveprofile.rows.users import CAMPAIGN_CONTACT
from liveprofile.settings import Settings
from liveprofile.storage.cql import execute_per_key, from_ms, prepare, to_ms, write_all
from liveprofile.wire.user_records import CONTENT_TYPE

USERS_AT_ONCE = 10_000
MESSAGE_TYPE = "liveprofile.campaign.target"


def store_contacts(session: Session, settings: Settings, plan: PlanFile) -> int:
    """Stores the contacts of a plan; returns their number. Raises ServiceError."""
    insert = prepare(session, CAMPAIGN_CONTACT.insert(settings.cassandra.history_ttl_s))
    insert.is_idempotent = True
    campaign = plan.campaign

    def statements() -> Iterator[BoundStatement]:
        for target in plan.targets:
            if target.group == TREATMENT:
                start = from_ms(campaign.start_ms)
                values = (target.user_id, start, campaign.name, campaign.start_ms * 1_000)
                yield insert.bind(values)

    return write_all(session, statements())


def users_at_cap(session: Session, users: Iterable[str], campaign: Campaign) -> set[str]:
    """The users whom the campaign must not contact because of its cap. Raises ServiceError."""
    cap = campaign.cap
    if cap is None:
        return set()
    query = "SELECT start, campaign FROM campaign_contact WHERE user_id = ?"
    own = Contact(campaign.start_ms, campaign.name)
    return {
        user
        for user, rows in _rows_by_user(session, query, users)
        if is_at_cap((Contact(to_ms(row.start), row.campaign) for row in rows), own, cap)
    }


class Remaining(NamedTuple):
    """What is left of a plan when it is sent."""

    plan: PlanFile
    left_out: dict[str, int]  # reason: users of the treatment group


def still_allowed(session: Session, plan: PlanFile, allows: Callable[[str], bool]) -> Remaining:
    """Leaves out who has withdrawn since the plan was made, and who is at the cap now.

    allows: whether a user allows marketing. Raises ServiceError.
    """
    users = [target.user_id for target in plan.targets if target.group == TREATMENT]
    withdrawn = {user for user in users if not allows(user)}
    at_cap = users_at_cap(session, (user for user in users if user not in withdrawn), plan.campaign)
    targets = [target for target in plan.targets if target.user_id not in withdrawn | at_cap]
    left_out = {"no_consent": len(withdrawn), "frequency_cap": len(at_cap)}
    return Remaining(plan._replace(targets=targets), left_out)


def users_with_open_cases(session: Session, users: Iterable[str]) -> set[str]:
    """The users who have an open case (docs/alerts.md). Raises ServiceError."""
    query = "SELECT state FROM risk_case WHERE user_id = ?"
    return {
        user
        for user, rows in _rows_by_user(session, query, users)
        if any(row.state == "open" for row in rows)
    }


def _rows_by_user(session: Session, query: str, users: Iterable[str]) -> Iterator[tuple[str, Any]]:
    remaining = iter(users)
    while part := list(itertools.islice(remaining, USERS_AT_ONCE)):
        yield from execute_per_key(session, query, part).items()


def messages(plan: PlanFile) -> Iterator[tuple[bytes, bytes, dict[str, str]]]:
    """Yields key, value and headers of a record for each user of the treatment group.

    The value is a CloudEvent 1.0. Its id is the same each time the plan is sent.
    """
    campaign = plan.campaign
    for target in plan.targets:
        if target.group != TREATMENT:
            continue
        event = {
            "specversion": "1.0",
            "id": f"{campaign.name}/{target.user_id}",
            "source": "liveprofile/campaign",
            "type": MESSAGE_TYPE,
            "subject": target.user_id,
            "time": from_ms(campaign.start_ms).isoformat(),
            "datacontenttype": "application/json",
            "data": {
                "campaign": campaign.name,
                "user_id": target.user_id,
                "segments": target.segments,
                "expected_gain": target.expected_gain,
            },
        }
        yield target.user_id.encode(), orjson.dumps(event), CONTENT_TYPE
