"""The queue of alerts and one alert, computed from stored rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from console.formats import number, words
from liveprofile.alerts.cases.case_store import AlertCase
from liveprofile.alerts.cases.flags import FlagWithState
from liveprofile.alerts.cases.snooze import Snooze
from liveprofile.alerts.cases.states import TRANSITIONS, AlertState, StateChange
from services.alerts import FlagFile


class AlertRow(NamedTuple):
    flag_id: str
    time_ms: int
    user_id: str
    severity: str
    rule_id: str
    message: str
    action: str
    state: str
    by: str


class Reason(NamedTuple):
    sentence: str
    value: str
    compared: str  # with the usual value or the limit; "" if none is known


class Button(NamedTuple):
    """What an analyst can do, and the key that does it. `is_open`: the state allows it."""

    action: str
    key: str
    label: str
    is_open: bool


class AlertDetail(NamedTuple):
    row: AlertRow
    reasons: list[Reason]
    evidence: list[tuple[str, str]]
    note: str
    window_ms: tuple[int, int]
    event_id: str
    versions: str
    history: Sequence[StateChange]
    snoozes: Sequence[Snooze]
    cases: Sequence[AlertCase]
    buttons: list[Button]


STATES = [state.value for state in AlertState]
ACTIONS = {
    "acknowledge": ("a", "Acknowledge", AlertState.ACKNOWLEDGED),
    "fraud": ("f", "Label as fraud", AlertState.CONFIRMED),
    "legitimate": ("l", "Label as legitimate", AlertState.FALSE_POSITIVE),
    "close": ("c", "Close", AlertState.CLOSED),
}


def alert_row(each: FlagWithState) -> AlertRow:
    flag, state = each.flag, each.state
    return AlertRow(
        flag.flag_id,
        flag.window_end_ms,
        flag.user_id,
        flag.severity,
        flag.rule_id,
        flag.message,
        words(flag.action),
        state.state.value,
        state.by,
    )


def alert_detail(file: FlagFile) -> AlertDetail:
    flag = file.flag
    return AlertDetail(
        row=alert_row(FlagWithState(flag, file.state)),
        reasons=_reasons(file),
        evidence=[(words(name), _written(value)) for name, value in flag.evidence.items()],
        note=file.state.note,
        window_ms=(flag.window_start_ms, flag.window_end_ms),
        event_id=flag.event_id,
        versions=f"rule version {flag.rule_version or 'unknown'} of {flag.rules_version},"
        f" model {flag.model_version}",
        history=file.history,
        snoozes=file.snoozes,
        cases=file.cases,
        buttons=[
            Button(action, key, label, state in TRANSITIONS[file.state.state])
            for action, (key, label, state) in ACTIONS.items()
        ],
    )


def _reasons(file: FlagFile) -> list[Reason]:
    """The reasons of the score; of a rule without a model, what the rule saw."""
    found = [
        Reason(
            str(each.get("sentence") or words(str(each.get("code", "")))),
            _written(each.get("value")),
            "" if each.get("usual") is None else f"usual: {_written(each['usual'])}",
        )
        for each in file.flag.reasons
    ]
    flag = file.flag
    return found or [Reason(flag.message, number(flag.value), f"limit: {number(flag.threshold)}")]


def _written(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return "–" if value is None else str(value)
