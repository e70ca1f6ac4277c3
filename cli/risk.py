"""`liveprofile risk`: an alert consumer, labels, rules and drift."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
import typer
from cassandra.cluster import Session
from rich.table import Table

from cli.alerts import AnalystOption
from cli.common import (
    ByOption,
    Call,
    ConfigCall,
    RejectedLabelReporter,
    format_utc,
    print_json,
    refuse_empty,
    table,
)
from cli.definitions import apply_file, check_file, print_in_force
from cli.options import Commands
from cli.progress import count_bar
from liveprofile.alerts.cases.flags import find_flag
from liveprofile.alerts.consumer import (
    AlertConsumer,
    Handler,
    OpenCase,
    RestrictAccount,
    Severity,
    Webhook,
    stop_on_signals,
)
from liveprofile.alerts.consumer.handlers import Accounts, load_accounts
from liveprofile.errors import InputError
from liveprofile.labels import feedback as labels
from liveprofile.labels.rule_backtest import Backtest, as_json
from liveprofile.labels.rule_backtest import backtest as compare
from liveprofile.storage.cql import now_ms
from services import operations
from services.definitions import read_definitions, read_kind

if TYPE_CHECKING:
    from udfs.scoring.drift_store import DriftState


def consume(
    call: Call,
    open_case: bool = False,
    webhook: str | None = None,
    restrict: str | None = None,
    min_severity: Literal["low", "medium", "high", "critical"] = "low",
    group: Annotated[str, typer.Option(callback=refuse_empty)] = "liveprofile-alerts",
    workers: Annotated[int, typer.Option(min=1, max=64)] = 4,
) -> None:
    """Handle risk alerts until Ctrl-C or SIGTERM, each alert at least once.

    An alert that cannot be handled goes to the dead-letter topic risk-alerts-dead with the
    reason. At the end the counts are printed. docs/alerts.md describes the guarantees.

    Example: `liveprofile risk consume --open-case --webhook https://example.org/alerts`

    Options:
    open_case: Open a customer-service case per alert in Cassandra.
    webhook URL: POST each alert to this URL, signed with the secret in LIVEPROFILE_WEBHOOK_SECRET.
    restrict MODULE:NAME: Restrict accounts with this Python object; it has the method
        restrict(user_id, action, until, reason).
    min_severity: Ignore alerts below this severity.
    group NAME: Kafka consumer group; the consumers of a group share the alerts.
    workers: Number of threads.
    """
    # Created before anything connects, because they check the options.
    post = Webhook.from_environment(webhook) if webhook else None
    accounts = load_accounts(restrict) if restrict else None
    if not (open_case or post or accounts):
        raise InputError("no handler: give --open-case, --webhook or --restrict")
    # The consumer logs the outcome of each alert; user ids in these lines are hashed.
    logging.getLogger("liveprofile.alerts.consumer").setLevel(logging.INFO)
    with call.session() as session:
        consumer = AlertConsumer.connect(
            call.settings,
            create_handlers(session, call.settings.cassandra.case_ttl_s, open_case, post, accounts),
            session,
            group_id=group,
            min_severity=Severity(min_severity),
            workers=workers,
        )
        with stop_on_signals(consumer):
            counts = asdict(consumer.run())
    call.print(counts)


def create_handlers(
    session: Session,
    case_ttl_s: int,
    open_case: bool,
    webhook: Webhook | None,
    accounts: Accounts | None,
) -> list[Handler]:
    """Creates the handlers that the options request."""
    handlers: list[Handler] = []
    if open_case:
        handlers.append(OpenCase(session, case_ttl_s))
    if webhook is not None:
        handlers.append(webhook)
    if accounts is not None:
        handlers.append(RestrictAccount(accounts, partial(find_flag, session)))
    return handlers


feedback = Commands(
    name="feedback", help="Send labels (fraud or legitimate) of events to the scoring pipeline."
)


@feedback.callback()
def group() -> None:
    """Makes `send` a subcommand: without a callback typer merges a single command."""


@feedback.command()
def send(call: ConfigCall, file: Path, by: AnalystOption) -> None:
    """Send the labels of a file to the topic risk-feedback; sending a label twice has no effect.

    Required columns: event_id, user_id, label (fraud or legitimate), event_time, and time or
    known_at. Optional: analyst (default --by), event_type, device_id, place, shop_id, coupon_id,
    address_id. The last line is JSON: sent, rejected, seconds. Exit code 1 if a row was rejected;
    the other rows are sent.

    Example: `liveprofile risk feedback send chargebacks.jsonl --by payments`

    Options:
    file FILE: Labels: JSON lines.
    """
    rejected = RejectedLabelReporter(file)
    started_s = time.monotonic()
    with count_bar(f"sending {file.name}", labels.estimate_rows(file)) as advance:
        rows = labels.read_labels(file, by)
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


FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Rules file (TOML).")]


@rules.command()
def check(call: Call, file: FileArgument) -> None:
    """Check a rules file without connecting to Kafka. Exit code 2 if it has errors.

    Each error is one line. With --json an error has file, line, rule, key, column (in a
    condition) and reason.

    Example: `liveprofile risk rules check rules.toml`
    """
    read = partial(read_definitions, "rules", settings=lambda: call.settings)
    check_file(call, file, "rules", read)


@rules.command()
def apply(call: Call, file: FileArgument, dry_run: bool = False, by: ByOption = "unknown") -> None:
    """Apply a rules file: running jobs use it within seconds.

    A changed rule is written to the topic risk-rules with the next version; a rule that the file
    lacks is removed from the topic. If the file has an error, nothing is written. From then on
    jobs use the rules of the topic instead of the file in their settings. The records are signed
    if the setting rules_signing_key is set.

    Example: `liveprofile risk rules apply rules.toml --dry-run`

    Options:
    dry_run: Print the changes without applying them.
    """
    rules = read_definitions("rules", file, lambda: call.settings).rules
    apply_file(call, "rules", rules, file, dry_run, by)


@rules.command()
def backtest(
    call: Call, file: FileArgument, days: Annotated[int, typer.Option(min=1, max=400)] = 14
) -> None:
    """Compare a rules file with the rules in force, over stored windows and events.

    Prints the alerts of both by day and by rule, the share of frauds among the labelled alerts, and
    how many users only one of them alerts about. A rule that reads features which are not stored
    with events counts only if its condition is in force. Writes nothing.

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
        "windows, events": f"{found.windows}, {found.events} from {format_utc(found.since_ms)}"
        f" to {format_utc(found.until_ms)}",
        "alerts, in force and edited": _pair(side.alerts for side in sides),
        "users with an alert": _pair(len(side.users) for side in sides),
        "frauds of labelled alerts": _pair(f"{each.frauds}/{each.labelled}" for each in sides),
        "flags of rules in SHADOW": _pair(side.shadow_flags for side in sides),
        "users who gain alerts": len(found.gained),
        "users who lose alerts": len(found.lost),
    }
    for title, name in (("day", "alerts_by_day"), ("rule", "alerts_by_rule")):
        current, edited = (getattr(side, name) for side in sides)
        rows = [
            (
                format_utc(key)[:10] if title == "day" else key,
                current.get(key, 0),
                edited.get(key, 0),
            )
            for key in sorted(current.keys() | edited.keys())
        ]
        if rows:
            yield table(None, rows, {title: "{[0]}", "in force": "{[1]}", "edited": "{[2]}"})


def _pair(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


@rules.command(name="list")
def list_rules(call: Call) -> None:
    """List the current rules: those of the topic, or of the file while the topic has none.

    Example: `liveprofile risk rules list --json`
    """
    source, rule_set, _ = read_kind(call.settings, "rules")
    print_in_force(call, source, rule_set, "rules", lambda rule: f"{rule.scope:<6}  ")


def drift(call: Call, periods: Annotated[int, typer.Option(min=1, max=1_000)] = 12) -> None:
    """Show whether the fraud model's input has drifted from its training data (docs/drift.md).

    Example: `liveprofile risk drift --periods 24`

    Options:
    periods N: Last N hours and N days.
    """
    with call.session() as session:
        found = operations.drift(session, call.settings, periods)
    if found is None:
        folder = call.settings.scoring.checkpoint
        raise InputError(f"event model {folder} has no reference.json: its drift is not monitored")
    report: dict[str, Any] = {"reference": found.reference}
    shown: list[str | Table] = []
    for kind, (state, decisions) in found.periods.items():
        report[kind] = {
            "state": {
                "drifting": state.since_ms is not None,
                "since_ms": state.since_ms,
                "decided_until_ms": state.decided_until_ms,
            },
            "periods": [
                each._asdict() | {"distances": orjson.loads(each.distances)} for each in decisions
            ],
        }
        shown.append(f"by {kind}: {_describe_state(state)}")
        if decisions:
            shown.append(table(None, decisions, DECISION))
    call.print(report, *shown)


def _describe_state(state: DriftState) -> str:
    if state.decided_until_ms is None:
        return "no period is evaluated yet"
    if state.since_ms is None:
        verdict = "no drift"
    else:
        verdict = f"drifting since {format_utc(state.since_ms)}"
    return f"{verdict}, evaluated until {format_utc(state.decided_until_ms)}"


DECISION = {
    "start": lambda decision: format_utc(decision.start_ms),
    "events": "{.events}",
    "drift": lambda decision: "yes" if decision.drifting else "no",
    "largest distances (distance, limit)": lambda decision: ", ".join(
        f"{each.name} {each.value:.2f} ({'none' if each.limit is None else f'{each.limit:.2f}'})"
        for each in decision.relative[:3]
    ),
}
