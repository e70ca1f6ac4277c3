"""Risk rules as values: their format, and everything that can be wrong with them.

docs/data-contract.md, section 6. Rules come from a TOML file or, one a record, from the topic
risk-rules (udfs/rules_feed.py); both are checked here before they are used.
"""

from __future__ import annotations

import re
import string
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from liveprofile.errors import InputError
from liveprofile.features import entity, window
from liveprofile.rules.conditions import Condition, ConditionError, Kind, read_condition

Scope = Literal["window", "event"]
EventType = Literal["purchase", "return", "login", "coupon", "follow", "share"]
State = Literal["ACTIVE", "SHADOW", "PAUSED"]

# What the lane of single events knows beside liveprofile.features.entity.NAMES.
OF_THE_EVENT: dict[str, str] = {
    "score": "the fraud model's calibrated probability, 0 to 1",
    "event_type": "a text: purchase, return, login, coupon, follow or share",
}
TEXTS = frozenset({"event_type"})
# How a message may show a number, whole or not: nothing that fails for one of them, and no width,
# which could fill the memory.
_FORMAT = re.compile(r"\+?,?((\.\d{1,2})?[fg%])?")
_RULE_HEADER = re.compile(r"\s*\[\[\s*rules\s*\]\]")


@cache
def names(scope: Scope) -> Mapping[str, Kind]:
    """What a rule of this scope may look at."""
    known = window.NAMES if scope == "window" else {**entity.NAMES, **OF_THE_EVENT}
    return {name: "text" if name in TEXTS else "number" for name in known}


class Rule(BaseModel):
    """One rule. Its texts are checked by `read_rules` and `read_rule`, not by the constructor."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    version: int = Field(1, ge=1)
    scope: Scope
    types: tuple[EventType, ...] = ()
    when: str = Field(min_length=1)
    value: str
    usual: str | None = None
    evidence: dict[str, str] = Field({}, description="a name in the message and what it stands for")
    threshold: float = Field(allow_inf_nan=False)
    reason: str = Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")
    severity: Literal["low", "medium", "high", "critical"]
    action: Literal[
        "notify_customer_service", "step_up_verification", "limit_trading", "restrict_trading"
    ]
    cool_down_hours: float = Field(ge=0, allow_inf_nan=False)
    state: State = "ACTIVE"
    message: str = Field(min_length=1, max_length=1_000)

    @property
    def condition(self) -> Condition:
        """Raises ConditionError for a `when` that is wrong."""
        return _condition(self.when, self.scope, self.threshold)

    @property
    def shown(self) -> dict[str, str]:
        """What the message may name and the flag's evidence holds: name -> feature.

        Without a table of its own, what the condition reads. `value`, `usual`, `threshold` come on
        top.
        """
        return self.evidence or {name: name for name in self.condition.names}


class Rules(BaseModel):
    """All rules in force; never changed, only replaced."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str = Field(min_length=1, max_length=64)
    rules: tuple[Rule, ...]

    def of(self, scope: Scope) -> list[Rule]:
        """The scope's rules that are to be evaluated."""
        return [rule for rule in self.rules if rule.scope == scope and rule.state != "PAUSED"]


class Problem(NamedTuple):
    """One thing that is wrong with a rule."""

    rule: str  # its id, or its place in the file
    key: str
    reason: str
    column: str = ""  # in a condition
    line: int | None = None  # in the file

    def __str__(self) -> str:
        rule = f"rule {self.rule}: " if self.rule else ""
        return f"{rule}{self.key}{self.column and f', {self.column}'}: {self.reason}"


class RulesError(InputError):
    """Rules that can't be used: `problems` has everything that is wrong with them."""

    def __init__(self, source: str, problems: Sequence[Problem]):
        self.source, self.problems = source, tuple(problems)
        rest = len(problems) - 1
        more = f" (and {rest} more: `liveprofile rules check`)" if rest else ""
        super().__init__(self.lines()[0] + more)

    def lines(self) -> list[str]:
        """A line for each problem: rules.toml:12: rule card_testing: when, column 9: ..."""
        return [
            f"{self.source}{'' if problem.line is None else f':{problem.line}'}: {problem}"
            for problem in self.problems
        ]


def read_rules(path: Path) -> Rules:
    """The rules of a TOML file. Raises RulesError with everything that is wrong."""
    source = f"rules file {path}"
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except OSError as error:
        raise RulesError(source, [Problem("", "file", error.strerror or "unreadable")]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RulesError(source, [Problem("", "TOML", str(error))]) from None
    found = tables.pop("rules", None)
    if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
        raise RulesError(source, [Problem("", "rules", "must be tables [[rules]]")])
    places = _Places(text)
    problems: list[Problem] = []
    rules: list[Rule] = []
    seen: set[str] = set()
    for index, table in enumerate(found):
        rule, wrong = _read(table, f"number {index + 1}")
        if rule is not None:
            if rule.id in seen:
                wrong.append(Problem(rule.id, "id", "another rule has it already"))
            seen.add(rule.id)
            rules.append(rule)
        problems += [one._replace(line=places.line(index, one.key)) for one in wrong]
    try:
        whole = Rules.model_validate({**tables, "rules": rules})
    except ValidationError as error:
        problems += _of_pydantic("", error)
    if problems:
        raise RulesError(source, problems)
    return whole


def read_rule(value: bytes, source: str) -> Rule:
    """The rule of a record of the topic risk-rules. Raises RulesError, which names `source`."""
    try:
        table = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise RulesError(source, [Problem("", "JSON", str(error))]) from None
    if not isinstance(table, dict):
        raise RulesError(source, [Problem("", "JSON", "must be an object")])
    rule, problems = _read(
        {key: value for key, value in table.items() if key not in ("applied_by", "applied_at")}, "?"
    )
    if problems:
        raise RulesError(source, problems)
    return rule


@lru_cache(maxsize=1_024)
def _condition(when: str, scope: Scope, threshold: float) -> Condition:
    return read_condition(when, names(scope), {"threshold": threshold})


def _read(table: Mapping[str, Any], unnamed: str) -> tuple[Rule | None, list[Problem]]:
    named = table.get("id")
    try:
        rule = Rule.model_validate(table)
    except ValidationError as error:
        problems = _of_pydantic(named if isinstance(named, str) else unnamed, error)
        if not {"scope", "when"} & {problem.key for problem in problems}:
            problems += _condition_problems(problems[0].rule, table["when"], table["scope"], 0.0)
        return None, problems
    return rule, list(_problems(rule))


def _of_pydantic(rule: str, error: ValidationError) -> list[Problem]:
    return [
        Problem(rule, ".".join(str(part) for part in one["loc"]), one["msg"])
        for one in error.errors()
    ]


def _problems(rule: Rule) -> Iterator[Problem]:
    wrong = _condition_problems(rule.id, rule.when, rule.scope, rule.threshold)
    yield from wrong
    if rule.types and rule.scope == "window":
        yield Problem(rule.id, "types", "are of scope event; a window has events of all types")
    wanted = {"value": rule.value} | {f"evidence.{name}": of for name, of in rule.evidence.items()}
    if rule.usual is not None:
        wanted["usual"] = rule.usual
    kinds = names(rule.scope)
    for key, name in wanted.items():
        if name not in kinds:
            yield Problem(rule.id, key, f"unknown name {name}")
        elif key in ("value", "usual") and kinds[name] != "number":
            yield Problem(rule.id, key, f"{name} is a {kinds[name]}, not a number")
    for name in sorted(set(rule.evidence) & {"value", "threshold", "usual"}):
        yield Problem(rule.id, f"evidence.{name}", "is there in any case")
    if rule.evidence or not wrong:  # else nobody knows what the message may name
        known = {"value", "threshold", *rule.shown} | ({"usual"} if rule.usual else set())
        texts = {name for name, of in rule.shown.items() if of in TEXTS}
        for reason in _message_problems(rule.message, known, texts):
            yield Problem(rule.id, "message", reason)


def _condition_problems(rule: str, when: str, scope: Scope, threshold: float) -> list[Problem]:
    try:
        _condition(when, scope, threshold)
    except ConditionError as error:
        return [Problem(rule, "when", error.reason, _column(when, error.position))]
    return []


def _message_problems(message: str, known: set[str], texts: set[str]) -> Iterator[str]:
    try:
        fields = list(string.Formatter().parse(message))
    except ValueError as error:
        yield str(error)
        return
    for _, name, spec, conversion in fields:
        if name is None:
            continue
        if name not in known:
            yield f"unknown name {{{name}}}; it may name {', '.join(sorted(known))}"
        elif conversion or not _FORMAT.fullmatch(spec or "") or (spec and name in texts):
            yield f"{{{name}}} can be shown as {{{name}:.2f}}, with , and % too, and no other way"


def _column(text: str, position: int) -> str:
    """For a person; both count from 1."""
    before = text[:position]
    column = f"column {position - (before.rfind(chr(10)) + 1) + 1}"
    return f"line {before.count(chr(10)) + 1}, {column}" if "\n" in text.strip() else column


class _Places:
    """Where the keys of each rule stand: tomllib doesn't tell."""

    def __init__(self, text: str):
        self._lines = text.splitlines()
        self._headers = [
            number for number, line in enumerate(self._lines) if _RULE_HEADER.match(line)
        ]

    def line(self, rule: int, key: str) -> int | None:
        """Of the key, else of the rule's header; None where the file has another layout."""
        if rule >= len(self._headers):
            return None
        start, *rest = self._headers[rule:]
        own = re.compile(rf"\s*{re.escape(key.split('.')[0])}\s*[=.]")
        for number in range(start + 1, rest[0] if rest else len(self._lines)):
            if own.match(self._lines[number]):
                return number + 1
        return start + 1
