"""The event types that a shop declares in a file (docs/data-contract.md#event-types-of-your-own).

Profiles, features and models know the contract's twelve types. A declared type counts as one of
them, its role. Its properties are members of the event's `attributes`; computed attributes read
them.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from liveprofile.events.validation import HEARTBEAT, NUMBER_LIMIT, TYPES, EventType
from liveprofile.resources import ROOT, product_path
from liveprofile.rules.conditions import FUNCTIONS, ValueKind
from liveprofile.rules.definition_kinds import (
    DefinitionKind,
    DefinitionProblem,
    DefinitionsError,
    DefinitionSet,
    Named,
)
from liveprofile.settings import Settings
from liveprofile.wire.tokens import EVENT_TYPES

# What conditions and values read of every event. A text is '' and a number unknown if missing.
EVENT_FIELDS: Mapping[str, ValueKind] = {
    **dict.fromkeys(("event_type", "item_id", "category_id"), "text"),
    **dict.fromkeys(("device_id", "coupon_id", "shop_id", "address_id"), "text"),
    **dict.fromkeys(("amount", "quantity", "rating"), "number"),
}
PropertyName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class Property(BaseModel):
    """A property of events. `min`, `max`: of a number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["number", "text"]
    min: float = Field(-NUMBER_LIMIT, ge=-NUMBER_LIMIT, le=NUMBER_LIMIT)
    max: float = Field(NUMBER_LIMIT, ge=-NUMBER_LIMIT, le=NUMBER_LIMIT)
    description: str = Field("", max_length=1_000)

    @model_validator(mode="after")
    def _is_valid(self) -> Self:
        if self.type == "text" and self.model_fields_set & {"min", "max"}:
            raise ValueError("type text has no min, max")
        if self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self

    @property
    def schema(self) -> dict[str, Any]:
        if self.type == "text":
            return {"description": self.description}
        number = {"type": "number", "minimum": self.min, "maximum": self.max}
        kinds = [{"type": "null"}, number, {"$ref": "#/$defs/number_text"}]
        return {"description": self.description, "anyOf": kinds}

    @property
    def limits(self) -> tuple[float, float] | None:
        return (self.min, self.max) if self.type == "number" else None


class DeclaredType(Named):
    """An event type of the shop, or one of the twelve with properties."""

    id: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_ .:/-]{0,63}$")
    role: Literal[EVENT_TYPES]  # type: ignore[valid-type]
    description: str = Field("", max_length=1_000)
    properties: dict[PropertyName, Property] = Field({}, max_length=100)

    @model_validator(mode="after")
    def _is_valid(self) -> Self:
        if self.id == HEARTBEAT or (self.id in EVENT_TYPES and self.role != self.id):
            raise ValueError(f"{self.id} is a type of the contract, with no other role")
        if reserved := self.properties.keys() & {*EVENT_FIELDS, *FUNCTIONS}:
            raise ValueError(f"property {min(reserved)}: conditions have such a name")
        return self

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the properties, of use in that of events."""
        own = {name: each.schema for name, each in self.properties.items()}
        return {
            "if": {"properties": {"event_type": {"const": self.id}}},
            "then": {"properties": {"attributes": {"properties": own}}},
        }


class EventTypesError(DefinitionsError):
    """The declarations are invalid."""

    kind = "event_type"
    plural = "event_types"


class EventTypes(DefinitionSet):
    """All declared event types."""

    event_types: tuple[DeclaredType, ...]

    @cached_property
    def by_name(self) -> dict[str, EventType]:
        """Every type that an event may have, but heartbeats."""
        declared = {
            each.id: EventType(each.role, {k: v.limits for k, v in each.properties.items()})
            for each in self.event_types
        }
        return {**TYPES, **declared}

    @cached_property
    def fields(self) -> Mapping[str, ValueKind]:
        """What conditions read of an event."""
        of_types = (each.properties.items() for each in self.event_types)
        return {**EVENT_FIELDS, **{name: own.type for own_of in of_types for name, own in own_of}}

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of events, with the declared types and properties."""
        found = orjson.loads((ROOT / "schemas" / "behavior-event.schema.json").read_bytes())
        found["properties"]["event_type"]["enum"] = [*self.by_name, HEARTBEAT]
        found["allOf"] = [each.schema for each in self.event_types if each.properties]
        return found

    @property
    def text(self) -> str:
        """What PARSE_EVENT (jobs/java/ParseEvent.java) reads.

        Types are separated by semicolons, the parts of a type by commas: its name and role, and of
        each property name, lowest and highest number, which are empty for a text.
        """
        types = []
        for name, (role, limits) in self.by_name.items():
            parts = [name, role]
            for property_name, bounds in limits.items():
                low, high = ("", "") if bounds is None else map(repr, bounds)
                parts += [property_name, low, high]
            types.append(",".join(parts))
        return ";".join(types)


def _faults_of_all(types: Iterable[DeclaredType]) -> Iterator[DefinitionProblem]:
    kinds: dict[str, str] = {}
    for declared in types:
        for name, property in declared.properties.items():
            if kinds.setdefault(name, property.type) != property.type:
                reason = f"{name} is a {kinds[name]} of another event type"
                yield DefinitionProblem(declared.id, "properties", reason)


NO_OWN_TYPES = EventTypes(version="0", event_types=())
read_event_types = DefinitionKind(
    EventTypesError, DeclaredType, EventTypes, faults_of_all=_faults_of_all
).read_file


def event_types(settings: Settings) -> EventTypes:
    """Those of the file in the settings. Raises EventTypesError."""
    return read_event_types(product_path(settings.event_types))
