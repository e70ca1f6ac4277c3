"""Alert states, snoozes and stored flags, with a fake Cassandra session."""

from types import SimpleNamespace
from typing import Any

import pytest
from cassandra.query import BatchStatement

from liveprofile.errors import InputError
from liveprofile.rules.flags import is_snoozed
from liveprofile.storage.cql import from_ms
from services.alerts import case_store, snooze, states
from services.alerts.case_store import NewAlert
from services.alerts.states import TRANSITIONS, AlertState, StoredAlertState, TransitionError
from services.privacy.erasure_log import REQUESTED, ErasureRun, write_runs
from tests.support.memory.cassandra import MemoryCassandra
from tests.support.rows.api_rows import stored_flag_of

FLAG = stored_flag_of(1)


class FakeSession:
    """Answers SELECTs with each state in turn, repeating the last, and batches with `applied`."""

    keyspace = "k"

    def __init__(self, *found: StoredAlertState, applied: bool = True):
        self.found, self.applied = list(found), applied
        self.batches = 0

    def execute(self, query: Any, values: Any = None) -> Any:
        if isinstance(query, BatchStatement):
            self.batches += 1
            return SimpleNamespace(was_applied=self.applied)
        state = self.found[0] if len(self.found) == 1 else self.found.pop(0)
        if state.state is AlertState.OPEN:
            return SimpleNamespace(one=lambda: None)
        row = SimpleNamespace(
            state=state.state.value, analyst=state.by, updated_at=from_ms(1), note=state.note
        )
        return SimpleNamespace(one=lambda: row)


def test_an_alert_after_an_erasure_opens_a_case_of_its_own():
    session, first = MemoryCassandra(), NewAlert("a", 1_000, "42", "rule", "high", "a", "m")
    case_store.add_alert(session, first, ttl_s=60)
    write_runs(session, {"42": ErasureRun(2_000, 2_000, REQUESTED)}, 60)
    case = case_store.add_alert(session, first._replace(alert_id="b", time_ms=3_000), ttl_s=60)
    assert (case.number, case.alerts) == (2, {"b": 3_000})


@pytest.mark.parametrize("before", list(AlertState))
@pytest.mark.parametrize("to", list(AlertState))
def test_only_transitions_in_the_table_are_allowed(before: AlertState, to: AlertState):
    session = FakeSession(StoredAlertState(before, "" if before is AlertState.OPEN else "anna"))
    if to in TRANSITIONS[before]:
        after = states.transition(session, FLAG, to, "ben", "why", ttl_s=60)
        assert after[:2] == (to, "ben") and after.note == "why" and session.batches == 1
    else:
        with pytest.raises(TransitionError, match=rf"is {before}.* it cannot become {to}"):
            states.transition(session, FLAG, to, "ben", ttl_s=60)
        assert session.batches == 0


def test_repeated_transition_by_same_analyst_changes_nothing():
    done = StoredAlertState(AlertState.ACKNOWLEDGED, "anna", 1, "")
    session = FakeSession(done)
    assert states.transition(session, FLAG, AlertState.ACKNOWLEDGED, "anna", ttl_s=60) == done
    assert session.batches == 0


def test_lost_race_raises_error_that_names_the_winner():
    session = FakeSession(
        StoredAlertState(AlertState.OPEN),
        StoredAlertState(AlertState.ACKNOWLEDGED, "anna"),
        applied=False,
    )
    with pytest.raises(TransitionError, match="anna was faster: it is acknowledged now"):
        states.transition(session, FLAG, AlertState.ACKNOWLEDGED, "ben", ttl_s=60)


def test_transition_with_lost_answer_succeeds_on_retry():
    done = StoredAlertState(AlertState.CONFIRMED, "ben", 1, "")
    session = FakeSession(StoredAlertState(AlertState.OPEN), done, applied=False)
    assert states.transition(session, FLAG, AlertState.CONFIRMED, "ben", ttl_s=60) == done


@pytest.mark.parametrize(
    ("snoozed", "silent"),
    [
        ({}, False),
        ({"rule": 11}, True),
        ({"rule": 10}, False),
        ({"other": 11}, False),
        ({"*": 11}, True),
        ({"*": 9, "rule": 11}, True),
    ],
)
def test_snooze_silences_its_rule_or_all_rules_until_its_end(snoozed: dict[str, int], silent: bool):
    assert is_snoozed(snoozed, "rule", at_ms=10) is silent


@pytest.mark.parametrize("ahead_ms", [-1, snooze.MAX_SNOOZE_MS + 60_000])
def test_snooze_in_the_past_or_beyond_a_year_is_rejected(ahead_ms: int):
    with pytest.raises(InputError, match="must be in the future, at most 365 days"):
        snooze.snooze(None, "42", "*", snooze.now_ms() + ahead_ms, "anna")
