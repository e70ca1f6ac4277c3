"""What analysts do about alerts: states, labels and snoozes, each repeatable."""

from typing import Any, Literal, NamedTuple

from cassandra.cluster import Session

from liveprofile.errors import InputError, ServiceError
from liveprofile.rows.operations import AuditEntry
from liveprofile.rules.flags import ALL_RULES
from liveprofile.settings import Settings
from liveprofile.storage.erasures import erased_before_ms
from liveprofile.storage.queries import StoredFlag
from services.alerts import case_store, states
from services.alerts import snooze as snoozes
from services.alerts.case_store import AlertCase
from services.alerts.flags import find_flag
from services.alerts.snooze import Snooze
from services.alerts.states import AlertState, StateChange, StoredAlertState
from services.audit_trail import OpenEntry, audited

LabelName = Literal["fraud", "legitimate"]


class FlagFile(NamedTuple):
    """A flag and the work on it."""

    flag: StoredFlag
    state: StoredAlertState
    history: list[StateChange]
    snoozes: list[Snooze]  # of its rule, or of all rules
    cases: list[AlertCase]  # that it is part of


def flag_file(session: Session, settings: Settings, flag_id: str) -> FlagFile:
    """Raises UnknownFlagError."""
    flag = find_flag(session, flag_id)
    return FlagFile(
        flag,
        states.read_state(session, flag_id),
        states.read_state_changes(session, flag_id),
        [
            each
            for each in snoozes.read_snoozes(session, flag.user_id)
            if each.rule_id in (flag.rule_id, ALL_RULES)
        ],
        [
            case
            for case in case_store.read_cases(session, flag.user_id, flag.rule_id)
            if flag_id in case.alerts
        ],
    )


def set_state(
    session: Session,
    settings: Settings,
    flag_id: str,
    state: AlertState,
    by: str,
    note: str = "",
    audit: AuditEntry | None = None,
) -> StoredAlertState:
    """Stores the state, and closes the case if all its flags are resolved.

    Raises UnknownFlagError, TransitionError.
    """
    flag = find_flag(session, flag_id)
    with audited(session, settings, audit) as entry:
        return _transition(session, settings, flag, state, by, note, entry)


def label(
    session: Session,
    settings: Settings,
    flag_id: str,
    label: LabelName,
    by: str,
    note: str = "",
    audit: AuditEntry | None = None,
) -> tuple[StoredAlertState, int]:
    """As `set_state` with the label's state; then sends the label of an event to the scoring
    pipeline. Returns how many were sent: a window's flag has no event."""
    # Only this needs Kafka, and the packages that the topic's records need.
    from intake.labels import send_labels
    from services.alerts.labels import STATE_OF_LABEL, label_of_flag

    flag = find_flag(session, flag_id)
    with audited(session, settings, audit) as entry:
        state = STATE_OF_LABEL[label]
        stored = _transition(session, settings, flag, state, by, note, entry)
        if not flag.event_id:
            return stored, 0
        record = label_of_flag(session, flag, stored)
        try:
            return stored, send_labels(settings, [record])
        except ServiceError as error:
            raise ServiceError(
                f"flag {flag_id} is {stored.state}, but its label was not sent: {error};"
                f" repeat `liveprofile risk alerts label {flag_id} {label} --by {by}`"
            ) from None


def snooze(
    session: Session,
    settings: Settings,
    user_id: str,
    rule_id: str,
    until_ms: int,
    by: str,
    note: str = "",
    audit: AuditEntry | None = None,
) -> Snooze:
    """Raises InputError for a time that is over, or too far away, and while rows of the user are
    deleted."""
    if erased_before_ms(session, [user_id], hidden=True):
        raise InputError("the user is being erased: there is nothing to snooze")
    with audited(session, settings, audit) as entry:
        entry.before = _snooze_of(session, user_id, rule_id)
        stored = snoozes.snooze(session, user_id, rule_id, until_ms, by, note)
        entry.after = stored._asdict()
        return stored


def end_snooze(
    session: Session,
    settings: Settings,
    user_id: str,
    rule_id: str,
    audit: AuditEntry | None = None,
) -> None:
    with audited(session, settings, audit) as entry:
        entry.before = _snooze_of(session, user_id, rule_id)
        snoozes.end_snooze(session, user_id, rule_id)


def _transition(
    session: Session,
    settings: Settings,
    flag: StoredFlag,
    state: AlertState,
    by: str,
    note: str,
    entry: OpenEntry,
) -> StoredAlertState:
    entry.before = states.read_state(session, flag.flag_id)._asdict()
    ttl_s = settings.cassandra.flag_ttl_s
    stored = states.transition(session, flag, state, by, note, ttl_s=ttl_s)
    entry.after = stored._asdict()
    if state in case_store.RESOLVED_STATES:
        ttl_s = settings.cassandra.case_ttl_s
        case_store.close_if_resolved(session, flag.user_id, flag.rule_id, by, ttl_s=ttl_s)
    return stored


def _snooze_of(session: Session, user_id: str, rule_id: str) -> dict[str, Any] | None:
    found = [each for each in snoozes.read_snoozes(session, user_id) if each.rule_id == rule_id]
    return found[0]._asdict() if found else None
