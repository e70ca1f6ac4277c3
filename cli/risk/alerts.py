"""`liveprofile alerts`: the risk alerts, for a person to read and to say what came of them."""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    print_fields,
    print_json,
    read_settings,
    utc,
    with_state,
)
from liveprofile.errors import InputError, ServiceError

if TYPE_CHECKING:
    from cassandra.cluster import Session

    from liveprofile.alerts.cases.flags import Found
    from liveprofile.alerts.cases.states import FlagState, State
    from liveprofile.config import Settings
    from liveprofile.kafka.records import Record
    from liveprofile.storage.queries import StoredFlag

alerts = typer.Typer(
    name="alerts",
    invoke_without_command=True,
    help="Print the risk alerts, each once: when, who, why, and what to do. With a command: work on"
    " the flags behind them (docs/alerts.md).",
)

FlagArgument = Annotated[str, typer.Argument(metavar="FLAG", help="Its id, which is the alert's.")]
ByOption = Annotated[
    str,
    typer.Option(
        "--by",
        metavar="NAME",
        default_factory=getpass.getuser,
        show_default="the login name",
        help="Who says so.",
    ),
]
NoteOption = Annotated[str, typer.Option("--note", metavar="TEXT", help="Kept in the history.")]
RuleOption = Annotated[str | None, typer.Option("--rule", metavar="RULE", help="Of this rule.")]
UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}


@alerts.callback()
def stream(
    context: typer.Context,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Then wait for new ones; end with Ctrl-C.")
    ] = False,
    limit: Annotated[
        int, typer.Option(min=0, help="The last N that are there; 0: all.", metavar="N")
    ] = 20,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Without a command: the alerts of the topic."""
    if context.invoked_subcommand is not None:
        return
    from liveprofile.kafka.offsets import ranges
    from liveprofile.kafka.records import follow_topic, read_topic

    settings = read_settings(config)
    topic = settings.topics.alerts
    held = ranges(settings, topic)
    seen: set[str] = set()
    present = sorted(unique(read_topic(settings, topic, held), seen), key=_time_ms)
    for alert in present[-limit:] if limit else present:
        _print(alert, json)
    if not follow:
        if not present and not json:
            typer.echo("no alerts", err=True)
        return
    starts = {partition: part.end for partition, part in held.items()}
    for alert in unique(follow_topic(settings, topic, starts), seen):
        _print(alert, json)


@alerts.command("list")
def list_(
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="Of this user only.")
    ] = None,
    state: Annotated[
        Literal["open", "acknowledged", "confirmed", "false_positive", "closed"] | None,
        typer.Option("--state", help="In this state only."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME", help="At this time (UTC) or later, as liveprofile flags."
        ),
    ] = None,
    rule: RuleOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most N.")] = 20,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List stored flags with their states, newest first."""
    from cli.profiles import parse_time_ms
    from liveprofile.alerts.cases import flags
    from liveprofile.alerts.cases.states import State
    from liveprofile.storage.connection import session_of

    since_ms = None if since is None else parse_time_ms(since)
    settings = read_settings(config)
    with session_of(settings.cassandra) as session:
        found = flags.listed(
            session,
            user_id=user,
            state=None if state is None else State(state),
            since_ms=since_ms,
            rule_id=rule,
            limit=limit,
        )
    if json:
        print_json([each.flag._asdict() | each.state._asdict() for each in found])
    elif found:
        _print_table(found)
    else:
        typer.echo("no flags", err=True)


@alerts.command()
def show(flag: FlagArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show all of a flag: reasons, state and its history, snoozes, case. Exit code 1: no such."""
    from liveprofile.alerts.cases import flags, service, snooze, states
    from liveprofile.storage.connection import session_of

    settings = read_settings(config)
    with session_of(settings.cassandra) as session:
        found = flags.find(session, flag)
        more = {
            "state": states.state_of(session, flag)._asdict(),
            "history": [each._asdict() for each in states.history(session, flag)],
            "snoozes": [
                each._asdict()
                for each in snooze.snoozes(session, found.user_id)
                if each.rule_id in (found.rule_id, snooze.ALL_RULES)
            ],
            "cases": [
                case._asdict()
                for case in service.cases(session, found.user_id, found.rule_id)
                if flag in case.alerts
            ],
        }
    if json:
        print_json(found._asdict() | more)
    else:
        print_fields(_fields(found, more))


@alerts.command()
def ack(
    flag: FlagArgument,
    by: ByOption,
    note: NoteOption = "",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Say that you look after a flag. Exit code 1 if somebody else was first."""
    from liveprofile.alerts.cases.states import State

    _change(flag, State.ACKNOWLEDGED, by, note, config, json)


@alerts.command()
def close(
    flag: FlagArgument,
    by: ByOption,
    note: NoteOption = "",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Put a flag away; its case closes with the last of its flags. Exit code 1: it is closed."""
    from liveprofile.alerts.cases.states import State

    _change(flag, State.CLOSED, by, note, config, json)


@alerts.command()
def label(
    flag: FlagArgument,
    verdict: Annotated[Literal["fraud", "legitimate"], typer.Argument(metavar="fraud|legitimate")],
    by: ByOption,
    note: NoteOption = "",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Say what a flag turned out to be, for good and for the scoring to learn.

    The state becomes confirmed or false_positive; then the label goes to the topic risk-feedback,
    if the flag is of an event. If Kafka is away the exit code is 3: repeat the command.
    """
    from liveprofile.labels.feedback import STATE_OF

    _change(flag, STATE_OF[verdict], by, note, config, json, sends_label=True)


@alerts.command()
def snooze(
    user: Annotated[str, typer.Argument(metavar="USER", help="Whose flags send no alert.")],
    by: ByOption,
    rule: Annotated[str, typer.Option("--rule", metavar="RULE", help="*: every rule.")] = "*",
    span: Annotated[
        str, typer.Option("--for", metavar="TIME", help="So long from now: 30m, 8h, 3d.")
    ] = "24h",
    end: Annotated[bool, typer.Option("--end", help="End the snooze now instead.")] = False,
    note: NoteOption = "",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Store a user's flags without sending alerts, for a while; it ends by itself."""
    from liveprofile.alerts.cases import snooze as snoozes
    from liveprofile.storage.connection import session_of
    from liveprofile.storage.cql import now_ms

    until_ms = now_ms() + span_ms(span)
    settings = read_settings(config)
    with session_of(settings.cassandra) as session:
        if end:
            snoozes.wake(session, user, rule)
        else:
            snoozes.snooze(session, user, rule, until_ms, by, note)
    until = None if end else until_ms
    if json:
        print_json({"user_id": user, "rule_id": rule, "until_ms": until, "by": by})
    else:
        typer.echo(
            f"user {user}, rule {rule}: {f'silent until {utc(until)}' if until else 'awake'}"
        )


def span_ms(text: str) -> int:
    """30m, 8h or 3d in milliseconds. Raises InputError."""
    found = re.fullmatch(r"(\d{1,5})([mhd])", text)
    if not found:
        raise InputError(f"--for {text!r}: a number with m, h or d, such as 8h")
    return int(found[1]) * UNITS_MS[found[2]]


def unique(records: Iterable[Record], seen: set[str]) -> Iterator[dict[str, Any]]:
    """The alerts among the records, each id once: delivery is at least once. Grows `seen`."""
    import orjson

    for record in records:
        try:
            alert = orjson.loads(record.value or b"")
            alert_id = alert["id"]
            _time_ms(alert)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            typer.echo(
                f"{record.topic}/{record.partition} offset {record.offset} is no alert", err=True
            )
            continue
        if alert_id not in seen:
            seen.add(alert_id)
            yield alert


def sentence(alert: dict[str, Any]) -> str:
    """2017-11-26 01:05:00  high  user 42  UNUSUAL_BEHAVIOUR: ... -> limit_trading"""
    from liveprofile.drift.alert import TYPE as DRIFT

    data = alert.get("data") or {}
    of = "model" if alert.get("type") == DRIFT else "user"
    return (
        f"{utc(_time_ms(alert))}  {data.get('severity', '?'):<8}  {of} {alert.get('subject', '?')}"
        f"  {data.get('reason', '?')}: {data.get('message', '')}  -> {data.get('action', '?')}"
    )


def _change(
    flag_id: str,
    to: State,
    by: str,
    note: str,
    config: Any,
    json: bool,
    sends_label: bool = False,
) -> None:
    """Stores the state; then, if asked, sends the label; then settles the flag's case."""
    from liveprofile.alerts.cases import flags, service, states
    from liveprofile.storage.connection import session_of

    settings = read_settings(config)
    with session_of(settings.cassandra) as session:
        flag = flags.find(session, flag_id)
        ttl_s = settings.cassandra.flag_ttl_s
        state = states.transition(session, flag, to, by, note, ttl_s=ttl_s)
        sent = _send_label(settings, session, flag, state) if sends_label else 0
        if to in service.SETTLED:
            service.settle(session, flag.user_id, flag.rule_id, by)
    if json:
        print_json({"flag_id": flag_id, **state._asdict(), "labels_sent": sent})
        return
    typer.echo(f"flag {flag_id} is {state.state}, by {state.by} at {utc(state.updated_at_ms)}")
    if sends_label and not sent:
        typer.echo("it is of a window, so there is no event to label", err=True)


def _send_label(settings: Settings, session: Session, flag: StoredFlag, state: FlagState) -> int:
    from liveprofile.labels import feedback

    if not flag.event_id:
        return 0
    try:
        return feedback.send(settings, [feedback.of_flag(session, flag, state)])
    except ServiceError as error:
        raise ServiceError(
            f"flag {flag.flag_id} is {state.state} now, but its label is not sent: {error}; repeat"
            f" `liveprofile alerts label {flag.flag_id} {feedback.LABEL_OF[state.state]}"
            f" --by {state.by}`"
        ) from None


def _print_table(found: Sequence[Found]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("flag", "time", "user", "severity", "state", "by", "rule", "message"):
        table.add_column(name, overflow="fold", no_wrap=name in ("flag", "time", "severity"))
    for flag, state in found:
        table.add_row(
            flag.flag_id, utc(flag.window_end_ms), flag.user_id, flag.severity, state.state,
            state.by, with_state(flag.rule_id, flag), flag.message,
        )  # fmt: skip
    # Ids and messages are data: nothing in them is mark-up. Piped, a line is as wide as it is.
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(table, soft_wrap=not console.is_terminal)


def _fields(flag: StoredFlag, more: dict[str, Any]) -> dict[str, Any]:
    """`show` for a person: a name and a line each."""
    state = more["state"]
    at = (
        {"event": f"{flag.event_id}, {utc(flag.window_end_ms)}"}
        if flag.event_id
        else {"window": f"{utc(flag.window_start_ms)} to {utc(flag.window_end_ms)}"}
    )
    fields: dict[str, Any] = {
        "flag": flag.flag_id,
        "user": flag.user_id,
        **at,
        "rule": f"{flag.rule_id}, version {flag.rule_version or '?'}, {flag.rule_state}",
        "severity": flag.severity,
        "action": flag.action,
        "message": flag.message,
        "value": f"{flag.value:g}, flagged from {flag.threshold:g}",
        "model": flag.model_version,
    }
    for number, reason in enumerate(flag.reasons, 1):
        fields[f"reason {number}"] = (
            f"{reason['code']}: {reason['sentence']} (value {_number(reason['value'])},"
            f" usual {_number(reason['usual'])})"
        )
    fields["state"] = f"{state['state']}, by {state['by']}" if state["by"] else state["state"]
    for change in more["history"]:
        note = f": {change['note']}" if change["note"] else ""
        fields[f"  {utc(change['at_ms'])}"] = (
            f"{change['from_state']} -> {change['to_state']}, by {change['by']}{note}"
        )
    for each in more["snoozes"]:
        fields[f"snoozed, rule {each['rule_id']}"] = (
            f"until {utc(each['until_ms'])}, by {each['by']}"
        )
    for case in more["cases"]:
        status = "open" if case["is_open"] else "closed"
        fields[f"case {case['number']}"] = f"{status}, {len(case['alerts'])} alerts"
    return fields


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"


def _time_ms(alert: dict[str, Any]) -> int:
    return round(datetime.fromisoformat(alert["time"]).timestamp() * 1_000)


def _print(alert: dict[str, Any], json: bool) -> None:
    print_json(alert) if json else typer.echo(sentence(alert))
