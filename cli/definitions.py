"""What `liveprofile rules` and `liveprofile segments` share: check, apply and in force."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from cli.common import print_json
from liveprofile.config import Settings
from liveprofile.resources import product_path

if TYPE_CHECKING:
    from liveprofile.rules.definitions import Definition, DefinitionSet
    from udfs.definition_feed import TopicDefinitions

DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print the changes without applying them.")
]
ByOption = Annotated[
    str,
    typer.Option(
        "--by", metavar="NAME", envvar="USER", help="Name that is stored with the change."
    ),
]


def check_file(file: Path, name: str, read: Callable[[Path], Any], json: bool) -> None:
    """Prints whether a definitions file is valid. Exits with 2 if it has errors.

    name: such as "rule"; read: reads the file into a set with `version` and f"{name}s".
    """
    from liveprofile.rules.definitions import DefinitionsError

    plural = f"{name}s"
    try:
        found = read(file)
    except DefinitionsError as error:
        if json:
            problems = [{"file": str(file)} | problem for problem in error.as_json()]
            print_json({"ok": False, "problems": problems})
        else:
            for line in error.lines():
                typer.echo(f"liveprofile: {line}", err=True)
        raise typer.Exit(error.exit_code) from None
    count = len(getattr(found, plural))
    if json:
        print_json({"ok": True, "version": found.version, plural: count})
    else:
        typer.echo(f"{file}: version {found.version}, {count} {plural}, no errors")


class DefinitionChange(NamedTuple):
    """The change of one definition in its topic."""

    kind: Literal["added", "changed", "unchanged", "removed"]
    name: str
    definition: Definition | None  # the new one; None if it is removed

    def record(self, applied: dict[str, str]) -> bytes | None:
        """The value of the definition's record; None (a tombstone) removes the definition."""
        import orjson

        if self.definition is None:
            return None
        return orjson.dumps(self.definition.model_dump(mode="json") | applied)

    def as_json(self, kind_name: str) -> dict[str, object]:
        return {
            f"{kind_name}_id": self.name,
            "what": self.kind,
            "version": None if self.definition is None else self.definition.version,
        }


def plan_changes(topic: TopicDefinitions, file: Sequence[Definition]) -> list[DefinitionChange]:
    """Compares the file with the topic. A changed definition gets at least the next version.

    A definition whose newest record is invalid is written again: after compaction the topic may
    hold no other record of it.
    """
    from udfs.definition_feed import APPLIED_KEY

    in_topic = {known.id: known for known in topic.definitions}
    changes = []
    for definition in file:
        known = in_topic.pop(definition.id, None)
        if known is None:
            changes.append(DefinitionChange("added", definition.id, definition))
        elif (
            definition.model_copy(update={"version": known.version}) == known
            and definition.id not in topic.invalid_ids
        ):
            changes.append(DefinitionChange("unchanged", definition.id, known))
        else:
            version = max(known.version + 1, definition.version)
            new = definition.model_copy(update={"version": version})
            changes.append(DefinitionChange("changed", definition.id, new))
    kept = {APPLIED_KEY.decode(), *(definition.id for definition in file)}
    removed = in_topic.keys() | (topic.invalid_ids - kept)
    return changes + [DefinitionChange("removed", name, None) for name in sorted(removed)]


def apply_file(
    settings: Settings,
    kind_name: str,
    topic_name: str,
    topic: TopicDefinitions,
    definitions: Sequence[Definition],
    file: Path,
    *,
    dry_run: bool,
    by: str,
    json: bool,
) -> None:
    """Makes the topic equal to the definitions of the file, and prints the changes.

    topic: the present definitions of the topic. Raises ServiceError.
    """
    changes = plan_changes(topic, definitions)
    if not dry_run:
        _write_changes(settings, topic_name, topic, changes, by)
    if json:
        listed = [change.as_json(kind_name) for change in changes]
        print_json({"file": str(file), "dry_run": dry_run, "changes": listed})
        return
    for change in changes:
        version = "" if change.definition is None else f"  version {change.definition.version}"
        typer.echo(f"{change.kind:<9}  {change.name}{version}")


def _write_changes(
    settings: Settings,
    topic_name: str,
    topic: TopicDefinitions,
    changes: Sequence[DefinitionChange],
    by: str,
) -> None:
    import orjson

    from liveprofile.kafka.topics import create_topics
    from udfs.definition_feed import APPLIED_KEY, send_records

    to_write = [change for change in changes if change.kind != "unchanged"]
    if not to_write and APPLIED_KEY.decode() not in topic.invalid_ids:
        return
    create_topics(settings)
    applied_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    applied = {"applied_by": by, "applied_at": applied_at}
    records = [
        (APPLIED_KEY, orjson.dumps(applied)),
        *((change.name.encode(), change.record(applied)) for change in to_write),
    ]
    send_records(settings, topic_name, topic, records)


def in_force(
    topic_name: str, topic: TopicDefinitions, file: Path, read: Callable[[Path], DefinitionSet]
) -> tuple[str, Any]:
    """Returns the source of the definitions that jobs use, and their set.

    read: reads the file of the settings. Raises DefinitionsError.
    """
    if topic.has_records:
        return f"topic {topic_name}", topic.in_force()
    path = product_path(file)
    return f"file {path}", read(path)
