"""Rules, segments and attributes: reading their definitions of files and records, and their faults.

A file has tables such as `[[rules]]`, a record of a topic has one definition as JSON.
"""

import hashlib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from liveprofile.errors import InputError
from liveprofile.rules.conditions import Condition, ConditionError

APPLIED_FIELDS = ("applied_by", "applied_at")  # fields that a record has besides its definition


class Named(BaseModel):
    """What has an id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")


class Definition(Named):
    """A rule or a segment. Reading it validates its texts; the constructor does not."""

    version: int = Field(1, ge=1)

    @property
    def condition(self) -> Condition:
        """The compiled `when`. Raises ConditionError if it is invalid."""
        raise NotImplementedError


class DefinitionSet(BaseModel):
    """All definitions in force. Immutable: an update replaces the whole set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str = Field(min_length=1, max_length=64)


class DefinitionProblem(NamedTuple):
    """One fault of a definition."""

    name: str  # the definition's id, or its number in the file
    key: str
    reason: str
    column: str = ""  # in a condition
    line: int | None = None  # in the file


class DefinitionsError(InputError):
    """The definitions are invalid. `problems` lists every fault."""

    kind: ClassVar[str]  # such as "rule", for messages
    plural: ClassVar[str]  # of the tables in a file, and of the group of commands

    def __init__(self, source: str, problems: Sequence[DefinitionProblem]):
        self.source, self.problems = source, tuple(problems)
        rest = len(problems) - 1
        more = f" (and {rest} more: `liveprofile {self.plural} check`)" if rest else ""
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


Model = TypeVar("Model", bound=Named)
Set = TypeVar("Set", bound=DefinitionSet)
Faults = Iterable[DefinitionProblem]


class DefinitionKind(Generic[Model, Set]):
    """Reads definitions of one kind.

    model, set_model: of one definition and of a file. faults: of a definition besides those that
    its model finds; a definition that the model rejects is not checked further. faults_of_all: of
    definitions that are valid each by itself.
    """

    def __init__(
        self,
        error: type[DefinitionsError],
        model: type[Model],
        set_model: type[Set],
        *,
        faults: Callable[[Model], Faults] = lambda definition: (),
        faults_of_all: Callable[[list[Model]], Faults] = lambda definitions: (),
    ):
        self.error, self.set_model, self._model = error, set_model, model
        self.name = error.plural
        self._faults, self._faults_of_all = faults, faults_of_all

    def read_file(self, path: Path, context: Any = None) -> Set:
        """Reads a TOML file. context: of pydantic. Raises the kind's error with every fault."""
        error, source, table_name = self.error, file_source(path, self.error), self.name
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
        key_line = _key_lines(text, table_name)
        definitions, problems = self._read_tables(tables, key_line, context)
        position = {definition.id: index for index, definition in enumerate(definitions)}
        if not problems:  # a definition that cannot be read would be reported as missing too
            problems = [
                fault._replace(line=key_line(position[fault.name], fault.key))
                for fault in self._faults_of_all(definitions)
            ]
        version = {"version": other.pop("version")} if "version" in other else {}
        problems += [DefinitionProblem("", key, "Extra inputs are not permitted") for key in other]
        try:
            found = self.set_model.model_validate({**version, table_name: definitions})
        except ValidationError as failure:
            problems += _validation_problems("", failure)
        if problems:
            raise error(source, problems)
        return found

    def read_tables(self, tables: Iterable[Mapping[str, Any]], source: str) -> list[Model]:
        """The definitions of tables as in a file. Raises the kind's error with every fault.

        source: names the tables in messages.
        """
        definitions, problems = self._read_tables(tables, lambda index, key: None)
        if problems := problems or list(self._faults_of_all(definitions)):
            raise self.error(source, problems)
        return definitions

    def read_record(self, value: bytes, source: str) -> Model:
        """Reads the definition of a record. Raises the kind's error, which names `source`.

        What it reads of other definitions is not checked: their records may follow.
        """
        try:
            table = orjson.loads(value)
        except orjson.JSONDecodeError as failure:
            raise self.error(source, [DefinitionProblem("", "JSON", str(failure))]) from None
        if not isinstance(table, dict):
            raise self.error(source, [DefinitionProblem("", "JSON", "must be an object")])
        fields = {key: value for key, value in table.items() if key not in APPLIED_FIELDS}
        definition, problems = self._read(fields, "?")
        if problems:
            raise self.error(source, problems)
        return definition

    def valid_set(self, definitions: Iterable[Model]) -> tuple[Set, list[DefinitionProblem]]:
        """The set of the definitions that are valid together, and the faults of the others.

        Its definitions are in order of their ids, its version is a digest of them.
        """
        kept = sorted(definitions, key=lambda each: each.id)
        faults: list[DefinitionProblem] = []
        while found := list(self._faults_of_all(kept)):
            faults += found
            broken = {problem.name for problem in found}
            kept = [each for each in kept if each.id not in broken]
        text = "\n".join(each.model_dump_json() for each in kept)
        version = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self.set_model(**{"version": version, self.name: tuple(kept)}), faults

    def _read_tables(
        self,
        tables: Iterable[Mapping[str, Any]],
        key_line: Callable[[int, str], int | None],
        context: Any = None,
    ) -> tuple[list[Model], list[DefinitionProblem]]:
        problems: list[DefinitionProblem] = []
        definitions: dict[str, Model] = {}
        for index, table in enumerate(tables):
            definition, faults = self._read(table, f"number {index + 1}", context)
            if definition is not None:
                if definition.id in definitions:
                    reason = f"another {self.error.kind} has the same id"
                    faults.append(DefinitionProblem(definition.id, "id", reason))
                definitions[definition.id] = definition
            problems += [fault._replace(line=key_line(index, fault.key)) for fault in faults]
        return list(definitions.values()), problems

    def _read(
        self, table: Mapping[str, Any], default_name: str, context: Any = None
    ) -> tuple[Model | None, list[DefinitionProblem]]:
        name = table.get("id")
        try:
            definition = self._model.model_validate(table, context=context)
        except ValidationError as error:
            name = name if isinstance(name, str) else default_name
            return None, _validation_problems(name, error)
        return definition, list(self._faults(definition))


def file_source(path: Path, error: type[DefinitionsError]) -> str:
    """Names the file in messages."""
    return f"{error.plural} file {path}"


def _validation_problems(name: str, error: ValidationError) -> list[DefinitionProblem]:
    """The faults that pydantic found in the definition `name`."""
    return [
        # A fault of the whole table is one of what its type allows.
        DefinitionProblem(name, ".".join(map(str, detail["loc"])) or "type", detail["msg"])
        for detail in error.errors()
    ]


def condition_problems(definition: Definition, when: str) -> list[DefinitionProblem]:
    """The fault of the condition `when` of a definition, if it has one."""
    try:
        _ = definition.condition
    except ConditionError as error:
        column = _column(when, error.position)
        return [DefinitionProblem(definition.id, "when", error.reason, column)]
    return []


def _column(text: str, position: int) -> str:
    """Describes a position for people; line and column count from 1."""
    before = text[:position]
    column = f"column {position - (before.rfind(chr(10)) + 1) + 1}"
    return f"line {before.count(chr(10)) + 1}, {column}" if "\n" in text.strip() else column


def _key_lines(text: str, table_name: str) -> Callable[[int, str], int | None]:
    """Finds the line of a key of the table with an index, which tomllib does not report.

    Else the line of the table's header; None for another layout.
    """
    lines = text.splitlines()
    header = re.compile(rf"\s*\[\[\s*{table_name}\s*\]\]")
    headers = [number for number, line in enumerate(lines) if header.match(line)]

    def key_line(table: int, key: str) -> int | None:
        if table >= len(headers):
            return None
        start, end = (*headers, len(lines))[table : table + 2]
        own = re.compile(rf"\s*{re.escape(key.split('.')[0])}\s*[=.]")
        found = (number + 1 for number in range(start + 1, end) if own.match(lines[number]))
        return next(found, start + 1)

    return key_line
