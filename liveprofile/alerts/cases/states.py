"""The state of a flag, who may change it to what, and the trail of who did."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

from cassandra.cluster import Session
from cassandra.query import BatchStatement, SimpleStatement
from cassandra.util import datetime_from_uuid1

from liveprofile.errors import LiveprofileError
from liveprofile.storage.cql import execute, execute_each, from_ms, now_ms, to_ms
from liveprofile.storage.queries import StoredFlag


class State(StrEnum):
    OPEN = "open"  # nobody has looked; no row
    ACKNOWLEDGED = "acknowledged"  # someone is on it
    CONFIRMED = "confirmed"  # it was fraud
    FALSE_POSITIVE = "false_positive"  # it was legitimate
    CLOSED = "closed"  # done with, whatever it was


# A judgement may be revised, and may come after the flag is closed: a chargeback takes weeks.
# Nothing becomes open again: that would look as if nobody had seen it.
TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.OPEN: frozenset(
            {State.ACKNOWLEDGED, State.CONFIRMED, State.FALSE_POSITIVE, State.CLOSED}
        ),
        State.ACKNOWLEDGED: frozenset({State.CONFIRMED, State.FALSE_POSITIVE, State.CLOSED}),
        State.CONFIRMED: frozenset({State.FALSE_POSITIVE, State.CLOSED}),
        State.FALSE_POSITIVE: frozenset({State.CONFIRMED, State.CLOSED}),
        State.CLOSED: frozenset({State.CONFIRMED, State.FALSE_POSITIVE}),
    }
)


class FlagState(NamedTuple):
    """The state of one flag; an open one has no `by` and no time."""

    state: State
    by: str = ""
    updated_at_ms: int | None = None
    note: str = ""


class Change(NamedTuple):
    """One entry of the audit trail."""

    at_ms: int
    by: str
    from_state: State
    to_state: State
    note: str


class TransitionError(LiveprofileError):
    """The flag's state doesn't allow it, or somebody else was first. Exit code 1."""


_OPEN = FlagState(State.OPEN)
# LIMIT 1: the static columns come with each entry of the trail.
_SELECT = "SELECT state, analyst, updated_at, note FROM flag_state WHERE flag_id = ? LIMIT 1"


def state_of(session: Session, flag_id: str) -> FlagState:
    """The state of a flag; open if nobody has touched it."""
    query = _SELECT.replace("?", "%s")
    return _flag_state(execute(session, query, (flag_id,)).one())


def states_of(session: Session, flag_ids: Iterable[str]) -> dict[str, FlagState]:
    """The states of many flags, read at once."""
    found = execute_each(session, _SELECT, flag_ids)
    return {flag_id: _flag_state(rows.one()) for flag_id, rows in found.items()}


def history(session: Session, flag_id: str) -> list[Change]:
    """Every change of a flag's state, newest first."""
    query = (
        "SELECT changed_at, changed_by, from_state, to_state, change_note"
        " FROM flag_state WHERE flag_id = %s"
    )
    return [
        Change(
            to_ms(datetime_from_uuid1(row.changed_at)),
            row.changed_by,
            State(row.from_state),
            State(row.to_state),
            row.change_note,
        )
        for row in execute(session, query, (flag_id,))
    ]


def transition(
    session: Session, flag: StoredFlag, to: State, by: str, note: str = "", *, ttl_s: int
) -> FlagState:
    """Brings a flag into a state, with an entry in its trail, and returns the state stored.

    A lightweight transaction (Paxos; IF in CQL) on the state read before: of two people at once
    one wins. The same person asking again for the state that is there changes nothing, so a
    request whose answer got lost may be repeated. ttl_s: how long the state is kept, 0 for ever;
    at least as long as the flag.
    Raises TransitionError if the state doesn't allow it or somebody else was first.
    """
    before = state_of(session, flag.flag_id)
    if before.state is to and before.by == by:
        return before
    if to not in TRANSITIONS[before.state]:
        raise TransitionError(_refusal(flag.flag_id, before, to))
    after = FlagState(to, by, now_ms(), note)
    if not _write(session, flag, before, after, ttl_s):
        now = state_of(session, flag.flag_id)
        if (now.state, now.by) == (to, by):
            return now
        raise TransitionError(
            f"flag {flag.flag_id}: {now.by or 'somebody'} was faster: it is {now.state} now"
        )
    return after


def _write(
    session: Session, flag: StoredFlag, before: FlagState, after: FlagState, ttl_s: int
) -> bool:
    """False if the state is no longer that of `before`."""
    batch = BatchStatement()
    batch.add(
        SimpleStatement(
            f"UPDATE flag_state USING TTL {ttl_s:d} SET state = %s, analyst = %s, updated_at = %s,"
            " note = %s, user_id = %s, rule_id = %s, window_end = %s WHERE flag_id = %s"
            # Null matches a row that isn't there. The time too: a state may come back.
            " IF state = %s AND updated_at = %s"
        ),
        (
            after.state.value, after.by, from_ms(after.updated_at_ms), after.note,
            flag.user_id, flag.rule_id, from_ms(flag.window_end_ms), flag.flag_id,
            None if before.state is State.OPEN else before.state.value,
            None if before.updated_at_ms is None else from_ms(before.updated_at_ms),
        ),
    )  # fmt: skip
    batch.add(
        SimpleStatement(
            "INSERT INTO flag_state (flag_id, changed_at, changed_by, from_state, to_state,"
            f" change_note) VALUES (%s, %s, %s, %s, %s, %s) USING TTL {ttl_s:d}"
        ),
        (
            flag.flag_id, uuid.uuid1(), after.by,
            before.state.value, after.state.value, after.note,
        ),
    )  # fmt: skip
    return execute(session, batch).was_applied


def _refusal(flag_id: str, before: FlagState, to: State) -> str:
    by = f" by {before.by}" if before.by else ""
    allowed = ", ".join(sorted(TRANSITIONS[before.state]))
    return f"flag {flag_id} is {before.state}{by}: it can't become {to}, only {allowed}"


def _flag_state(row: Any) -> FlagState:
    if row is None or row.state is None:
        return _OPEN
    return FlagState(State(row.state), row.analyst, to_ms(row.updated_at), row.note or "")
