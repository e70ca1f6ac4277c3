"""`liveprofile rules`: check risk rules, put them in force while the job runs, list them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from cli.common import ConfigOption, JsonOption, print_json, read_settings
from liveprofile.config import Settings
from liveprofile.resources import product_path

if TYPE_CHECKING:
    from liveprofile.rules.rules import Rule, Rules
    from udfs.rules_feed import TopicRules

rules = typer.Typer(
    name="rules",
    no_args_is_help=True,
    help="Check risk rules, put them in force while the job runs, list those in force."
    " docs/data-contract.md, section 6, has their format.",
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Rules (TOML).")]


@rules.command()
def check(file: FileArgument, json: JsonOption = False) -> None:
    """Check a file of rules, without Kafka. Every error is one line; then the exit code is 2.

    With --json a program gets them: file, line, rule, key, column (in a condition), reason.
    """
    from liveprofile.rules.rules import RulesError, read_rules

    try:
        found = read_rules(file)
    except RulesError as error:
        if json:
            problems = [{"file": str(file)} | problem._asdict() for problem in error.problems]
            print_json({"ok": False, "problems": problems})
        else:
            for line in error.lines():
                typer.echo(f"liveprofile: {line}", err=True)
        raise typer.Exit(error.exit_code) from None
    if json:
        print_json({"ok": True, "version": found.version, "rules": len(found.rules)})
    else:
        typer.echo(f"{file}: version {found.version}, {len(found.rules)} rules, nothing wrong")


@rules.command()
def apply(
    file: FileArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    by: Annotated[
        str, typer.Option("--by", metavar="NAME", envvar="USER", help="Who applies the rules.")
    ] = "unknown",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Put a file of rules in force: running jobs follow within seconds.

    A changed rule is written to the topic risk-rules with the next version, one that the file lacks
    is removed there. If anything is wrong with the file, nothing is written. From then on jobs go
    by the topic, no longer by the file of their settings.
    """
    from liveprofile.kafka.records import send_all
    from liveprofile.kafka.topics import create_topics
    from liveprofile.rules.rules import read_rules
    from udfs.rules_feed import read_topic_rules

    wanted = read_rules(file)
    settings = read_settings(config)
    changes = compare(read_topic_rules(settings), wanted)
    if not dry_run and any(change.what != "unchanged" for change in changes):
        create_topics(settings)
        applied_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        send_all(
            settings,
            settings.topics.rules,
            [
                (change.rule_id.encode(), change.record(by, applied_at), {})
                for change in changes
                if change.what != "unchanged"
            ],
        )
    if json:
        shown = [change.shown() for change in changes]
        print_json({"file": str(file), "dry_run": dry_run, "changes": shown})
        return
    for change in changes:
        version = "" if change.rule is None else f"  version {change.rule.version}"
        typer.echo(f"{change.what:<9}  {change.rule_id}{version}")


@rules.command(name="list")
def list_rules(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List the rules in force: the topic's, or the file's while the topic has none."""
    settings = read_settings(config)
    source, found = in_force(settings)
    if json:
        listed = [rule.model_dump(mode="json") for rule in found.rules]
        print_json({"source": source, "version": found.version, "rules": listed})
        return
    typer.echo(f"version {found.version}, from {source}")
    width = max((len(rule.id) for rule in found.rules), default=0)
    for rule in found.rules:
        typer.echo(
            f"{rule.id:<{width}}  {rule.version:>3}  {rule.scope:<6}  {rule.state:<6}  {rule.when}"
        )


class Change(NamedTuple):
    """What becomes of one rule. rule: as it will be; None: removed."""

    what: str  # added, changed, unchanged or removed
    rule_id: str
    rule: Rule | None

    def record(self, by: str, applied_at: str) -> bytes | None:
        """The value of its record in the topic; None, a tombstone, removes it."""
        import orjson

        if self.rule is None:
            return None
        applied = {"applied_by": by, "applied_at": applied_at}
        return orjson.dumps(self.rule.model_dump(mode="json") | applied)

    def shown(self) -> dict[str, object]:
        return {
            "rule_id": self.rule_id,
            "what": self.what,
            "version": None if self.rule is None else self.rule.version,
        }


def compare(topic: TopicRules, file: Rules) -> list[Change]:
    """What the file changes in the topic; a changed rule gets at least the next version.

    A rule whose newest record can't be read is written anew: compaction may have left nothing else.
    """
    old = {rule.id: rule for rule in topic.rules().rules}
    changes = []
    for rule in file.rules:
        known = old.pop(rule.id, None)
        if known is None:
            changes.append(Change("added", rule.id, rule))
        elif (
            rule.model_copy(update={"version": known.version}) == known
            and rule.id not in topic.unreadable
        ):
            changes.append(Change("unchanged", rule.id, known))
        else:
            version = max(known.version + 1, rule.version)
            new = rule.model_copy(update={"version": version})
            changes.append(Change("changed", rule.id, new))
    gone = old.keys() | (topic.unreadable - {rule.id for rule in file.rules})
    return changes + [Change("removed", rule_id, None) for rule_id in sorted(gone)]


def in_force(settings: Settings) -> tuple[str, Rules]:
    """Where the rules in force come from, and the rules. Raises ServiceError, RulesError."""
    from liveprofile.rules.rules import read_rules
    from udfs.rules_feed import read_topic_rules

    found = read_topic_rules(settings)
    if found.any_record:
        return f"topic {settings.topics.rules}", found.rules()
    file = product_path(settings.rules)
    return f"file {file}", read_rules(file)
