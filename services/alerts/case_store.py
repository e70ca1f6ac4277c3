"""Cases for customer service, in the table risk_case.

A user and rule have at most one open case; it collects their alerts. Every write is a lightweight
transaction (IF in CQL), so several consumers and analysts can work at once. It writes the whole
row, so that a case expires as a whole, `cassandra.case_ttl_s` after its last change.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cassandra.cluster import Session
from cassandra.query import BatchStatement, SimpleStatement
from tenacity import (
    RetryCallState,
    retry,
    retry_if_result,
    stop_after_attempt,
    wait_random_exponential,
)

from liveprofile.errors import ServiceError
from liveprofile.rows.risk import RISK_CASE
from liveprofile.storage.cql import execute, from_ms, now_ms, read, to_ms
from liveprofile.storage.erasures import erased_before_ms
from services.alerts.states import RESOLVED_STATES, read_states

# A write that loses a race is repeated. Each loss means that another writer succeeded.
MAX_ATTEMPTS = 20


class NewAlert(NamedTuple):
    """The fields of an alert that a case stores."""

    alert_id: str
    time_ms: int
    user_id: str
    rule_id: str
    severity: str
    action: str
    message: str


class AlertCase(NamedTuple):
    """The alerts of one user and rule. `alerts`: the time of each in ms, by its id."""

    user_id: str
    rule_id: str
    number: int  # 1 for the first case of this user and rule
    is_open: bool
    opened_at_ms: int
    severity: str  # severity, action and message are those of the first alert
    action: str
    message: str
    alerts: dict[str, int]  # alert id: its time in ms

    @property
    def first_ms(self) -> int:
        """The time of the oldest alert."""
        return min(self.alerts.values(), default=self.opened_at_ms)


SELECT_CASES = (
    "SELECT user_id, rule_id, number, state, to_unix_timestamp(opened_at), severity, action,"
    " message, alerts FROM risk_case"
)


def case_of(row: Sequence[Any]) -> AlertCase:
    """A row of SELECT_CASES."""
    *key, state, opened_at_ms, severity, action, message, alerts = row
    times = {alert_id: to_ms(time) for alert_id, time in (alerts or {}).items()}
    return AlertCase(*key, state == "open", opened_at_ms, severity, action, message, times)


def _raise_lost_races(state: RetryCallState) -> None:
    raise ServiceError(
        f"Cassandra, risk_case: {state.attempt_number} writes in a row lost to other writers"
    )


_retry_lost_races = retry(
    retry=retry_if_result(lambda case: case is None),
    stop=stop_after_attempt(MAX_ATTEMPTS),
    wait=wait_random_exponential(0.01, max=0.5),
    retry_error_callback=_raise_lost_races,
)


def read_cases(session: Session, user_id: str, rule_id: str | None = None) -> list[AlertCase]:
    """Returns the cases of a user, or of a user and rule. The cases of a rule are newest first."""
    query = f"{SELECT_CASES} WHERE user_id = %s"
    if rule_id is None:
        rows = read(session, query, (user_id,))
    else:
        rows = read(session, f"{query} AND rule_id = %s", (user_id, rule_id))
    return [case_of(row) for row in rows]


@_retry_lost_races
def add_alert(session: Session, alert: NewAlert, *, ttl_s: int) -> AlertCase | None:
    """Adds an alert to the open case of its user and rule, or opens a case. Returns the case.

    Idempotent: an alert that a case of this user and rule already holds changes nothing. A case
    with alerts that are erased is left to its deletion. ttl_s: how long the case is kept after this
    change.
    """
    cases = read_cases(session, alert.user_id, alert.rule_id)
    before_ms = erased_before_ms(session, [alert.user_id]).get(alert.user_id, 0)
    for case in cases:
        if alert.alert_id in case.alerts:
            return case
    if cases and cases[0].is_open and cases[0].first_ms >= before_ms:
        longer = cases[0]._replace(alerts=cases[0].alerts | {alert.alert_id: alert.time_ms})
        # None: the case has changed since it was read.
        return longer if _replace_row(session, cases[0], longer, None, ttl_s) else None
    return _open_case(session, cases[0].number + 1 if cases else 1, alert, ttl_s)


def close_if_resolved(
    session: Session, user_id: str, rule_id: str, by: str, *, ttl_s: int
) -> AlertCase | None:
    """Closes the open case if all its flags are resolved. ttl_s: as in `add_alert`.

    Returns the case as it is afterwards, or None if no case is open.
    """
    cases = read_cases(session, user_id, rule_id)
    if not cases or not cases[0].is_open:
        return None
    case = cases[0]
    states = read_states(session, case.alerts).values()
    if any(flag.state not in RESOLVED_STATES for flag in states):
        return case
    closed = case._replace(is_open=False)
    # If an alert arrived in the meantime, the case stays open.
    return closed if _replace_row(session, case, closed, by, ttl_s) else case


def _open_case(session: Session, number: int, alert: NewAlert, ttl_s: int) -> AlertCase | None:
    """Returns None if another writer has opened the case with this number."""
    case = AlertCase(
        user_id=alert.user_id,
        rule_id=alert.rule_id,
        number=number,
        is_open=True,
        opened_at_ms=now_ms(),
        severity=alert.severity,
        action=alert.action,
        message=alert.message,
        alerts={alert.alert_id: alert.time_ms},
    )
    insert = RISK_CASE.insert(ttl_s, time="", mark="%s", condition=" IF NOT EXISTS")
    return case if execute(session, insert, _row_values(case, None)).was_applied else None


def _replace_row(
    session: Session, before: AlertCase, after: AlertCase, closed_by: str | None, ttl_s: int
) -> bool:
    """Returns False if the stored case is no longer the open case `before`.

    A change of some columns would leave the others to expire earlier, so it inserts the whole row.
    """
    batch = BatchStatement()
    # An INSERT can have no other condition than IF NOT EXISTS.
    batch.add(
        SimpleStatement(
            f"UPDATE risk_case USING TTL {ttl_s:d} SET updated_at = %s"
            " WHERE user_id = %s AND rule_id = %s AND number = %s IF state = 'open' AND alerts = %s"
        ),
        (
            from_ms(now_ms()),
            before.user_id,
            before.rule_id,
            before.number,
            _to_timestamps(before.alerts),
        ),
    )
    insert = RISK_CASE.insert(ttl_s, time="", mark="%s")
    batch.add(SimpleStatement(insert), _row_values(after, closed_by))
    return execute(session, batch).was_applied


def _row_values(case: AlertCase, closed_by: str | None) -> tuple[Any, ...]:
    """Returns the values of risk_case."""
    return (
        case.user_id,
        case.rule_id,
        case.number,
        "open" if case.is_open else "closed",
        from_ms(case.opened_at_ms),
        from_ms(now_ms()),
        case.severity,
        case.action,
        case.message,
        _to_timestamps(case.alerts),
        closed_by,
    )


def _to_timestamps(alerts: dict[str, int]) -> dict[str, Any]:
    return {alert_id: from_ms(time_ms) for alert_id, time_ms in alerts.items()}
