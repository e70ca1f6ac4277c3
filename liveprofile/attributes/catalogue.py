"""The attributes that users may have: names, types and limits (docs/data-contract.md).

A value is a bool, a number, a short text or one of a list of texts, so that nobody can store an
image, a vector or a biometric template as an attribute. Other systems state the value, or the job
computes it from events (computed.py).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from liveprofile.attributes.computed import Computation, ComputedAttribute
from liveprofile.attributes.event_types import event_types
from liveprofile.resources import product_path
from liveprofile.rules.conditions import AttributeValue, Condition, ValueKind
from liveprofile.rules.definition_kinds import (
    Definition,
    DefinitionKind,
    DefinitionProblem,
    DefinitionsError,
    DefinitionSet,
    Named,
)
from liveprofile.settings import Settings

MAX_TEXT_CHARS = 100
MAX_NUMBER = 2.0**53  # larger integers are not exact in JSON
AttributeType = Literal["flag", "number", "text", "enum"]
_KINDS: Mapping[AttributeType, ValueKind] = {
    "flag": "condition",
    "number": "number",
    "text": "text",
    "enum": "text",
}
_FLAGS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


class AttributeDefinition(Named):
    """One attribute. `values`: of an enum; `min`, `max`: of a number; `max_chars`: of a text."""

    type: AttributeType
    description: str = Field(min_length=1, max_length=1_000)
    values: tuple[str, ...] = Field((), max_length=1_000)
    min: float = Field(-MAX_NUMBER, ge=-MAX_NUMBER, le=MAX_NUMBER)
    max: float = Field(MAX_NUMBER, ge=-MAX_NUMBER, le=MAX_NUMBER)
    max_chars: int = Field(MAX_TEXT_CHARS, ge=1, le=MAX_TEXT_CHARS)
    computed: Computation | None = None

    @model_validator(mode="after")
    def _fits_type(self) -> Self:
        allowed = {"number": {"min", "max"}, "text": {"max_chars"}, "enum": {"values"}}
        own = allowed.get(self.type, set())
        if extra := (self.model_fields_set & {"values", "min", "max", "max_chars"}) - own:
            raise ValueError(f"type {self.type} has no {', '.join(sorted(extra))}")
        if self.computed and (self.type != "number" or self.model_fields_set & {"min", "max"}):
            raise ValueError("a computed attribute has type number, without min and max")
        if self.type == "enum" and not self.values:
            raise ValueError("type enum needs values")
        if any(not 1 <= len(value) <= MAX_TEXT_CHARS for value in self.values):
            raise ValueError(f"values must have 1 to {MAX_TEXT_CHARS} characters")
        if self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self

    @property
    def kind(self) -> ValueKind:
        """What it is in conditions."""
        return _KINDS[self.type]

    def problem(self, value: Any) -> str | None:
        """Why nobody can state this value; None if they can."""
        if self.computed:
            return "is computed from events"
        if self.type == "flag":
            return None if type(value) is bool else "must be true or false"
        if self.type == "number":
            if type(value) not in (int, float) or not math.isfinite(value):
                return "must be a number"
            in_range = self.min <= value <= self.max
            return None if in_range else f"must be from {self.min:g} to {self.max:g}"
        if type(value) is not str:
            return "must be a text"
        if self.type == "enum":
            return None if value in self.values else f"must be one of {', '.join(self.values)}"
        if not 1 <= len(value) <= self.max_chars:
            return f"must have 1 to {self.max_chars} characters, not {len(value)}"
        return None if value.isprintable() else "must not have control characters"

    def parse(self, text: str) -> AttributeValue:
        """The value of a text in a file, or the text itself if it is not of the type."""
        if self.type == "flag":
            return _FLAGS.get(text.strip().lower(), text)
        if self.type == "number":
            try:
                number = float(text)
            except ValueError:
                return text
            whole = number.is_integer() and abs(number) <= MAX_NUMBER
            return int(number) if whole else number
        return text


class AttributesError(DefinitionsError):
    """The definitions are invalid."""

    kind = "attribute"
    plural = "attributes"


class Catalogue(DefinitionSet):
    """All attributes."""

    attributes: tuple[AttributeDefinition, ...]

    @cached_property
    def by_id(self) -> dict[str, AttributeDefinition]:
        return {definition.id: definition for definition in self.attributes}

    @cached_property
    def computed_attributes(self) -> tuple[ComputedAttribute, ...]:
        return tuple(ComputedAttribute(a.id, a.computed) for a in self.attributes if a.computed)

    def unknown(self, name: str) -> str:
        """A line about a name without a definition."""
        close = get_close_matches(name, self.by_id, 1)
        return f"unknown attribute {name}" + (f"; {close[0]}?" if close else "")

    def value_problems(self, values: Mapping[str, Any]) -> list[str]:
        """Every fault of a user's values."""
        found = []
        for name, value in values.items():
            definition = self.by_id.get(name)
            if definition is None:
                found.append(self.unknown(name))
            elif reason := definition.problem(value):
                found.append(f"{name}: {reason}")
        return found

    def condition_faults(self, condition: Condition, scope: str = "window") -> list[str]:
        """The faults of what a condition reads by attribute("name"). scope: of a rule."""
        found = []
        for name, kind in condition.attributes.items():
            definition = self.by_id.get(name)
            if definition is None:
                found.append(self.unknown(name))
            elif definition.computed and scope == "event":
                found.append(f"attribute {name} is computed when a window closes: scope window")
            elif definition.kind != kind:
                found.append(
                    f"attribute {name} is of type {definition.type}, but is used as a {kind}"
                )
        return found


_READER = DefinitionKind(AttributesError, AttributeDefinition, Catalogue)


def read_catalogue(settings: Settings, path: Path | None = None) -> Catalogue:
    """The attributes of a file, else of that in the settings, which name the event types too.

    Raises DefinitionsError with every fault.
    """
    return _READER.read_file(path or product_path(settings.attributes), event_types(settings))


def check_attributes(
    source: str,
    error: type[DefinitionsError],
    definitions: Iterable[Definition],
    settings: Callable[[], Settings],
) -> None:
    """Checks what rules or segments read by attribute("name") against the file of attributes.

    source: names the definitions in messages. settings: called only if a condition reads an
    attribute. Raises `error` with every fault, and DefinitionsError if the file of attributes or of
    event types is invalid.
    """
    reading = [definition for definition in definitions if definition.condition.attributes]
    if not reading:
        return
    known = read_catalogue(settings())
    problems = [
        DefinitionProblem(definition.id, "when", reason)
        for definition in reading
        for reason in known.condition_faults(
            definition.condition, getattr(definition, "scope", "window")
        )
    ]
    if problems:
        raise error(source, problems)
