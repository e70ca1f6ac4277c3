"""`liveprofile risk rules`: checks, applies and lists risk rules."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    format_utc,
    print_fields,
    print_json,
    read_settings,
)
from cli.definitions import (
    ByOption,
    DryRunOption,
    apply_file,
    check_file,
    print_in_force,
    read_with_attributes,
)
from cli.options import Commands
from cli.tables import new_table, print_tables

if TYPE_CHECKING:
    from liveprofile.labels.rule_backtest import Backtest

rules = Commands(
    name="rules",
    help="Check risk rules, try them on the past, apply them to running jobs, list them."
    " docs/data-contract.md, section 6, describes the format.",
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Rules file (TOML).")]


@rules.command()
def check(file: FileArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Check a rules file without connecting to Kafka. Exit code 2 if it has errors.

    Each error is one line. With --json an error has file, line, rule, key, column (in a
    condition) and reason.

    Example: `liveprofile risk rules check rules.toml`
    """
    from liveprofile.rules.rules import read_rules

    read = read_with_attributes(read_rules, "rule", lambda: read_settings(config))
    check_file(file, "rule", read, json)


@rules.command()
def apply(
    file: FileArgument,
    dry_run: DryRunOption = False,
    by: ByOption = "unknown",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Apply a rules file: running jobs use it within seconds.

    A changed rule is written to the topic risk-rules with the next version; a rule that the file
    lacks is removed from the topic. If the file has an error, nothing is written. From then on
    jobs use the rules of the topic instead of the file in their settings. The records are signed
    if the setting rules_signing_key is set.

    Example: `liveprofile risk rules apply rules.toml --dry-run`
    """
    from liveprofile.rules.rules import read_rules

    settings = read_settings(config)
    rules = read_with_attributes(read_rules, "rule", lambda: settings)(file).rules
    apply_file(settings, "rule", rules, file, dry_run=dry_run, by=by, json=json)


@rules.command()
def backtest(
    file: FileArgument,
    days: Annotated[int, typer.Option(min=1, max=400)] = 14,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Compare a rules file with the rules in force, over stored windows and events.

    Prints the alerts of both by day and by rule, the share of frauds among the labelled alerts, and
    how many users only one of them alerts about. A rule that reads features which are not stored
    with events counts only if its condition is in force. Writes nothing.

    Example: `liveprofile risk rules backtest rules.toml --days 7`

    Options:
    days: The last days of stored events.
    """
    from liveprofile.labels.rule_backtest import as_json
    from liveprofile.labels.rule_backtest import backtest as compare
    from liveprofile.rules.rules import read_rules
    from liveprofile.storage.connection import open_session
    from liveprofile.storage.cql import now_ms
    from services.definitions import read_kind

    settings = read_settings(config)
    edited = read_with_attributes(read_rules, "rule", lambda: settings)(file)
    current = read_kind(settings, "rules").definitions
    with open_session(settings.cassandra) as session:
        found = compare(session, settings, current.rules, edited.rules, days, now_ms())
    if json:
        print_json(as_json(found))
        return
    print_backtest(found)


def print_backtest(found: Backtest) -> None:
    """Figures of both sides, then tables by day and by rule."""
    sides = (found.current, found.edited)
    print_fields(
        {
            "windows, events": f"{found.windows}, {found.events} from {format_utc(found.since_ms)}"
            f" to {format_utc(found.until_ms)}",
            "alerts, in force and edited": _pair(side.alerts for side in sides),
            "users with an alert": _pair(len(side.users) for side in sides),
            "frauds of labelled alerts": _pair(f"{each.frauds}/{each.labelled}" for each in sides),
            "flags of rules in SHADOW": _pair(side.shadow_flags for side in sides),
            "users who gain alerts": len(found.gained),
            "users who lose alerts": len(found.lost),
        }
    )
    for title, name in (("day", "alerts_by_day"), ("rule", "alerts_by_rule")):
        counts = [getattr(side, name) for side in sides]
        keys = sorted(counts[0].keys() | counts[1].keys())
        table = new_table(title, "in force", "edited")
        for key in keys:
            shown = format_utc(key)[:10] if title == "day" else key
            table.add_row(shown, *(str(each.get(key, 0)) for each in counts))
        if keys:
            print_tables(table)
    for rule, reason in found.skipped.items():
        typer.echo(f"{rule} is not evaluated: {reason}", err=True)


def _pair(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


@rules.command(name="list")
def list_rules(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List the current rules: those of the topic, or of the file while the topic has none.

    Example: `liveprofile risk rules list --json`
    """
    from services.definitions import read_kind

    source, rule_set, _ = read_kind(read_settings(config), "rules")
    print_in_force(source, rule_set, "rule", json, lambda rule: f"{rule.scope:<6}  ")
