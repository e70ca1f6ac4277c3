"""The label of a flag: what an analyst's verdict on it says of its event."""

from cassandra.cluster import Session

from intake.labels import Label, LabelRecord
from liveprofile.storage import queries
from liveprofile.storage.queries import StoredFlag
from liveprofile.wire.scored_events import ENTITIES
from services.alerts.states import AlertState, StoredAlertState

STATE_OF_LABEL: dict[Label, AlertState] = {
    "fraud": AlertState.CONFIRMED,
    "legitimate": AlertState.FALSE_POSITIVE,
}
LABEL_OF_STATE = {state: label for label, state in STATE_OF_LABEL.items()}


def label_of_flag(session: Session, flag: StoredFlag, state: StoredAlertState) -> LabelRecord:
    """Builds the label record of a flag's event. `state`: the stored state, confirmed or
    false_positive.

    Every field comes from stored data, so a repeated call returns the same record.
    """
    return {
        "flag_id": flag.flag_id,
        "event_id": flag.event_id,
        "user_id": flag.user_id,
        "event_time": flag.window_end_ms,
        "label": LABEL_OF_STATE[state.state],
        "analyst": state.by,
        "time": state.updated_at_ms,
        **stored_entities(session, flag.user_id, flag.window_end_ms, flag.event_id),
    }


def stored_entities(
    session: Session, user_id: str, event_time_ms: int, event_id: str
) -> dict[str, str]:
    """Returns event type and shared entities of a stored scored event; {} if it is not stored."""
    found = queries.score(session, user_id, event_time_ms, event_id)
    names = ("event_type", *ENTITIES)
    return {name: value for name in names if (value := getattr(found, name, None))}
