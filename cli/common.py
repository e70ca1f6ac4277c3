"""What the subcommands share: the --config and --json options, and how they print."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveprofile.config import CONFIG_VARIABLE, Settings, load

if TYPE_CHECKING:
    from liveprofile.labels.feedback import Rejected
    from liveprofile.storage.queries import StoredFlag

# Written by `make up`, so that every command finds the local stack without a flag.
LOCAL_STACK_CONFIG = Path(".stack/run/liveprofile.toml")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        show_default=False,
        help=f"Settings (TOML). Default: ${CONFIG_VARIABLE}, else {LOCAL_STACK_CONFIG} if it"
        " exists, else the built-in defaults.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


def config_file(config: Path | None) -> Path | None:
    """The settings file of a command, as `ConfigOption` says; None: there is none."""
    if config is not None:
        return config
    if named := os.environ.get(CONFIG_VARIABLE):
        return Path(named)
    return LOCAL_STACK_CONFIG if LOCAL_STACK_CONFIG.is_file() else None


def read_settings(config: Path | None) -> Settings:
    """The settings of a command. Raises ConfigError."""
    return load(config_file(config))


def print_json(value: Any) -> None:
    """One line on stdout; numpy scalars and arrays are fine."""
    import orjson

    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    typer.echo(orjson.dumps(value, option=options).decode())


def print_fields(fields: Mapping[str, Any]) -> None:
    """Name and value, aligned, for a person; a value of None prints as a dash."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        typer.echo(f"{name:<{width}}  {'-' if value is None else value}")


class RejectedLabels:
    """To be told of each label that can't be used: counts all, names the first on stderr."""

    SHOWN = 10

    def __init__(self, source: Path | str):
        self._source = source
        self.count = 0

    def __call__(self, row: Rejected) -> None:
        self.count += 1
        if self.count <= self.SHOWN:
            typer.echo(f"{self._source} row {row.row}: {row.reason}", err=True)


def utc(time_ms: int) -> str:
    """Epoch milliseconds for a person: 2017-11-26 01:05:00."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def with_state(name: str, flag: StoredFlag) -> str:
    """The name, and the state of the flag's rule if that kept the alert back."""
    return name if flag.rule_state == "ACTIVE" else f"{name} ({flag.rule_state})"
