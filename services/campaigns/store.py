"""Plans of campaigns and contacts in Cassandra. Every function raises ServiceError.

A plan has an id; its targets are stored before the campaign names it.
"""

from __future__ import annotations

import csv
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from cassandra.cluster import Session
from cassandra.query import BoundStatement, SimpleStatement

from liveprofile.errors import InputError, LiveprofileError
from liveprofile.rows.users import (
    CAMPAIGN_CONTACT,
    CAMPAIGN_PLAN,
    CAMPAIGN_TARGET,
    SEGMENT_BUCKETS,
    segment_bucket,
)
from liveprofile.settings import Settings
from liveprofile.storage.cql import (
    execute,
    execute_per_key,
    from_ms,
    now_ms,
    prepare,
    read,
    read_pages,
    to_ms,
    write_all,
)
from liveprofile.storage.queries import scan_profiles
from liveprofile.wire.user_records import CONTENT_TYPE, RecordKind, to_rfc3339
from services.campaigns.plan import (
    TREATMENT,
    Campaign,
    Cap,
    Contact,
    Plan,
    Target,
    Wish,
    candidates,
    choose,
    is_at_cap,
)

_COLUMNS = ", ".join(CAMPAIGN_PLAN.names())
MESSAGE_TYPE = "liveprofile.campaign.target"
_USERS_AT_ONCE = 10_000
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")

Watch = Callable[[Iterable[Any]], Iterable[Any]]


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


def plan_campaign(
    session: Session,
    wish: Wish,
    allows: Callable[[str], bool],
    read_erased: Callable[[], Callable[[str, int], bool]],
    watch: Watch = iter,
) -> Plan:
    """Chooses among all stored profiles that `watch` passes on, by the values at the campaign's
    start.

    Users with an open fraud case are left out. allows: whether a user allows marketing.
    read_erased: returns whether a user's window that begins at a time is erased; called after the
    scan, which may take minutes.
    """
    profiles = (each.at(wish.campaign.start_ms) for each in watch(scan_profiles(session)))
    found = list(candidates(profiles, wish))
    is_erased = read_erased()
    found = [each for each in found if not is_erased(each.user_id, each.window_start_ms)]
    users = [each.user_id for each in found]
    at_cap = users_at_cap(session, users, wish.campaign)
    query = "SELECT state FROM risk_case WHERE user_id = ?"
    open_cases = {
        user
        for user, rows in _rows_by_user(session, query, users)
        if any(row.state == "open" for row in rows)
    }
    excluded = {"open fraud case": open_cases, "frequency cap": at_cap}
    return choose(found, wish, excluded, allows)


def store_plan(
    session: Session,
    settings: Settings,
    campaign: Campaign,
    targets: Iterable[Target],
    by: str,
    requested: dict[str, Any],
    summary: dict[str, Any],
) -> StoredPlan:
    """Stores a new plan and the contacts of its treatment group. Raises CampaignExistsError.

    A failure leaves at most targets of a plan that no campaign names, and contacts that nobody
    makes. Both expire. The other order could lose contacts, and users would hear too often.
    """
    stored = StoredPlan(campaign, uuid.uuid4(), now_ms(), by, requested, summary)
    ttl_s = settings.cassandra.history_ttl_s
    planned_us = stored.planned_at_ms * 1_000
    insert_target = prepare(session, CAMPAIGN_TARGET.insert(ttl_s))
    insert_contact = prepare(session, CAMPAIGN_CONTACT.insert(ttl_s))
    insert_target.is_idempotent = insert_contact.is_idempotent = True
    start = from_ms(campaign.start_ms)

    def statements() -> Iterator[BoundStatement]:
        for user_id, group, segments, *numbers, window_start_ms in targets:
            key = (stored.plan_id, segment_bucket(user_id), user_id)
            about = from_ms(window_start_ms)
            yield insert_target.bind((*key, group, set(segments), *numbers, about, planned_us))
            if group == TREATMENT:
                written_us = campaign.start_ms * 1_000
                yield insert_contact.bind((user_id, start, campaign.name, about, written_us))

    write_all(session, statements())
    execute(
        session,
        CAMPAIGN_PLAN.insert(ttl_s, time="", mark="%s", condition=" IF NOT EXISTS"),
        (
            campaign.name,
            stored.plan_id,
            start,
            campaign.control_share,
            campaign.cost,
            from_ms(stored.planned_at_ms),
            by,
            orjson.dumps(requested).decode(),
            orjson.dumps(summary).decode(),
        ),
    )
    # Two requests may plan the same campaign at once: one of them is the first.
    first = _find(session, campaign.name)
    if first is None or first.plan_id != stored.plan_id:
        raise _exists(campaign.name)
    return stored


def require_new(session: Session, name: str) -> None:
    """Raises CampaignExistsError."""
    if _find(session, name) is not None:
        raise _exists(name)


def read_plans(session: Session) -> list[StoredPlan]:
    """All stored campaigns, newest start first."""
    rows = read_pages(session, SimpleStatement(f"SELECT {_COLUMNS} FROM campaign_plan"))
    return sorted(
        map(_stored, rows), key=lambda plan: (-plan.campaign.start_ms, plan.campaign.name)
    )


def find_plan(session: Session, name: str) -> StoredPlan:
    """Raises UnknownCampaignError."""
    found = _find(session, name)
    if found is None:
        raise UnknownCampaignError(f"no campaign {name!r} is stored")
    return found


def read_targets(session: Session, plan: StoredPlan) -> list[Target]:
    """The whole plan, users in order of their ids."""
    buckets = (bucket_targets(session, plan.plan_id, each) for each in range(SEGMENT_BUCKETS))
    return sorted(itertools.chain.from_iterable(buckets))


def bucket_targets(session: Session, plan_id: uuid.UUID, bucket: int) -> Iterator[Target]:
    query = SimpleStatement(
        "SELECT user_id, arm, segments, churn, expected_spend, expected_gain,"
        " to_unix_timestamp(window_start) FROM campaign_target WHERE plan_id = %s AND bucket = %s",
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
    return {
        **{name: value for name, value in about._asdict().items() if name != "cap"},
        "planned_at_ms": plan.planned_at_ms,
        "planned_by": plan.planned_by,
        "requested": plan.requested,
        "summary": {"name": about.name, "start_ms": about.start_ms} | plan.summary,
    }


def _stored(row: Any) -> StoredPlan:
    requested = orjson.loads(row.requested)
    cap = requested.get("cap") and Cap(**requested["cap"])
    about = Campaign(row.campaign, to_ms(row.start), row.control_share, row.cost, cap)
    planned = (row.plan_id, to_ms(row.planned_at), row.planned_by)
    return StoredPlan(about, *planned, requested, orjson.loads(row.summary))


def _exists(name: str) -> CampaignExistsError:
    return CampaignExistsError(f"campaign {name!r} is planned already: choose another name")


def write_csv(file: Path, campaign: Campaign, targets: Iterable[Target]) -> None:
    """Writes the treatment and the control group; segments are separated by spaces.

    A text that a spreadsheet would take for a formula begins with an apostrophe (OWASP, CSV
    injection). Raises InputError.
    """
    try:
        with file.open("w", newline="", encoding="utf-8") as output:
            writer = csv.writer(output)
            writer.writerow(["campaign", *Target._fields])
            for target in targets:
                row = target._replace(segments=" ".join(target.segments))
                writer.writerow([campaign.name, *map(_no_formula, row)])
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None


def _no_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULAS) else cell


def users_at_cap(session: Session, users: Iterable[str], campaign: Campaign) -> set[str]:
    """The users whom the campaign must not contact because of its cap."""
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


def still_allowed(
    session: Session,
    plan: StoredPlan,
    allows: Callable[[str], bool],
    is_erased: Callable[[str, int], bool],
) -> tuple[list[Target], dict[str, int]]:
    """The treatment group without who was erased or has withdrawn since the profile that the plan
    was made with, and who is at the cap now; how many each of the three are.

    allows: whether a user allows marketing. is_erased: whether what is of a time is.
    """
    treated = {
        each.user_id: each for each in read_targets(session, plan) if each.group == TREATMENT
    }
    erased = {user for user, each in treated.items() if is_erased(user, each.window_start_ms)}
    withdrawn = {user for user in treated.keys() - erased if not allows(user)}
    at_cap = users_at_cap(session, treated.keys() - erased - withdrawn, plan.campaign)
    kept = [treated[user] for user in treated if user not in erased | withdrawn | at_cap]
    left_out = {"erased": erased, "no_consent": withdrawn, "frequency_cap": at_cap}
    return kept, {reason: len(users) for reason, users in left_out.items()}


def messages(
    campaign: Campaign, targets: Iterable[Target]
) -> Iterator[tuple[bytes, bytes, dict[str, str]]]:
    """Yields key, value and headers of a record for each target.

    The value is a CloudEvent 1.0. Its id is the same each time the plan is sent.
    """
    kind, time = RecordKind("liveprofile/campaign", MESSAGE_TYPE), to_rfc3339(campaign.start_ms)
    for target in targets:
        data = {
            "campaign": campaign.name,
            "user_id": target.user_id,
            "segments": target.segments,
            "expected_gain": target.expected_gain,
        }
        event = kind.value(target.user_id, time, data, f"{campaign.name}/{target.user_id}")
        yield target.user_id.encode(), event, CONTENT_TYPE


def _rows_by_user(session: Session, query: str, users: Iterable[str]) -> Iterator[tuple[str, Any]]:
    remaining = iter(users)
    while part := list(itertools.islice(remaining, _USERS_AT_ONCE)):
        yield from execute_per_key(session, query, part).items()
