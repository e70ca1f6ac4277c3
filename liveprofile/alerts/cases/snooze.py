"""Snoozes: flags of a user and rule are stored, but send no alert, until a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cassandra.cluster import Session

from liveprofile.errors import InputError
from liveprofile.storage.cql import execute, from_ms, now_ms, to_ms

ALL_RULES = "*"
LONGEST_MS = 365 * 86_400_000


class Snooze(NamedTuple):
    rule_id: str  # or ALL_RULES
    until_ms: int
    by: str
    note: str


def snooze(
    session: Session, user_id: str, rule_id: str, until_ms: int, by: str, note: str = ""
) -> Snooze:
    """Silences a rule, or ALL_RULES, of a user; replaces the snooze there is.

    Raises InputError if the time is past or more than LONGEST_MS ahead.
    """
    left_ms = until_ms - now_ms()
    if not 0 < left_ms <= LONGEST_MS:
        raise InputError(
            f"snooze until {from_ms(until_ms):%Y-%m-%d %H:%M:%S}: must lie ahead, by at most"
            f" {LONGEST_MS // 86_400_000} days"
        )
    # Cassandra counts whole seconds; `until` is exact.
    ttl_s = left_ms // 1_000 + 2
    execute(
        session,
        "INSERT INTO risk_snooze (user_id, rule_id, until, analyst, note)"
        f" VALUES (%s, %s, %s, %s, %s) USING TTL {ttl_s:d}",
        (user_id, rule_id, from_ms(until_ms), by, note),
    )
    return Snooze(rule_id, until_ms, by, note)


def wake(session: Session, user_id: str, rule_id: str) -> None:
    """Ends a snooze now; does nothing if there is none."""
    query = "DELETE FROM risk_snooze WHERE user_id = %s AND rule_id = %s"
    execute(session, query, (user_id, rule_id))


def snoozes(session: Session, user_id: str) -> list[Snooze]:
    """What is snoozed of a user, with by whom and why."""
    query = "SELECT rule_id, until, analyst, note FROM risk_snooze WHERE user_id = %s"
    return [
        Snooze(row.rule_id, to_ms(row.until), row.analyst or "", row.note or "")
        for row in execute(session, query, (user_id,))
    ]


def snoozed(session: Session, user_id: str) -> dict[str, int]:
    """{rule_id or ALL_RULES: until when, in ms} of a user."""
    return {found.rule_id: found.until_ms for found in snoozes(session, user_id)}


def covers(snoozed: Mapping[str, int], rule_id: str, at_ms: int) -> bool:
    """Whether a rule is silent at a time of the clock (not of events)."""
    return any(snoozed.get(each, 0) > at_ms for each in (rule_id, ALL_RULES))
