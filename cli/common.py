"""Options and output helpers that the subcommands share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveprofile.errors import InputError
from liveprofile.resources import ROOT
from liveprofile.settings import CONFIG_VARIABLE, Settings, load

if TYPE_CHECKING:
    from liveprofile.labels.feedback import RejectedLabel
    from liveprofile.storage.queries import StoredFlag

# `make up` writes this file, so that commands find the local stack without an option.
LOCAL_STACK_CONFIG = Path(".stack/run/liveprofile.toml")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        show_default=False,
        help=f"Settings file (TOML). Default: the file that ${CONFIG_VARIABLE} names, else"
        f" {LOCAL_STACK_CONFIG} here or in the checkout, else the built-in defaults.",
    ),
]


def refuse_empty(value: str | None) -> str | None:
    """Callback of an option or argument that may be missing but not empty."""
    if value is not None and not value.strip():
        raise typer.BadParameter("must not be empty")
    return value


UserArgument = Annotated[
    str, typer.Argument(metavar="USER", help="User id.", callback=refuse_empty)
]
UserOption = Annotated[
    str | None,
    typer.Option("--user", metavar="USER", help="Only of this user.", callback=refuse_empty),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
MappingOption = Annotated[
    Path | None,
    typer.Option(
        "--mapping",
        metavar="FILE",
        show_default=False,
        help="Mapping of the files' columns to event fields (TOML), as for replay.",
    ),
]


def config_file(config: Path | None, checkout: Path = ROOT) -> Path | None:
    """Returns the settings file of a command, resolved as `ConfigOption` describes, or None."""
    if config is not None:
        return config
    if named := os.environ.get(CONFIG_VARIABLE):
        return Path(named)
    of_stack = (LOCAL_STACK_CONFIG, checkout / LOCAL_STACK_CONFIG)
    return next((file for file in of_stack if file.is_file()), None)


def read_settings(config: Path | None) -> Settings:
    """Reads the settings of a command. Raises ConfigError."""
    return load(config_file(config))


def read_user_ids(file: Path, option: str) -> list[str]:
    """The user ids of a file, one a line, without empty lines. Raises InputError."""
    try:
        ids = [line for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{option} {file}: {getattr(error, 'strerror', error)}") from None
    if not ids:
        raise InputError(f"{option} {file}: no user id")
    return ids


def print_json(value: Any) -> None:
    """Prints one line of JSON on stdout. Accepts numpy scalars and arrays."""
    import orjson

    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    typer.echo(orjson.dumps(value, option=options).decode())


def print_fields(fields: Mapping[str, Any]) -> None:
    """Prints a line per field: the name, aligned, and the value. None prints as a dash."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        typer.echo(f"{name:<{width}}  {'-' if value is None else value}")


class RejectedLabelReporter:
    """Callback for invalid labels: counts all and prints the first ten on stderr."""

    MAX_PRINTED = 10

    def __init__(self, source: Path | str):
        self._source = source
        self.count = 0

    def __call__(self, rejected: RejectedLabel) -> None:
        self.count += 1
        if self.count <= self.MAX_PRINTED:
            typer.echo(f"{self._source} row {rejected.row}: {rejected.reason}", err=True)


def format_utc(time_ms: int) -> str:
    """Formats epoch milliseconds as 2017-11-26 01:05:00 (UTC)."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def name_with_rule_state(name: str, flag: StoredFlag) -> str:
    """Appends the rule's state to `name` unless it is ACTIVE: other states send no alert.

    And what a correction has found of the flag.
    """
    marks = [mark for mark in (flag.rule_state, flag.correction) if mark not in ("ACTIVE", None)]
    return f"{name} ({', '.join(marks)})" if marks else name
