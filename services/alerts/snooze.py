"""Snoozes: until a given time, a user's flags of a rule are stored but send no alert."""

from typing import NamedTuple

from cassandra.cluster import Session

from liveprofile.errors import InputError
from liveprofile.rows.risk import RISK_SNOOZE
from liveprofile.storage.cql import execute, from_ms, now_ms, read, to_ms
from liveprofile.units import DAY_MS, SECOND_MS

MAX_SNOOZE_MS = 365 * DAY_MS


class Snooze(NamedTuple):
    """Alerts of a rule, or of all rules (`*`), are snoozed for a user until a time."""

    rule_id: str  # or ALL_RULES
    until_ms: int
    by: str
    note: str


def snooze(
    session: Session, user_id: str, rule_id: str, until_ms: int, by: str, note: str = ""
) -> Snooze:
    """Snoozes a rule, or ALL_RULES, for a user. Replaces an existing snooze.

    Raises InputError if the time is in the past or more than MAX_SNOOZE_MS ahead.
    """
    remaining_ms = check_end(until_ms)
    # The TTL counts whole seconds and must not end before `until`, which is exact.
    ttl_s = remaining_ms // SECOND_MS + 2
    execute(
        session,
        RISK_SNOOZE.insert(ttl_s, time="", mark="%s"),
        (user_id, rule_id, from_ms(until_ms), by, note),
    )
    return Snooze(rule_id, until_ms, by, note)


def check_end(until_ms: int) -> int:
    """The milliseconds until the end of a snooze. Raises InputError if they are no allowed time."""
    remaining_ms = until_ms - now_ms()
    if 0 < remaining_ms <= MAX_SNOOZE_MS:
        return remaining_ms
    raise InputError(
        f"snooze until {from_ms(until_ms):%Y-%m-%d %H:%M:%S}: must be in the future, at most"
        f" {MAX_SNOOZE_MS // DAY_MS} days ahead"
    )


def end_snooze(session: Session, user_id: str, rule_id: str) -> None:
    """Deletes a snooze; does nothing if there is none."""
    query = "DELETE FROM risk_snooze WHERE user_id = %s AND rule_id = %s"
    execute(session, query, (user_id, rule_id))


def read_snoozes(session: Session, user_id: str) -> list[Snooze]:
    """Returns the user's snoozes, with who set them and the note."""
    query = "SELECT rule_id, until, analyst, note FROM risk_snooze WHERE user_id = %s"
    return [
        Snooze(row.rule_id, to_ms(row.until), row.analyst or "", row.note or "")
        for row in read(session, query, (user_id,))
    ]
