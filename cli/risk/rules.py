"""`liveprofile rules`: checks, applies and lists risk rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import ConfigOption, JsonOption, read_settings
from cli.definitions import (
    ByOption,
    DryRunOption,
    apply_file,
    check_file,
    print_in_force,
    read_with_attributes,
)

rules = typer.Typer(
    name="rules",
    no_args_is_help=True,
    help="Check risk rules, apply them to running jobs, list the current ones."
    " docs/data-contract.md, section 6, describes the format.",
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Rules file (TOML).")]


@rules.command()
def check(file: FileArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Check a rules file without connecting to Kafka. Exit code 2 if it has errors.

    Each error is one line. With --json an error has file, line, rule, key, column (in a
    condition) and reason.

    Example: `liveprofile rules check rules.toml`
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

    Example: `liveprofile rules apply rules.toml --dry-run`
    """
    from liveprofile.rules.rules import read_rules
    from udfs.rules_feed import read_topic_rules

    settings = read_settings(config)
    rule_set = read_with_attributes(read_rules, "rule", lambda: settings)(file)
    name, rules = settings.topics.rules, rule_set.rules
    apply_file(
        settings, "rule", name, read_topic_rules, rules, file, dry_run=dry_run, by=by, json=json
    )


@rules.command(name="list")
def list_rules(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List the current rules: those of the topic, or of the file while the topic has none.

    Example: `liveprofile rules list --json`
    """
    from liveprofile.rules.rules import read_rules
    from udfs.definition_changes import read_in_force
    from udfs.rules_feed import read_topic_rules

    settings = read_settings(config)
    source, rule_set, _ = read_in_force(
        settings, settings.topics.rules, read_topic_rules, settings.rules, read_rules
    )
    print_in_force(source, rule_set, "rule", json, lambda rule: f"{rule.scope:<6}  ")
