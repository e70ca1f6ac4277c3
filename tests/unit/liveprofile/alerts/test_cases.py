"""States of flags, snoozes, and what the commands read: without Cassandra."""

from __future__ import annotations

import json
from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
from cassandra.query import BatchStatement

from cli.profiles import flag_table
from cli.risk.alerts import span_ms
from liveprofile.alerts.cases import snooze, states
from liveprofile.alerts.cases.states import TRANSITIONS, FlagState, State, TransitionError
from liveprofile.errors import InputError
from liveprofile.storage import queries
from liveprofile.storage.cql import from_ms
from liveprofile.storage.queries import StoredFlag

FLAG = StoredFlag(
    user_id="42", window_start_ms=0, window_end_ms=300_000, rule_id="rule", flag_id="0" * 32,
    reason="R", severity="high", action="limit_trading", value=5.0, threshold=4.0, message="m",
    evidence={}, model_version="m", rules_version="1",
)  # fmt: skip


class FakeSession:
    """Answers SELECTs with each state in turn (the last stays), batches with `applied`."""

    keyspace = "k"

    def __init__(self, *found: FlagState, applied: bool = True):
        self.found, self.applied = list(found), applied
        self.batches = 0

    def execute(self, query: Any, values: Any = None) -> Any:
        if isinstance(query, BatchStatement):
            self.batches += 1
            return SimpleNamespace(was_applied=self.applied)
        state = self.found[0] if len(self.found) == 1 else self.found.pop(0)
        if state.state is State.OPEN:
            return SimpleNamespace(one=lambda: None)
        row = SimpleNamespace(
            state=state.state.value, analyst=state.by, updated_at=from_ms(1), note=state.note
        )
        return SimpleNamespace(one=lambda: row)


def test_every_state_has_its_transitions_and_none_leads_back_to_open():
    assert set(TRANSITIONS) == set(State)
    for state, allowed in TRANSITIONS.items():
        assert state not in allowed and State.OPEN not in allowed and allowed


@pytest.mark.parametrize("before", list(State))
@pytest.mark.parametrize("to", list(State))
def test_a_transition_is_made_if_the_table_has_it(before: State, to: State):
    session = FakeSession(FlagState(before, "" if before is State.OPEN else "anna"))
    if to in TRANSITIONS[before]:
        after = states.transition(session, FLAG, to, "ben", "why", ttl_s=0)
        assert after[:2] == (to, "ben") and after.note == "why" and session.batches == 1
    else:
        with pytest.raises(TransitionError, match=rf"is {before}.* it can't become {to}"):
            states.transition(session, FLAG, to, "ben", ttl_s=0)
        assert session.batches == 0


def test_the_same_person_may_ask_again():
    done = FlagState(State.ACKNOWLEDGED, "anna", 1, "")
    session = FakeSession(done)
    assert states.transition(session, FLAG, State.ACKNOWLEDGED, "anna", ttl_s=0) == done
    assert session.batches == 0


def test_the_slower_of_two_is_told_who_was_faster():
    session = FakeSession(
        FlagState(State.OPEN), FlagState(State.ACKNOWLEDGED, "anna"), applied=False
    )
    with pytest.raises(TransitionError, match="anna was faster: it is acknowledged now"):
        states.transition(session, FLAG, State.ACKNOWLEDGED, "ben", ttl_s=0)


def test_a_write_whose_answer_got_lost_is_found_done():
    done = FlagState(State.CONFIRMED, "ben", 1, "")
    session = FakeSession(FlagState(State.OPEN), done, applied=False)
    assert states.transition(session, FLAG, State.CONFIRMED, "ben", ttl_s=0) == done


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
def test_a_snooze_covers_its_rule_or_all_until_its_time(snoozed: dict[str, int], silent: bool):
    assert snooze.covers(snoozed, "rule", at_ms=10) is silent


@pytest.mark.parametrize("ahead_ms", [-1, snooze.LONGEST_MS + 60_000])
def test_a_snooze_ends_after_now_and_within_a_year(ahead_ms: int):
    with pytest.raises(InputError, match="must lie ahead, by at most 365 days"):
        snooze.snooze(None, "42", "*", snooze.now_ms() + ahead_ms, "anna")


def test_spans_of_time():
    assert (span_ms("30m"), span_ms("8h"), span_ms("3d")) == (1_800_000, 28_800_000, 259_200_000)
    for wrong in ("", "8", "h", "-1h", "8 h", "1w"):
        with pytest.raises(InputError, match="a number with m, h or d"):
            span_ms(wrong)


def stored(**columns: Any) -> StoredFlag:
    """As `reads.flags` gives a row; columns that are not named are of FLAG."""
    columns = FLAG._asdict() | {"evidence": "{}"} | columns
    row = namedtuple("Row", columns)(**columns)
    (flag,) = queries.flags(SimpleNamespace(execute=lambda query, values: [row]), "42")
    return flag


def test_a_flag_of_an_event_says_which_and_why():
    reason = {"code": "R", "value": 5.0, "usual": None, "sentence": "s"}
    flag = stored(event_id="e1", rule_version=3, rule_state="SHADOW", reasons=json.dumps([reason]))
    assert (flag.event_id, flag.rule_version, flag.rule_state) == ("e1", 3, "SHADOW")
    assert flag.reasons == [reason]


def test_a_flag_of_an_earlier_version_has_no_event():
    flag = stored(event_id=None, rule_version=None, rule_state=None, reasons=None)
    assert (flag.event_id, flag.rule_version, flag.rule_state) == ("", None, "ACTIVE")
    assert flag.reasons == []


def test_the_table_of_flags_marks_shadow_rules_and_names_events():
    shadow = FLAG._replace(rule_state="SHADOW", event_id="e1")
    columns = {column.header: list(column.cells) for column in flag_table([FLAG, shadow]).columns}
    assert columns["reason"] == ["R", "R (SHADOW)"]
    assert columns["event"] == ["", "e1"]
