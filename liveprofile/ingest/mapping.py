"""A mapping tells how the rows of somebody's file become behaviour events: a small TOML file.

`mappings/` ships two. Every key is in the classes below; a wrong one is a one-line InputError.
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from liveprofile.errors import InputError
from liveprofile.wire.tokens import TYPE_INDEX

# Event fields by how a column's values are written into the event (docs/data-contract.md).
TEXT_FIELDS = (
    "event_id", "user_id", "event_type", "item_id", "category_id", "text", "query", "friend_id",
    "session_id", "device_id", "channel", "coupon_id", "campaign_id",
)  # fmt: skip
NUMBER_FIELDS = ("price", "quantity", "amount", "rating", "place.lat", "place.lon")
OPEN_FIELDS = ("tags", "attributes", "media_embedding")
EVENT_FIELDS = TEXT_FIELDS + NUMBER_FIELDS + OPEN_FIELDS
REQUIRED_FIELDS = ("event_id", "user_id", "event_type")
ROW_NUMBER = "row"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Time(Part):
    column: str
    unit: Literal["iso", "s", "ms", "us", "ns"] = Field(
        "iso", description="iso: ISO 8601 text or a Parquet timestamp; else a count since 1970"
    )
    zone: str = Field("UTC", description="of times that name none")

    @field_validator("zone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("is no time zone name such as UTC or Europe/Berlin") from None
        return value


class Lookup(Part):
    """Adds columns of a second file, found beside the first, to the rows with the same key."""

    file: str
    key: str
    columns: tuple[str, ...] = Field(min_length=1)
    on: str = Field("", description="the key's name in the first file, if it is another")

    @property
    def own_key(self) -> str:
        return self.on or self.key


class Mapping(Part):
    format: Literal["csv", "parquet", "jsonl"]
    columns: tuple[str, ...] = Field((), description="names for a CSV without a header line")
    delimiter: str = Field(",", min_length=1, max_length=1)
    sort_by_time: bool = False
    time: Time
    fields: dict[str, str] = Field(
        description="event field = column, or a template such as '{basket}-{row}'"
    )
    fixed: dict[str, Any] = Field({}, description="event field = the same value in every event")
    types: dict[str, str] = Field({}, description="the file's event type = ours")
    lookups: tuple[Lookup, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> Mapping:
        for table, names in (("fields", self.fields), ("fixed", self.fixed)):
            for name in names:
                if name == "event_time":
                    raise ValueError(f"{table}.event_time: the time is mapped by [time]")
                if name not in EVENT_FIELDS:
                    raise ValueError(
                        f"{table}.{name} is no event field; there are {', '.join(EVENT_FIELDS)}"
                    )
        twice = self.fields.keys() & self.fixed.keys()
        if twice:
            raise ValueError(f"{min(twice)} is in both fields and fixed")
        for name in REQUIRED_FIELDS:
            if name not in self.fields and name not in self.fixed:
                raise ValueError(f"{name} is in neither fields nor fixed")
        for theirs, ours in self.types.items():
            self._check_type(f"types.{theirs}", ours)
        if "event_type" in self.fixed:
            self._check_type("fixed.event_type", self.fixed["event_type"])
        if self.columns and self.format != "csv":
            raise ValueError("columns names the columns of a CSV without a header line only")
        for name, source in self.fields.items():
            if "{" in source:
                template_columns(source, f"fields.{name}")
        return self

    @staticmethod
    def _check_type(key: str, value: object) -> None:
        if value not in TYPE_INDEX:
            raise ValueError(
                f"{key} = {value!r} is no event type; there are {', '.join(TYPE_INDEX)}"
            )

    def needed_columns(self) -> dict[str, str]:
        """The columns that the file or a lookup must bring, each with the key that asks for it."""
        needed = {self.time.column: "time.column"}
        for name, source in self.fields.items():
            for column in template_columns(source) if "{" in source else (source,):
                if column != ROW_NUMBER or "{" not in source:
                    needed.setdefault(column, f"fields.{name}")
        for lookup in self.lookups:
            needed.setdefault(lookup.own_key, f"lookups.key of {lookup.file}")
        return needed

    def file_columns(self) -> dict[str, str]:
        """The needed columns that no lookup brings."""
        looked_up = {column for lookup in self.lookups for column in lookup.columns}
        return {name: key for name, key in self.needed_columns().items() if name not in looked_up}


def template_columns(template: str, key: str = "") -> tuple[str, ...]:
    """The placeholders of a template, in order. Raises ValueError for what is no template."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{key} = {template!r}: {error}") from None
    names = []
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if not name or spec or conversion:
            raise ValueError(f"{key} = {template!r}: a placeholder is {{column}} or {{row}}")
        names.append(name)
    return tuple(names)


def check_columns(needed: dict[str, str], names: Iterable[str], mapping: str, source: Path) -> None:
    """Raises InputError for the first needed column that the file lacks; names what it has."""
    names = list(names)
    for column, key in needed.items():
        if column not in names:
            raise InputError(
                f"mapping {mapping}: {key}: {source.name} has no column {column!r};"
                f" it has {', '.join(names)}"
            )


def read_mapping(path: Path | str) -> Mapping:
    """Raises InputError: one line with the file, the key and what may stand there."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"mapping {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"mapping {path} is not TOML: {error}") from None
    try:
        return Mapping.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise InputError(f"mapping {path}: {key} is no key; {_keys_beside(first)}") from None
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"mapping {path}: {key + ': ' if key else ''}{message}") from None


def _keys_beside(error: Any) -> str:
    models: dict[str, type[Part]] = {"time": Time, "lookups": Lookup}
    model = models.get(str(error["loc"][0]), Mapping) if len(error["loc"]) > 1 else Mapping
    return f"there are {', '.join(model.model_fields)}"
