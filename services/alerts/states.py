"""The alert state of a flag, its allowed transitions, and the audit trail of changes."""

import uuid
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from cassandra.cluster import Session
from cassandra.query import BatchStatement, SimpleStatement
from cassandra.util import datetime_from_uuid1

from liveprofile.errors import LiveprofileError
from liveprofile.storage.cql import execute, execute_per_key, from_ms, now_ms, read, to_ms
from liveprofile.storage.queries import StoredFlag


class AlertState(StrEnum):
    OPEN = "open"  # nobody has worked on it; the table has no row
    ACKNOWLEDGED = "acknowledged"  # an analyst works on it
    CONFIRMED = "confirmed"  # it was fraud
    FALSE_POSITIVE = "false_positive"  # it was legitimate
    CLOSED = "closed"  # closed without a verdict


# An analyst may revise a verdict, and may give one after the flag is closed: a chargeback takes
# weeks. No state leads back to OPEN, which means that nobody has worked on the flag.
# A flag needs no more work in these.
RESOLVED_STATES = frozenset({AlertState.CONFIRMED, AlertState.FALSE_POSITIVE, AlertState.CLOSED})
TRANSITIONS: Mapping[AlertState, frozenset[AlertState]] = {
    AlertState.OPEN: RESOLVED_STATES | {AlertState.ACKNOWLEDGED},
    AlertState.ACKNOWLEDGED: RESOLVED_STATES,
    **{state: RESOLVED_STATES - {state} for state in RESOLVED_STATES},
}


class StoredAlertState(NamedTuple):
    """The state of one flag. An open flag has an empty `by` and no time."""

    state: AlertState
    by: str = ""
    updated_at_ms: int | None = None
    note: str = ""


class StateChange(NamedTuple):
    """One entry of the audit trail."""

    at_ms: int
    by: str
    from_state: AlertState
    to_state: AlertState
    note: str


class TransitionError(LiveprofileError):
    """The state does not allow the change, or another analyst was faster. Exit code 1."""


_OPEN = StoredAlertState(AlertState.OPEN)
# LIMIT 1: every entry of the audit trail repeats the static columns.
_SELECT = "SELECT state, analyst, updated_at, note FROM flag_state WHERE flag_id = ? LIMIT 1"


def read_state(session: Session, flag_id: str) -> StoredAlertState:
    """Returns the state of a flag: OPEN if the table has no row."""
    query = _SELECT.replace("?", "%s")
    return _from_row(read(session, query, (flag_id,)).one())


def read_states(session: Session, flag_ids: Iterable[str]) -> dict[str, StoredAlertState]:
    """Returns the states of many flags by flag id, from concurrent queries."""
    results = execute_per_key(session, _SELECT, flag_ids)
    return {flag_id: _from_row(rows.one()) for flag_id, rows in results.items()}


def read_state_changes(session: Session, flag_id: str) -> list[StateChange]:
    """Returns every change of a flag's state, newest first."""
    query = (
        "SELECT changed_at, changed_by, from_state, to_state, change_note"
        " FROM flag_state WHERE flag_id = %s"
    )
    return [
        StateChange(
            to_ms(datetime_from_uuid1(row.changed_at)),
            row.changed_by,
            AlertState(row.from_state),
            AlertState(row.to_state),
            row.change_note,
        )
        for row in read(session, query, (flag_id,))
    ]


def transition(
    session: Session, flag: StoredFlag, to_state: AlertState, by: str, note: str = "", *, ttl_s: int
) -> StoredAlertState:
    """Changes the state of a flag, adds an audit entry, and returns the stored state.

    The write is a lightweight transaction (Paxos; IF in CQL) on the state read before: of two
    concurrent analysts one wins. Repeating a change that the same analyst has already made
    changes nothing, so a request whose answer was lost can be repeated. ttl_s: how long the state
    is kept, at least as long as the flag.
    Raises TransitionError if the state does not allow the change or another analyst was faster.
    """
    before = read_state(session, flag.flag_id)
    if before.state is to_state and before.by == by:
        return before
    if to_state not in TRANSITIONS[before.state]:
        raise TransitionError(_refusal_message(flag.flag_id, before, to_state))
    after = StoredAlertState(to_state, by, now_ms(), note)
    if not _write(session, flag, before, after, ttl_s):
        current = read_state(session, flag.flag_id)
        if (current.state, current.by) == (to_state, by):
            return current
        raise TransitionError(
            f"flag {flag.flag_id}: {current.by or 'another analyst'} was faster:"
            f" it is {current.state} now"
        )
    return after


def _write(
    session: Session,
    flag: StoredFlag,
    before: StoredAlertState,
    after: StoredAlertState,
    ttl_s: int,
) -> bool:
    """Returns False if the stored state is no longer `before`."""
    batch = BatchStatement()
    batch.add(
        SimpleStatement(
            f"UPDATE flag_state USING TTL {ttl_s:d} SET state = %s, analyst = %s, updated_at = %s,"
            " note = %s, user_id = %s, rule_id = %s, window_start = %s, window_end = %s"
            " WHERE flag_id = %s"
            # Null matches a missing row. The time is compared too: a state may occur again.
            " IF state = %s AND updated_at = %s"
        ),
        (
            after.state.value,
            after.by,
            from_ms(after.updated_at_ms),
            after.note,
            flag.user_id,
            flag.rule_id,
            from_ms(flag.window_start_ms),
            from_ms(flag.window_end_ms),
            flag.flag_id,
            None if before.state is AlertState.OPEN else before.state.value,
            None if before.updated_at_ms is None else from_ms(before.updated_at_ms),
        ),
    )
    batch.add(
        SimpleStatement(
            "INSERT INTO flag_state (flag_id, changed_at, changed_by, from_state, to_state,"
            f" change_note) VALUES (%s, %s, %s, %s, %s, %s) USING TTL {ttl_s:d}"
        ),
        (
            flag.flag_id,
            uuid.uuid1(),
            after.by,
            before.state.value,
            after.state.value,
            after.note,
        ),
    )
    return execute(session, batch).was_applied


def _refusal_message(flag_id: str, before: StoredAlertState, to_state: AlertState) -> str:
    by = f" by {before.by}" if before.by else ""
    allowed = ", ".join(sorted(TRANSITIONS[before.state]))
    return f"flag {flag_id} is {before.state}{by}: it cannot become {to_state}, only {allowed}"


def _from_row(row: Any) -> StoredAlertState:
    if row is None or row.state is None:
        return _OPEN
    return StoredAlertState(
        AlertState(row.state), row.analyst, to_ms(row.updated_at), row.note or ""
    )
