"""Cases of customer service on a real node."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from cassandra.cluster import Session

from liveprofile.storage import queries
from services.alerts import case_store, states
from services.alerts.case_store import AlertCase, NewAlert
from services.alerts.states import AlertState
from tests.services.conftest import empty
from tests.support.rows.profile_rows import flag, profile_row, write_and_flush
from tests.support.waiting import until
from udfs.profile.store import CassandraProfileStore

TTL_S = 3_600
COLUMNS = ("state", "opened_at", "updated_at", "severity", "action", "message", "alerts")


@pytest.fixture(autouse=True)
def _no_cases(session: Session) -> None:
    empty(session, ["risk_case"])


def add_alert(session: Session, number: int, ttl_s: int = TTL_S) -> AlertCase:
    alert = NewAlert(f"{number:032x}", number, "42", "rule", "high", "action", "message")
    return case_store.add_alert(session, alert, ttl_s=ttl_s)


def close_if_resolved(session: Session, ttl_s: int = TTL_S) -> AlertCase:
    return case_store.close_if_resolved(session, "42", "rule", "anna", ttl_s=ttl_s)


def ttls_s(session: Session) -> set[int]:
    [row] = session.execute(
        f"SELECT {', '.join(f'TTL({column})' for column in COLUMNS)} FROM risk_case"
    ).all()
    return set(row)


def test_concurrent_alerts_open_one_case_which_closes_with_its_last_flag(
    sink: CassandraProfileStore, session: Session
):
    write_and_flush(sink, profile_row("42", flags=[flag()]))
    [stored_flag] = queries.flags(session, "42")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: add_alert(session, number % 6), range(24)))
    [case] = case_store.read_cases(session, "42", "rule")
    assert len(case.alerts) == 6
    assert close_if_resolved(session).is_open
    for alert_id in case.alerts:
        closed = stored_flag._replace(flag_id=alert_id)
        states.transition(session, closed, AlertState.CLOSED, "anna", ttl_s=TTL_S)
    assert not close_if_resolved(session).is_open
    assert close_if_resolved(session) is None
    assert add_alert(session, 3).number == 1  # a duplicate of an old alert
    assert add_alert(session, 7).number == 2
    assert [case.is_open for case in case_store.read_cases(session, "42")] == [True, False]


def test_each_change_restarts_the_ttl_of_the_whole_case(session: Session):
    add_alert(session, 1, ttl_s=600)
    assert max(ttls_s(session)) <= 600
    add_alert(session, 2, ttl_s=6_000)
    assert min(ttls_s(session)) > 5_900
    add_alert(session, 3, ttl_s=1)
    until(lambda: not session.execute("SELECT * FROM risk_case").all())
