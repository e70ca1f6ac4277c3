"""`liveprofile risk`: an alert consumer, labels, rules and drift."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
import typer

from cli.alerts import AnalystOption
from cli.common import (
    Call,
    ConfigCall,
    FaultReporter,
    cell,
    format_utc,
    print_json,
    refuse_empty,
    table,
)
from cli.options import Commands
from cli.progress import count_bar
from cli.rules_and_segments import FileArgument, add_commands
from intake import labels
from liveprofile.errors import InputError
from liveprofile.feeds.users import read_erasures
from liveprofile.storage.cql import now_ms
from services import operations
from services.alerts.consumer import (
    AlertConsumer,
    Handler,
    OpenCase,
    Severity,
    Webhook,
    stop_on_signals,
)
from services.definitions import read_definitions, read_kind
from services.rule_backtest import Backtest, as_json
from services.rule_backtest import backtest as compare

if TYPE_CHECKING:
    from rich.table import Table


def consume(
    call: Call,
    open_case: bool = False,
    webhook: str | None = None,
    min_severity: Literal["low", "medium", "high", "critical"] = "low",
    group: Annotated[str, typer.Option(callback=refuse_empty)] = "liveprofile-alerts",
) -> None:
    """Handle risk alerts until Ctrl-C or SIGTERM, each alert at least once.

    An alert that cannot be handled goes to the dead-letter topic risk-alerts-dead with the
    reason. At the end the counts are printed. docs/alerts.md describes the guarantees.

    Example: `liveprofile risk consume --open-case --webhook https://example.org/alerts`

    Options:
    open_case: Open a customer-service case per alert in Cassandra.
    webhook URL: POST each alert to this URL, signed with the secret in LIVEPROFILE_WEBHOOK_SECRET.
    min_severity: Ignore alerts below this severity.
    group NAME: Kafka consumer group; the consumers of a group share the alerts.
    """
    # Created before anything connects, because they check the options.
    post = Webhook.from_environment(webhook) if webhook else None
    if not (open_case or post):
        raise InputError("no handler: give --open-case or --webhook")
    # The consumer logs the outcome of each alert; user ids in these lines are hashed.
    logging.getLogger("services.alerts.consumer").setLevel(logging.INFO)
    with call.session() as session:
        handlers: list[Handler] = []
        if open_case:
            handlers.append(OpenCase(session, call.settings.cassandra.case_ttl_s))
        if post is not None:
            handlers.append(post)
        consumer = AlertConsumer.connect(
            call.settings,
            handlers,
            session,
            group_id=group,
            min_severity=Severity(min_severity),
        )
        with stop_on_signals(consumer):
            counts = asdict(consumer.run())
    call.print(counts)


def feedback(call: ConfigCall, file: Path, by: AnalystOption) -> None:
    """Send the labels of a file to the topic risk-feedback; sending a label twice has no effect.

    Required columns: event_id, user_id, label (fraud or legitimate), event_time, and time or
    known_at. Optional: analyst (default --by), event_type, device_id, place, shop_id, coupon_id,
    address_id. The last line is JSON: sent, rejected, seconds. Exit code 1 if a row was rejected,
    such as of a user who was erased after the event; the other rows are sent.

    Example: `liveprofile risk feedback chargebacks.jsonl --by payments`

    Options:
    file FILE: Labels: JSON lines.
    """
    rejected = FaultReporter(file)
    started_s = time.monotonic()
    with count_bar(f"sending {file.name}", labels.estimate_rows(file)) as advance:
        rows = labels.read_labels(file, by, read_erasures(call.settings).users())
        valid_rows = labels.keep_valid(rows, rejected, on_row=lambda: advance(1))
        sent = labels.send_labels(call.settings, valid_rows)
    seconds = round(time.monotonic() - started_s, 3)
    print_json({"sent": sent, "rejected": rejected.count, "seconds": seconds})
    if rejected.count:
        raise typer.Exit(1)


rules = Commands(
    name="rules",
    help="Check risk rules, try them on the past, apply them to running jobs, list them."
    " docs/data-contract.md, section 6, describes the format.",
)
add_commands(rules, "rules", "risk rules", "id version scope state when")


@rules.command()
def backtest(
    call: Call, file: FileArgument, days: Annotated[int, typer.Option(min=1, max=400)] = 14
) -> None:
    """Compare a rules file with the rules in force, over stored windows and events.

    Prints the alerts of both by day and by rule, and the share of frauds among the labelled alerts.
    A rule that reads features which are not stored with events counts only if its condition is in
    force. Writes nothing.

    Example: `liveprofile risk rules backtest rules.toml --days 7`

    Options:
    days: The last days of stored events.
    """
    settings = call.settings
    edited = read_definitions("rules", file, lambda: call.settings)
    current = read_kind(settings, "rules").definitions
    with call.session() as session:
        found = compare(session, settings, current.rules, edited.rules, days, now_ms())
    call.print(as_json(found), *shown_backtest(found))
    for rule, reason in found.skipped.items() if not call.json else ():
        typer.echo(f"{rule} is not evaluated: {reason}", err=True)


def shown_backtest(found: Backtest) -> Iterator[dict[str, Any] | Table]:
    """Figures of both sides, then tables by day and by rule."""
    sides = (found.current, found.edited)
    yield {
        "from": format_utc(found.since_ms),
        "until_ms": found.until_ms,
        "windows": found.windows,
        "events": found.events,
        "alerts, in force and edited": [side.alerts for side in sides],
        "users with an alert": [side.users for side in sides],
        "frauds of labelled alerts": [f"{each.frauds}/{each.labelled}" for each in sides],
        "flags of rules in SHADOW": [side.shadow_flags for side in sides],
    }
    for title, name in (("day_ms", "alerts_by_day"), ("rule", "alerts_by_rule")):
        current, edited = (getattr(side, name) for side in sides)
        rows = [
            {title: cell(title, key), "in_force": current.get(key, 0), "edited": edited.get(key, 0)}
            for key in sorted(current.keys() | edited.keys())
        ]
        if rows:
            yield table(None, rows, f"{title} in_force edited")


def drift(call: Call, hours: Annotated[int, typer.Option(min=1, max=1_000)] = 12) -> None:
    """Show whether the fraud model's input has drifted from its training data (docs/drift.md).

    The state, and the last hours.

    Example: `liveprofile risk drift --hours 24`

    Options:
    hours N: Last N hours.
    """
    with call.session() as session:
        history = operations.drift(session, call.settings, hours)
    if history is None:
        folder = call.settings.scoring.checkpoint
        raise InputError(f"event model {folder} has no reference.json: its drift is not monitored")
    found = history.state
    state = {
        "drifting": found.since_ms is not None,
        "since_ms": found.since_ms,
        "decided_until_ms": found.decided_until_ms,
    }
    hours_json = [
        each._asdict() | {"distances": orjson.loads(each.distances)} for each in history.hours
    ]
    report = {"reference": history.reference, "state": state, "hours": hours_json}
    call.print(report, state, table(None, history.hours, DECISION))


DECISION = {
    "start": "start_ms",
    "events": "events",
    "drift": "drifting",
    "largest distances (distance, limit)": lambda decision: ", ".join(
        f"{each.name} {each.value:.2f} ({'none' if each.limit is None else f'{each.limit:.2f}'})"
        for each in decision.relative[:3]
    ),
}
