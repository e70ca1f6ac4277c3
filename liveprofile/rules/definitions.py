"""What the files and records of rules and of segments have in common: reading and faults.

A file has tables `[[rules]]` or `[[segments]]`, a record of a topic has one definition as JSON.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import orjson
from pydantic import ValidationError

from liveprofile.errors import InputError
from liveprofile.rules.conditions import ConditionError

APPLIED_FIELDS = ("applied_by", "applied_at")  # fields that a record has besides its definition


class DefinitionProblem(NamedTuple):
    """One fault of a definition."""

    name: str  # the definition's id, or its number in the file
    key: str
    reason: str
    column: str = ""  # in a condition
    line: int | None = None  # in the file


class DefinitionsError(InputError):
    """The definitions are invalid. `problems` lists every fault."""

    kind: ClassVar[str]  # such as "rule", for messages; f"{kind}s" is the name of the tables

    def __init__(self, source: str, problems: Sequence[DefinitionProblem]):
        self.source, self.problems = source, tuple(problems)
        rest = len(problems) - 1
        more = f" (and {rest} more: `liveprofile {self.kind}s check`)" if rest else ""
        super().__init__(self.lines()[0] + more)

    def lines(self) -> list[str]:
        """Returns a line per problem: rules.toml:12: rule card_testing: when, column 9: ..."""
        return [
            f"{self.source}{'' if problem.line is None else f':{problem.line}'}:"
            f" {self._describe(problem)}"
            for problem in self.problems
        ]

    def as_json(self) -> list[dict[str, Any]]:
        """Returns a dict per problem: the definition's name under `kind`, key, reason, ..."""
        return [
            {self.kind: problem.name} | {k: v for k, v in problem._asdict().items() if k != "name"}
            for problem in self.problems
        ]

    def _describe(self, problem: DefinitionProblem) -> str:
        name = f"{self.kind} {problem.name}: " if problem.name else ""
        return f"{name}{problem.key}{problem.column and f', {problem.column}'}: {problem.reason}"


class Definition(Protocol):
    """A rule or a segment: a pydantic model with at least these fields."""

    id: str
    version: int

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...
    def model_dump_json(self) -> str: ...
    def model_copy(self, *, update: Mapping[str, Any]) -> Any: ...


class DefinitionSet(Protocol):
    """All definitions in force."""

    version: str


Kind = TypeVar("Kind", bound=Definition)
ReadTable = Callable[[Mapping[str, Any], str], tuple[Kind | None, list[DefinitionProblem]]]


class FileDefinitions(NamedTuple):
    """The content of a file, with every fault."""

    definitions: list[Any]
    other: dict[str, Any]  # the keys outside the definitions' tables
    problems: list[DefinitionProblem]
    key_lines: KeyLines


def read_file(path: Path, error: type[DefinitionsError], read: ReadTable) -> FileDefinitions:
    """Reads the tables of a TOML file.

    read: returns the definition of a table, or None, with the table's faults; its second argument
    names a table without an id. Raises `error` if the file has no such tables.
    """
    source, table_name = file_source(path, error), f"{error.kind}s"
    try:
        text = path.read_text(encoding="utf-8")
        other = tomllib.loads(text)
    except OSError as failure:
        reason = failure.strerror or "unreadable"
        raise error(source, [DefinitionProblem("", "file", reason)]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as failure:
        raise error(source, [DefinitionProblem("", "TOML", str(failure))]) from None
    tables = other.pop(table_name, None)
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        reason = f"must be tables [[{table_name}]]"
        raise error(source, [DefinitionProblem("", table_name, reason)])
    key_lines = KeyLines(text, table_name)
    definitions, problems = read_tables(tables, error.kind, read, key_lines.line)
    return FileDefinitions(definitions, other, problems, key_lines)


def read_tables(
    tables: Iterable[Mapping[str, Any]],
    kind: str,
    read: ReadTable,
    line: Callable[[int, str], int | None] = lambda index, key: None,
) -> tuple[list[Any], list[DefinitionProblem]]:
    """Returns the definitions of tables and every fault. `line`: of a table's key in its file."""
    problems: list[DefinitionProblem] = []
    definitions: list[Any] = []
    seen: set[str] = set()
    for index, table in enumerate(tables):
        definition, faults = read(table, f"number {index + 1}")
        if definition is not None:
            if definition.id in seen:
                reason = f"another {kind} has the same id"
                faults.append(DefinitionProblem(definition.id, "id", reason))
            seen.add(definition.id)
            definitions.append(definition)
        problems += [fault._replace(line=line(index, fault.key)) for fault in faults]
    return definitions, problems


def file_source(path: Path, error: type[DefinitionsError]) -> str:
    """Names the file in messages."""
    return f"{error.kind}s file {path}"


def read_record(value: bytes, source: str, error: type[DefinitionsError], read: ReadTable) -> Any:
    """Reads the definition of a record. Raises `error`, which names `source`."""
    try:
        table = orjson.loads(value)
    except orjson.JSONDecodeError as failure:
        raise error(source, [DefinitionProblem("", "JSON", str(failure))]) from None
    if not isinstance(table, dict):
        raise error(source, [DefinitionProblem("", "JSON", "must be an object")])
    definition, problems = read(
        {key: value for key, value in table.items() if key not in APPLIED_FIELDS}, "?"
    )
    if problems:
        raise error(source, problems)
    return definition


def validation_problems(name: str, error: ValidationError) -> list[DefinitionProblem]:
    """The faults that pydantic found in the definition `name`."""
    return [
        DefinitionProblem(name, ".".join(str(part) for part in detail["loc"]), detail["msg"])
        for detail in error.errors()
    ]


def condition_problem(name: str, when: str, error: ConditionError) -> DefinitionProblem:
    """The fault of the condition `when`."""
    return DefinitionProblem(name, "when", error.reason, _column(when, error.position))


def _column(text: str, position: int) -> str:
    """Describes a position for people; line and column count from 1."""
    before = text[:position]
    column = f"column {position - (before.rfind(chr(10)) + 1) + 1}"
    return f"line {before.count(chr(10)) + 1}, {column}" if "\n" in text.strip() else column


class KeyLines:
    """The lines of each table's keys, which tomllib does not report."""

    def __init__(self, text: str, table_name: str):
        header = re.compile(rf"\s*\[\[\s*{table_name}\s*\]\]")
        self._lines = text.splitlines()
        self._headers = [number for number, line in enumerate(self._lines) if header.match(line)]

    def line(self, table: int, key: str) -> int | None:
        """Returns the line of the key, else of the table's header; None for another layout."""
        if table >= len(self._headers):
            return None
        start, *rest = self._headers[table:]
        own = re.compile(rf"\s*{re.escape(key.split('.')[0])}\s*[=.]")
        for number in range(start + 1, rest[0] if rest else len(self._lines)):
            if own.match(self._lines[number]):
                return number + 1
        return start + 1


SIGNATURE_HEADER = "signature"
SIGNED_MS_HEADER = "signed-ms"
FORMAT = b"liveprofile-rule-1"


class SignatureError(Exception):
    """The record is not signed with this key."""


class RuleSigner:
    """Signs and verifies the records of one topic. key: the shared secret."""

    def __init__(self, key: str, topic: str):
        self._key, self._topic = key.encode(), topic.encode()

    def headers(self, rule_id: bytes, value: bytes | None, signed_ms: int) -> dict[str, str]:
        """The headers of a record; a value of None removes the rule."""
        return {
            SIGNED_MS_HEADER: str(signed_ms),
            SIGNATURE_HEADER: self._signature(rule_id, value, str(signed_ms).encode()),
        }

    def verify(self, rule_id: bytes, value: bytes | None, headers: dict[str, bytes]) -> int:
        """Returns the signing time in milliseconds. Raises SignatureError."""
        if SIGNATURE_HEADER not in headers:
            raise SignatureError("the record is not signed")
        signed_ms = headers.get(SIGNED_MS_HEADER, b"")
        expected = self._signature(rule_id, value, signed_ms).encode()
        if not hmac.compare_digest(expected, headers[SIGNATURE_HEADER]):
            raise SignatureError("the signature is wrong")
        return int(signed_ms)

    def _signature(self, rule_id: bytes, value: bytes | None, signed_ms: bytes) -> str:
        parts = [FORMAT, self._topic, rule_id, signed_ms, *([] if value is None else [value])]
        # Lengths make the parts unambiguous: no two different records give the same text.
        text = b"".join(b"%d:%b" % (len(part), part) for part in parts)
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()
