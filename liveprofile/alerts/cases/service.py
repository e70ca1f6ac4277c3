"""Cases of customer service: of a user and rule at most one is open, and it collects alerts.

Every write is conditional (IF in CQL), so several consumers and people may work at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from cassandra.cluster import Session
from tenacity import retry, retry_if_result, stop_after_attempt, wait_random_exponential

from liveprofile.alerts.cases.states import State, states_of
from liveprofile.errors import ServiceError
from liveprofile.storage.cql import execute, from_ms, now_ms, to_ms

# A lost race is tried again: somebody else's write has succeeded each time.
RACES = 20
# The states in which nobody needs to do anything with a flag any more.
SETTLED = frozenset({State.CONFIRMED, State.FALSE_POSITIVE, State.CLOSED})


class NewAlert(NamedTuple):
    """What a case keeps of an alert."""

    alert_id: str
    time_ms: int
    user_id: str
    rule_id: str
    severity: str
    action: str
    message: str


class Case(NamedTuple):
    user_id: str
    rule_id: str
    number: int  # 1 for the first of this user and rule
    is_open: bool
    opened_at_ms: int
    severity: str  # of the first alert, as action and message
    action: str
    message: str
    alerts: dict[str, int]  # alert id: its time in ms


def _gave_up(state: Any) -> None:
    raise ServiceError(f"Cassandra, risk_case: lost {state.attempt_number} races in a row")


_until_won = retry(
    retry=retry_if_result(lambda case: case is None),
    stop=stop_after_attempt(RACES),
    wait=wait_random_exponential(0.01, max=0.5),
    retry_error_callback=_gave_up,
)


def cases(session: Session, user_id: str, rule_id: str | None = None) -> list[Case]:
    """The cases of a user, or of a user and rule: there, newest first."""
    query = (
        "SELECT user_id, rule_id, number, state, opened_at, severity, action, message, alerts"
        " FROM risk_case WHERE user_id = %s"
    )
    if rule_id is None:
        return list(map(_case, execute(session, query, (user_id,))))
    return list(map(_case, execute(session, f"{query} AND rule_id = %s", (user_id, rule_id))))


@_until_won
def attach(session: Session, alert: NewAlert) -> Case | None:
    """Puts an alert into the open case of its user and rule, or opens one; returns the case.

    An alert that some case of this user and rule has already changes nothing: it may come twice.
    """
    known = cases(session, alert.user_id, alert.rule_id)
    for case in known:
        if alert.alert_id in case.alerts:
            return case
    if known and known[0].is_open:
        return _add(session, known[0], alert)
    return _open(session, known[0].number + 1 if known else 1, alert)


def settle(session: Session, user_id: str, rule_id: str, by: str) -> Case | None:
    """Closes the open case if all of its flags are settled; returns it as it is then."""
    known = cases(session, user_id, rule_id)
    if not known or not known[0].is_open:
        return None
    case = known[0]
    if any(found.state not in SETTLED for found in states_of(session, case.alerts).values()):
        return case
    # On the alerts: one that came in the meantime keeps the case open.
    closed = execute(
        session,
        "UPDATE risk_case SET state = 'closed', closed_by = %s, updated_at = %s"
        " WHERE user_id = %s AND rule_id = %s AND number = %s IF state = 'open' AND alerts = %s",
        (by, from_ms(now_ms()), user_id, rule_id, case.number, _stored(case.alerts)),
    ).was_applied
    return case._replace(is_open=not closed)


def _add(session: Session, case: Case, alert: NewAlert) -> Case | None:
    """None if the case has changed since it was read."""
    alerts = case.alerts | {alert.alert_id: alert.time_ms}
    added = execute(
        session,
        "UPDATE risk_case SET alerts = %s, updated_at = %s"
        " WHERE user_id = %s AND rule_id = %s AND number = %s IF state = 'open' AND alerts = %s",
        (
            _stored(alerts), from_ms(now_ms()),
            case.user_id, case.rule_id, case.number, _stored(case.alerts),
        ),
    ).was_applied  # fmt: skip
    return case._replace(alerts=alerts) if added else None


def _open(session: Session, number: int, alert: NewAlert) -> Case | None:
    """None if somebody else has opened this number."""
    time_ms = now_ms()
    alerts = {alert.alert_id: alert.time_ms}
    opened = execute(
        session,
        "INSERT INTO risk_case (user_id, rule_id, number, state, opened_at, updated_at, severity,"
        " action, message, alerts) VALUES (%s, %s, %s, 'open', %s, %s, %s, %s, %s, %s)"
        " IF NOT EXISTS",
        (
            alert.user_id, alert.rule_id, number, from_ms(time_ms), from_ms(time_ms),
            alert.severity, alert.action, alert.message, _stored(alerts),
        ),
    ).was_applied  # fmt: skip
    if not opened:
        return None
    return Case(
        alert.user_id, alert.rule_id, number, True, time_ms,
        alert.severity, alert.action, alert.message, alerts,
    )  # fmt: skip


def _stored(alerts: dict[str, int]) -> dict[str, Any]:
    return {alert_id: from_ms(time_ms) for alert_id, time_ms in alerts.items()}


def _case(row: Any) -> Case:
    alerts = {alert_id: to_ms(time) for alert_id, time in (row.alerts or {}).items()}
    return Case(
        row.user_id, row.rule_id, row.number, row.state == "open", to_ms(row.opened_at),
        row.severity, row.action, row.message, alerts,
    )  # fmt: skip
