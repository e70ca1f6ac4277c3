"""Parses alert records and formats alerts and flags for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from cli.common import format_utc, name_with_rule_state
from cli.tables import new_table

if TYPE_CHECKING:
    from rich.table import Table

    from liveprofile.alerts.cases.flags import FlagWithState
    from liveprofile.kafka.records import Record
    from liveprofile.storage.queries import StoredFlag


def deduplicate(records: Iterable[Record], seen: set[str]) -> Iterator[dict[str, Any]]:
    """Yields the alerts of the records, each id once, and adds their ids to `seen`.

    Delivery is at least once, so a topic can hold an alert twice. An invalid record is reported on
    stderr and skipped.
    """
    import orjson

    for record in records:
        try:
            alert = orjson.loads(record.value or b"")
            alert_id = alert["id"]
            alert_time_ms(alert)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            typer.echo(
                f"{record.topic}/{record.partition} offset {record.offset} is not an alert",
                err=True,
            )
            continue
        if alert_id not in seen:
            seen.add(alert_id)
            yield alert


def alert_line(alert: dict[str, Any]) -> str:
    """Formats an alert: 2017-11-26 01:05:00  high  user 42  REASON: message -> action  flag ID"""
    from liveprofile.alerts.cloud_events import is_type
    from liveprofile.drift.alert import DRIFT_ALERT_TYPE

    data = alert.get("data") or {}
    is_drift = is_type(str(alert.get("type")), DRIFT_ALERT_TYPE)  # it has no flag
    return (
        f"{format_utc(alert_time_ms(alert))}  {data.get('severity', '?'):<8}"
        f"  {'model' if is_drift else 'user'} {alert.get('subject', '?')}"
        f"  {data.get('reason', '?')}: {data.get('message', '')}  -> {data.get('action', '?')}"
        + ("" if is_drift else f"  flag {alert['id']}")
    )


def flag_table(rows: Sequence[FlagWithState]) -> Table:
    """A table with a row per flag."""
    table = new_table("flag", "time", "user", "severity", "state", "by", "rule", "message")
    for flag, state in rows:
        table.add_row(
            flag.flag_id,
            format_utc(flag.window_end_ms),
            flag.user_id,
            flag.severity,
            state.state,
            state.by,
            name_with_rule_state(flag.rule_id, flag),
            flag.message,
        )
    return table


def flag_fields(flag: StoredFlag, details: dict[str, Any]) -> dict[str, Any]:
    """Returns the lines of `alerts show`: name -> text.

    details: the state, history, snoozes and cases of the flag.
    """
    state = details["state"]
    time = (
        {"event": f"{flag.event_id}, {format_utc(flag.window_end_ms)}"}
        if flag.event_id
        else {"window": f"{format_utc(flag.window_start_ms)} to {format_utc(flag.window_end_ms)}"}
    )
    fields: dict[str, Any] = {
        "flag": flag.flag_id,
        "user": flag.user_id,
        **time,
        "rule": f"{flag.rule_id}, version {flag.rule_version or '?'}, {flag.rule_state}",
        "severity": flag.severity,
        "action": flag.action,
        "message": flag.message,
        "value": f"{flag.value:g}, flagged from {flag.threshold:g}",
        "model": flag.model_version,
    }
    for number, reason in enumerate(flag.reasons, 1):
        fields[f"reason {number}"] = (
            f"{reason['code']}: {reason['sentence']} (value {_format_number(reason['value'])},"
            f" usual {_format_number(reason['usual'])})"
        )
    fields["state"] = f"{state['state']}, by {state['by']}" if state["by"] else state["state"]
    for change in details["history"]:
        note = f": {change['note']}" if change["note"] else ""
        fields[f"  {format_utc(change['at_ms'])}"] = (
            f"{change['from_state']} -> {change['to_state']}, by {change['by']}{note}"
        )
    for each in details["snoozes"]:
        fields[f"snoozed, rule {each['rule_id']}"] = (
            f"until {format_utc(each['until_ms'])}, by {each['by']}"
        )
    for case in details["cases"]:
        status = "open" if case["is_open"] else "closed"
        fields[f"case {case['number']}"] = f"{status}, {len(case['alerts'])} alerts"
    return fields


def _format_number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"


def alert_time_ms(alert: dict[str, Any]) -> int:
    """The alert's time in epoch milliseconds. Raises KeyError, TypeError and ValueError."""
    return round(datetime.fromisoformat(alert["time"]).timestamp() * 1_000)
