"""`liveprofile risk alerts`: prints alerts and records what analysts decide about their flags."""

import getpass
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
import typer

from cli.common import (
    Call,
    LimitOption,
    SinceOption,
    UserArgument,
    UserOption,
    format_utc,
    option,
    parse_duration_ms,
    refuse_empty,
    table,
)
from cli.options import Commands
from liveprofile.drift.alert import DRIFT_ALERT_TYPE
from liveprofile.kafka.offsets import ranges_since
from liveprofile.kafka.records import Record, read_topic
from liveprofile.kafka.tail import TopicTail
from liveprofile.storage.cql import now_ms
from services.alerts import alerts as service
from services.alerts import flags
from services.alerts.alerts import flag_file
from services.alerts.snooze import check_end
from services.alerts.states import AlertState


def deduplicate(records: Iterable[Record], seen: set[str]) -> Iterator[dict[str, Any]]:
    """Yields the alerts of the records, each id once, and adds their ids to `seen`.

    Delivery is at least once, so a topic can hold an alert twice. An invalid record is reported on
    stderr and skipped.
    """
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
    data = alert.get("data") or {}
    is_drift = alert.get("type") == DRIFT_ALERT_TYPE  # it has no flag
    return (
        f"{format_utc(alert_time_ms(alert))}  {data.get('severity', '?'):<8}"
        f"  {'model' if is_drift else 'user'} {alert.get('subject', '?')}"
        f"  {data.get('reason', '?')}: {data.get('message', '')}  -> {data.get('action', '?')}"
        + ("" if is_drift else f"  flag {alert['id']}")
    )


def alert_time_ms(alert: dict[str, Any]) -> int:
    """The alert's time in epoch milliseconds. Raises KeyError, TypeError and ValueError."""
    return round(datetime.fromisoformat(alert["time"]).timestamp() * 1_000)


alerts = Commands(
    name="alerts",
    invoke_without_command=True,
    help="Print risk alerts, or with a command, review the flags behind them (docs/alerts.md)."
    "\n\nExample: `liveprofile risk alerts --follow --json`",
)


FlagArgument = Annotated[
    str,
    typer.Argument(
        metavar="FLAG", help="Flag id; the alert's id is the same.", callback=refuse_empty
    ),
]
AnalystOption = Annotated[
    str,
    option(
        "--by",
        "NAME",
        "Name of the analyst.",
        default_factory=getpass.getuser,
        show_default="the login name",
        callback=refuse_empty,
    ),
]
NoteOption = Annotated[str, option("--note", "TEXT", "Note stored in the flag's history.")]


@alerts.callback()
def print_alerts(
    call: Call,
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f")] = False,
    limit: Annotated[int, typer.Option(min=0)] = 20,
    since: SinceOption = None,
) -> None:
    """Without a command: print the alerts in the topic, each once.

    Options:
    follow: Wait for new alerts after that, until Ctrl-C.
    limit N: Number of latest alerts to print; 0: all.
    """
    if context.invoked_subcommand is not None:
        return

    settings = call.settings
    topic = settings.topics.alerts
    ranges = ranges_since(settings, topic, since)
    seen: set[str] = set()
    present = sorted(deduplicate(read_topic(settings, topic, ranges), seen), key=alert_time_ms)
    for alert in present[-limit:] if limit else present:
        call.print(alert, alert_line(alert))
    if not follow:
        if not present and not call.json:
            typer.echo("no alerts", err=True)
        return
    starts = {partition: part.end for partition, part in ranges.items()}
    tail = TopicTail(settings, topic, "liveprofile-cli", starts)
    while True:
        for alert in deduplicate(tail.poll(), seen):
            call.print(alert, alert_line(alert))


@alerts.command("list")
def list_flags(
    call: Call,
    user: UserOption = None,
    state: Literal["open", "acknowledged", "confirmed", "false_positive", "closed"] | None = None,
    since: SinceOption = None,
    rule: str | None = None,
    limit: LimitOption = 20,
) -> None:
    """List stored flags with their states, newest first.

    Example: `liveprofile risk alerts list --state open --since 2d`

    Options:
    state: Only flags in this state.
    rule RULE: Only flags of this rule.
    """
    with call.session() as session:
        rows = flags.list_flags(
            session,
            user_id=user,
            state=None if state is None else AlertState(state),
            since_ms=since,
            rule_id=rule,
            limit=limit,
        )
    listed = [row.flag._asdict() | row.state._asdict() for row in rows]
    columns = (
        "flag_id window_end_ms user_id severity state by rule_id rule_state correction message"
    )
    call.rows(listed, columns, empty="no flags")


@alerts.command()
def show(call: Call, flag: FlagArgument) -> None:
    """Show a flag's reasons, state, history, snoozes and cases. Exit code 1 if it is unknown.

    Example: `liveprofile risk alerts show 6f1c2a09b7d34e58`
    """
    with call.session() as session:
        stored, state, *lists = flag_file(session, call.settings, flag)
    details = {
        name: [each._asdict() for each in listed] for name, listed in zip(WORK, lists, strict=True)
    }
    fields = stored._asdict()
    shown = {name: value for name, value in fields.items() if name != "reasons"}
    tables = []
    if stored.reasons:
        tables.append(table("reasons", stored.reasons, "code sentence value usual"))
    tables += [table(name, details[name], WORK[name]) for name in WORK if details[name]]
    document = {**fields, "state": state._asdict(), **details}
    call.print(document, shown | state._asdict(), *tables)


# Of a flag: what each table shows.
WORK = {
    "history": "at_ms from_state to_state by note",
    "snoozes": "rule_id until_ms by",
    "cases": "number is_open alerts",
}


@alerts.command()
def ack(call: Call, flag: FlagArgument, by: AnalystOption, note: NoteOption = "") -> None:
    """Acknowledge a flag. Exit code 1 if another analyst has acknowledged it.

    Example: `liveprofile risk alerts ack 6f1c2a09b7d34e58 --note "called the customer"`
    """
    _act(call, flag, "acknowledged", by, note)


@alerts.command()
def close(call: Call, flag: FlagArgument, by: AnalystOption, note: NoteOption = "") -> None:
    """Close a flag. Exit code 1 if it is closed already.

    A case closes when all its flags are labelled or closed.

    Example: `liveprofile risk alerts close 6f1c2a09b7d34e58`
    """
    _act(call, flag, "closed", by, note)


@alerts.command()
def label(
    call: Call,
    flag: FlagArgument,
    verdict: Annotated[Literal["fraud", "legitimate"], typer.Argument(metavar="fraud|legitimate")],
    by: AnalystOption,
    note: NoteOption = "",
) -> None:
    """Label a flag as fraud or legitimate; the scoring pipeline uses the label.

    The state becomes confirmed or false_positive. If the flag is of an event, the label is then
    sent to the topic risk-feedback. Exit code 3 if Kafka does not answer: repeat the command.

    Example: `liveprofile risk alerts label 6f1c2a09b7d34e58 fraud`
    """
    _act(call, flag, verdict, by, note)


@alerts.command()
def snooze(
    call: Call,
    user: UserArgument,
    by: AnalystOption,
    rule: str = "*",
    duration: Annotated[str, typer.Option("--for")] = "24h",
    end: bool = False,
    note: NoteOption = "",
) -> None:
    """Suppress a user's alerts for a limited time; flags are still stored.

    Example: `liveprofile risk alerts snooze 42 --rule purchase_amount --for 8h`

    Options:
    rule RULE: Rule to snooze; *: every rule.
    duration TIME: Duration from now in minutes, hours or days: 30m, 8h, 3d.
    end: End the snooze now.
    """
    until_ms = now_ms() + parse_duration_ms(duration, "--for")
    check_end(until_ms)
    with call.session() as session:
        if end:
            service.end_snooze(session, call.settings, user, rule)
        else:
            service.snooze(session, call.settings, user, rule, until_ms, by, note)
    until = None if end else until_ms
    call.print({"user_id": user, "rule_id": rule, "until_ms": until, "by": by})


def _act(call: Call, flag_id: str, act: str, by: str, note: str) -> None:
    """act: a label, or a state."""
    is_label, sent = act in ("fraud", "legitimate"), 0
    with call.session() as session:
        if is_label:
            state, sent = service.label(session, call.settings, flag_id, act, by, note)
        else:
            state = service.set_state(session, call.settings, flag_id, AlertState(act), by, note)
    call.print({"flag_id": flag_id, **state._asdict(), "labels_sent": sent})
    if is_label and not sent and not call.json:
        typer.echo("no label sent: the flag is of a window, not of an event", err=True)
