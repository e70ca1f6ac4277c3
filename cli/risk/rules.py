"""`liveprofile rules`: checks, applies and lists risk rules."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from cli.common import ConfigOption, JsonOption, print_json, read_settings
from liveprofile.config import Settings
from liveprofile.resources import product_path

if TYPE_CHECKING:
    from liveprofile.rules.rules import Rule, RuleSet
    from udfs.rules_feed import TopicRules

rules = typer.Typer(
    name="rules",
    no_args_is_help=True,
    help="Check risk rules, apply them to running jobs, list the current ones."
    " docs/data-contract.md, section 6, describes the format.",
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Rules file (TOML).")]


@rules.command()
def check(file: FileArgument, json: JsonOption = False) -> None:
    """Check a rules file without connecting to Kafka. Exit code 2 if it has errors.

    Each error is one line. With --json an error has file, line, rule, key, column (in a
    condition) and reason.

    Example: `liveprofile rules check rules.toml`
    """
    from liveprofile.rules.rules import RulesError, read_rules

    try:
        rule_set = read_rules(file)
    except RulesError as error:
        if json:
            problems = [{"file": str(file)} | problem._asdict() for problem in error.problems]
            print_json({"ok": False, "problems": problems})
        else:
            for line in error.lines():
                typer.echo(f"liveprofile: {line}", err=True)
        raise typer.Exit(error.exit_code) from None
    if json:
        print_json({"ok": True, "version": rule_set.version, "rules": len(rule_set.rules)})
    else:
        typer.echo(f"{file}: version {rule_set.version}, {len(rule_set.rules)} rules, no errors")


@rules.command()
def apply(
    file: FileArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the changes without applying them.")
    ] = False,
    by: Annotated[
        str,
        typer.Option(
            "--by", metavar="NAME", envvar="USER", help="Name that is stored with the change."
        ),
    ] = "unknown",
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
    import orjson

    from liveprofile.kafka.records import send_all
    from liveprofile.kafka.topics import create_topics
    from liveprofile.rules.rules import read_rules
    from udfs.rules_feed import APPLIED_KEY, read_topic_rules, rule_signer

    rule_set = read_rules(file)
    settings = read_settings(config)
    topic_rules, signer = read_topic_rules(settings), rule_signer(settings)
    changes = plan_changes(topic_rules, rule_set)
    to_write = [change for change in changes if change.kind != "unchanged"]
    if (to_write or APPLIED_KEY.decode() in topic_rules.invalid_ids) and not dry_run:
        create_topics(settings)
        now = datetime.now(UTC)
        applied_at = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        applied = {"applied_by": by, "applied_at": applied_at}
        # Readers refuse a record that was signed before the newest one; this clock may be behind.
        signed_ms = max(int(now.timestamp() * 1_000), topic_rules.signed_ms + 1)
        values = [
            (APPLIED_KEY, orjson.dumps(applied)),
            *((change.rule_id.encode(), change.record(applied)) for change in to_write),
        ]
        send_all(
            settings,
            settings.topics.rules,
            [
                (key, value, {} if signer is None else signer.headers(key, value, signed_ms))
                for key, value in values
            ],
        )
    if json:
        print_json(
            {
                "file": str(file),
                "dry_run": dry_run,
                "changes": [change.as_json() for change in changes],
            }
        )
        return
    for change in changes:
        version = "" if change.rule is None else f"  version {change.rule.version}"
        typer.echo(f"{change.kind:<9}  {change.rule_id}{version}")


@rules.command(name="list")
def list_rules(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List the current rules: those of the topic, or of the file while the topic has none.

    Example: `liveprofile rules list --json`
    """
    settings = read_settings(config)
    source, rule_set = current_rules(settings)
    if json:
        listed = [rule.model_dump(mode="json") for rule in rule_set.rules]
        print_json({"source": source, "version": rule_set.version, "rules": listed})
        return
    typer.echo(f"version {rule_set.version}, from {source}")
    width = max((len(rule.id) for rule in rule_set.rules), default=0)
    for rule in rule_set.rules:
        typer.echo(
            f"{rule.id:<{width}}  {rule.version:>3}  {rule.scope:<6}  {rule.state:<6}  {rule.when}"
        )


class RuleChange(NamedTuple):
    """The change of one rule in the topic."""

    kind: Literal["added", "changed", "unchanged", "removed"]
    rule_id: str
    rule: Rule | None  # the new rule; None if it is removed

    def record(self, applied: dict[str, str]) -> bytes | None:
        """The value of the rule's record in the topic; None (a tombstone) removes the rule."""
        import orjson

        if self.rule is None:
            return None
        return orjson.dumps(self.rule.model_dump(mode="json") | applied)

    def as_json(self) -> dict[str, object]:
        return {
            "rule_id": self.rule_id,
            "what": self.kind,
            "version": None if self.rule is None else self.rule.version,
        }


def plan_changes(topic: TopicRules, file: RuleSet) -> list[RuleChange]:
    """Compares the file with the topic. A changed rule gets at least the next version.

    A rule whose newest record is invalid is written again: after compaction the topic may hold no
    other record of it.
    """
    from udfs.rules_feed import APPLIED_KEY

    in_topic = {rule.id: rule for rule in topic.rules().rules}
    changes = []
    for rule in file.rules:
        known = in_topic.pop(rule.id, None)
        if known is None:
            changes.append(RuleChange("added", rule.id, rule))
        elif (
            rule.model_copy(update={"version": known.version}) == known
            and rule.id not in topic.invalid_ids
        ):
            changes.append(RuleChange("unchanged", rule.id, known))
        else:
            version = max(known.version + 1, rule.version)
            new = rule.model_copy(update={"version": version})
            changes.append(RuleChange("changed", rule.id, new))
    kept = {APPLIED_KEY.decode(), *(rule.id for rule in file.rules)}
    removed = in_topic.keys() | (topic.invalid_ids - kept)
    return changes + [RuleChange("removed", rule_id, None) for rule_id in sorted(removed)]


def current_rules(settings: Settings) -> tuple[str, RuleSet]:
    """Returns the source of the rules that jobs use, and the rules.

    Raises ServiceError and RulesError.
    """
    from liveprofile.rules.rules import read_rules
    from udfs.rules_feed import read_topic_rules

    topic_rules = read_topic_rules(settings)
    if topic_rules.has_records:
        return f"topic {settings.topics.rules}", topic_rules.rules()
    file = product_path(settings.rules)
    return f"file {file}", read_rules(file)
