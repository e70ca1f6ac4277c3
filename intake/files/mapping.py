"""Mappings: small TOML files that describe how the rows of a file become behaviour events.

`mappings/` contains ready ones. The classes below define all keys. A wrong key or value gives an
InputError of one line.
"""

import codecs
import string
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from intake.files.values import check_format
from liveprofile.errors import InputError
from liveprofile.wire.tokens import TYPE_INDEX

# Event fields by the conversion of their column's values (docs/data-contract.md).
TEXT_FIELDS = (
    "event_id", "user_id", "event_type", "item_id", "category_id", "text", "query", "friend_id",
    "anonymous_id", "session_id", "device_id", "channel", "coupon_id", "campaign_id",
)  # fmt: skip
NUMBER_FIELDS = ("price", "quantity", "amount", "rating", "place.lat", "place.lon")
SIGNED_FIELDS = ("price", "quantity", "amount")
UNCONVERTED_FIELDS = ("tags", "attributes", "media_embedding")
EVENT_FIELDS = TEXT_FIELDS + NUMBER_FIELDS + UNCONVERTED_FIELDS
REQUIRED_FIELDS = ("event_id", "user_id", "event_type")
ROW_NUMBER = "row"


class MappingSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeMapping(MappingSection):
    column: str
    unit: Literal["iso", "day", "s", "ms", "us", "ns"] = Field(
        "iso",
        description="iso: ISO 8601 text or a Parquet timestamp; day: a date without a time of day,"
        " which means midnight; else a count since 1970",
    )
    format: str = Field(
        "", description="of other texts, as in Python's strptime, such as %d.%m.%Y %H:%M:%S"
    )
    zone: str = Field("UTC", description="time zone of times without one")
    clock: str = Field("", description="column with the time of day, if `column` has only the day")

    @field_validator("format")
    @classmethod
    def _check_format(cls, value: str, info: ValidationInfo) -> str:
        return check_format(value, info.data.get("unit") == "day") if value else value

    @model_validator(mode="after")
    def _check_unit(self) -> Self:
        if self.format and self.unit not in ("iso", "day"):
            raise ValueError(f"unit = {self.unit!r} is a count, which has no format")
        if self.clock and self.unit != "iso":
            raise ValueError(f"unit = {self.unit!r} has no clock: remove unit")
        return self

    @field_validator("zone")
    @classmethod
    def _check_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("must be a time zone name such as UTC or Europe/Berlin") from None
        return value


class Lookup(MappingSection):
    """Joins columns of a second file in the same folder to the rows with the same key."""

    file: str
    key: str
    columns: tuple[str, ...] = Field(min_length=1)
    on: str = Field("", description="name of the key in the first file, if it differs")

    @property
    def source_key(self) -> str:
        """Name of the key column in the first file."""
        return self.on or self.key


class FileMapping(MappingSection):
    format: Literal["csv", "parquet"]
    columns: tuple[str, ...] = Field((), description="names for a CSV without a header line")
    delimiter: str = Field(",", min_length=1, max_length=1)
    decimal: Literal[".", ","] = Field(
        ".", description="decimal mark of numbers in texts; with a comma, 1.234,50 is a number"
    )
    currency: str = Field(
        "",
        max_length=8,
        description="text before or after numbers, such as €; the job rejects other currencies",
    )
    negative: str = Field(
        "",
        description="event type of rows with a negative price, quantity or amount, such as return;"
        " their numbers become positive",
    )
    encoding: str = Field("utf-8", description="of a CSV, as Python names it, such as cp1252")
    sort_by_time: bool = False
    time: TimeMapping
    fields: dict[str, str] = Field(
        description="event field = column, or a template such as '{basket}-{row}'"
    )
    fixed: dict[str, Any] = Field({}, description="event field = the same value in every event")
    types: dict[str, str] = Field({}, description="event type of the file = event type")
    own_types: tuple[str, ...] = Field((), description="event types that events.toml declares")
    lookups: tuple[Lookup, ...] = ()

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, value: str) -> str:
        try:
            return codecs.lookup(value).name
        except LookupError:
            raise ValueError("must be an encoding such as utf-8, cp1252 or utf-16") from None

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        for table, names in (("fields", self.fields), ("fixed", self.fixed)):
            for name in names:
                if name == "event_time":
                    raise ValueError(f"{table}.event_time: map the time in the section [time]")
                if name not in EVENT_FIELDS:
                    raise ValueError(
                        f"{table}.{name} is not an event field: use one of"
                        f" {', '.join(EVENT_FIELDS)}"
                    )
        duplicates = self.fields.keys() & self.fixed.keys()
        if duplicates:
            raise ValueError(f"{min(duplicates)} is in both fields and fixed")
        for name in REQUIRED_FIELDS:
            if name not in self.fields and name not in self.fixed:
                raise ValueError(f"{name} is in neither fields nor fixed")
        types = {f"types.{name}": value for name, value in self.types.items() if value != name}
        types |= {"negative": self.negative} if self.negative else {}
        types |= {f"fixed.{k}": v for k, v in self.fixed.items() if k == "event_type"}
        for key, value in types.items():
            if value not in (allowed := (*TYPE_INDEX, *self.own_types)):
                itself = key.removeprefix("types.")
                reject = f", or {itself!r} to have the job reject the event"
                if itself == key:  # only a type of the file can be sent unchanged
                    reject = ""
                raise ValueError(
                    f"{key} = {value!r} is not an event type:"
                    f" use one of {', '.join(allowed)}{reject}"
                )
        for name, source in self.fields.items():
            if "{" in source:
                template_columns(source, f"fields.{name}")
        return self

    def file_columns(self) -> dict[str, str]:
        """Columns that the file must have, each with the key that needs it."""
        needed = {self.time.column: "time.column"}
        needed |= {self.time.clock: "time.clock"} if self.time.clock else {}
        for name, source in self.fields.items():
            for column in template_columns(source) if "{" in source else (source,):
                if column != ROW_NUMBER or "{" not in source:
                    needed.setdefault(column, f"fields.{name}")
        for lookup in self.lookups:
            needed.setdefault(lookup.source_key, f"lookups.key of {lookup.file}")
        looked_up = {column for lookup in self.lookups for column in lookup.columns}
        return {name: key for name, key in needed.items() if name not in looked_up}


def template_columns(template: str, key: str = "") -> tuple[str, ...]:
    """The placeholders of a template, in order. Raises ValueError for an invalid template."""
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
    """Raises InputError for the first needed column that is not among the file's columns."""
    names = list(names)
    for column, key in needed.items():
        if column not in names:
            raise InputError(
                f"mapping {mapping}: {key}: {source.name} has no column {column!r};"
                f" it has {', '.join(names)}"
            )


def read_mapping(path: Path | str) -> FileMapping:
    """Raises InputError: one line with the file, the key and the allowed values."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"mapping {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"mapping {path} is not TOML: {error}") from None
    try:
        return FileMapping.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"mapping {path}: {key + ': ' if key else ''}{message}") from None
