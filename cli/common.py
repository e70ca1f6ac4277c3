"""Options, tables and other output that the commands share."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from liveprofile.errors import InputError
from liveprofile.flink.jobs import Job, Pipeline, jobs
from liveprofile.resources import ROOT
from liveprofile.settings import CONFIG_VARIABLE, Settings, load
from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS

if TYPE_CHECKING:
    from cassandra.cluster import Session
    from rich.table import Table

# `make up` writes this file, so that commands find the local stack without an option.
LOCAL_STACK_CONFIG = Path(".stack/run/liveprofile.toml")


def option(name: str, metavar: str | None, text: str, **more: Any) -> Any:
    """An option whose default value the help does not show."""
    return typer.Option(name, metavar=metavar, help=text, **({"show_default": False} | more))


def refuse_empty(value: str | None) -> str | None:
    """Callback of an option or argument that may be missing but not empty."""
    if value is not None and not value.strip():
        raise typer.BadParameter("must not be empty")
    return value


CONFIG_HELP = (
    f"Settings file (TOML). Default: the file that ${CONFIG_VARIABLE} names, else"
    f" {LOCAL_STACK_CONFIG} here or in the checkout, else the built-in defaults."
)
ConfigOption = Annotated[Path | None, option("--config", "FILE", CONFIG_HELP)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
UserArgument = Annotated[
    str, typer.Argument(metavar="USER", help="User id.", callback=refuse_empty)
]
UserOption = Annotated[
    str | None, option("--user", "USER", "Only of this user.", callback=refuse_empty)
]
ByOption = Annotated[
    str, option("--by", "NAME", "Name that is stored with the change.", envvar="USER")
]
MAPPING_HELP = "Mapping of the files' columns to event fields (TOML), as for replay."
MappingOption = Annotated[Path | None, option("--mapping", "FILE", MAPPING_HELP)]
LimitOption = Annotated[
    int, typer.Option("--limit", min=1, max=10_000, help="Maximum number of rows.")
]


def config_file(config: Path | None, checkout: Path = ROOT) -> Path | None:
    """Returns the settings file of a command, resolved as `ConfigOption` describes, or None."""
    if config is not None:
        return config
    if named := os.environ.get(CONFIG_VARIABLE):
        return Path(named)
    of_stack = (LOCAL_STACK_CONFIG, checkout / LOCAL_STACK_CONFIG)
    return next((file for file in of_stack if file.is_file()), None)


def read_settings(
    config: Path | None, variables: Mapping[str, str] = MappingProxyType({})
) -> Settings:
    """Reads the settings of a command. Raises ConfigError.

    variables: of the environment, beside those that it has.
    """
    return load(config_file(config), os.environ | variables)


def read_user_ids(file: Path, option: str, *, may_be_empty: bool = False) -> list[str]:
    """The user ids of a file, one a line, without empty lines. Raises InputError."""
    try:
        ids = [line for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{option} {file}: {getattr(error, 'strerror', error)}") from None
    if not ids and not may_be_empty:
        raise InputError(f"{option} {file}: no user id")
    return ids


def print_json(value: Any) -> None:
    """Prints one line of JSON on stdout. Accepts numpy scalars and arrays."""
    import orjson

    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    typer.echo(orjson.dumps(value, option=options).decode())


@dataclass
class Call:
    """What a command gets by the options --config and --json: settings, and how to print."""

    config: Path | None = None
    json: bool = False

    @cached_property
    def settings(self) -> Settings:
        """Raises ConfigError."""
        return read_settings(self.config)

    @property
    def file(self) -> Path | None:
        """The settings file."""
        return config_file(self.config)

    def session(self) -> AbstractContextManager[Session]:
        """A session of Cassandra. Raises ServiceError."""
        from liveprofile.storage.connection import open_session

        return open_session(self.settings.cassandra)

    def print(self, value: Any, *shown: str | Mapping[str, Any] | Table) -> None:
        """Prints `value` with --json, else `shown`: lines, fields and tables; or value's fields."""
        if self.json:
            print_json(value)
            return
        for each in shown or (value,):
            if isinstance(each, str):
                typer.echo(each)
            elif isinstance(each, Mapping):
                print_fields(each)
            else:
                print_table(each)

    def rows(
        self,
        rows: Sequence[Any],
        columns: Columns,
        title: str | None = None,
        *,
        empty: str = "",
        missing: str = "",
    ) -> None:
        """Prints rows as a list with --json, else as a table.

        empty: says on stderr that there are no rows. missing: the same, with exit code 1.
        """
        if rows or self.json:
            self.print([fields_of(row) for row in rows], table(title, rows, columns))
        if not rows and missing:
            end_without_result(missing)
        if not rows and not self.json:
            typer.echo(empty, err=True)


class JobCall(Call):
    """A call for one job, with its settings: a command runs for each job in turn."""

    job: Job

    @classmethod
    def each(cls, pipeline: Pipeline | None, **options: Any) -> Iterator[JobCall]:
        """Raises ConfigError."""
        for job in jobs(read_settings(options["config"]), pipeline):
            call = cls(**options)
            call.job, call.settings = job, job.settings
            yield call


# Of a command that has one of the two options only.
ConfigCall = Annotated[Call, "config"]
JsonCall = Annotated[Call, "json"]
PIPELINE_HELP = "Only the job of this pipeline. Default: each job, one after the other."
PipelineOption = Annotated[Pipeline | None, option("--pipeline", "profile|scoring", PIPELINE_HELP)]
CALL_OPTIONS: dict[Any, dict[str, Any]] = {
    Call: {"config": ConfigOption, "json": JsonOption},
    ConfigCall: {"config": ConfigOption},
    JsonCall: {"json": JsonOption},
    JobCall: {"pipeline": PipelineOption, "config": ConfigOption, "json": JsonOption},
}


def end_without_result(problem: str) -> NoReturn:
    """Ends the command with exit code 1, such as for an unknown user."""
    typer.echo(f"liveprofile: {problem}", err=True)
    raise typer.Exit(1)


class FaultReporter:
    """Counts faults, such as invalid labels of a file, and prints the first ten on stderr."""

    MAX_PRINTED = 10

    def __init__(self, source: Path | str):
        self._source = source
        self.count = 0

    def __call__(self, fault: Any) -> None:
        """fault: has `row` and `reason`."""
        self.add(f"{self._source} row {fault.row}", fault.reason)

    def add(self, place: str, reason: str) -> None:
        self.count += 1
        if self.count <= self.MAX_PRINTED:
            typer.echo(f"{place}: {reason}", err=True)


def format_utc(time_ms: int) -> str:
    """Formats epoch milliseconds as 2017-11-26 01:05:00 (UTC)."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


FIRST_TIME_MS = 10**11  # smaller values of a name with _ms are durations


def cell(name: str, value: Any) -> str:
    """The text of a value: a time if its name ends with _ms, without braces and brackets."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_ms") and isinstance(value, int) and value > FIRST_TIME_MS:
        return format_utc(value)
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {cell(str(key), each)}" for key, each in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(cell(name, each) for each in value) or "-"
    return str(value)


def label(name: str) -> str:
    """A name of a field for people: `window_end_ms` is `window end`."""
    return name.removesuffix("_ms").replace("_", " ")


def fields_of(row: Any) -> Any:
    """The fields of a named tuple for JSON, bytes as hexadecimal digits; other rows unchanged."""
    if not hasattr(row, "_asdict"):
        return row
    fields = row._asdict()
    return {name: each.hex() if isinstance(each, bytes) else each for name, each in fields.items()}


def print_fields(fields: Mapping[str, Any]) -> None:
    """Prints a line per field: the name, aligned, and the value."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        typer.echo(f"{label(name):<{width}}  {cell(name, value)}")


# What a table shows: names of fields, separated by spaces, such as `time_ms flag.rule_id`; or by
# the header such a name, or a function of the row.
Columns = str | Mapping[str, str | Callable[[Any], Any]]
UNLIMITED_WIDTH = 1_000_000  # wider than any row: a table is as wide as its content
RULE_WIDTH = 100  # of the line below a header in a pipe, where rows may be longer


def table(title: str | None, rows: Iterable[Any], columns: Columns) -> Table:
    """A table with a line for each row. Numbers are on the right.

    On a terminal long texts fold; the first column, numbers and times do not.
    """
    from rich import box
    from rich.table import Table

    if isinstance(columns, str):
        columns = {label(name.rpartition(".")[2]): name for name in columns.split()}
    listed = list(rows)
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    cells = []
    for number, (header, source) in enumerate(columns.items()):
        name = source if isinstance(source, str) else header
        values = [_value(row, source) if isinstance(source, str) else source(row) for row in listed]
        right = any(isinstance(each, int | float) for each in values) and not name.endswith("_ms")
        made.add_column(
            header,
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right or number == 0 or name.endswith("_ms"),
        )
        cells.append([cell(name, each) for each in values])
    for row in zip(*cells, strict=True):
        made.add_row(*row)
    return made


def _value(row: Any, path: str) -> Any:
    for name in path.split("."):
        row = row[name] if isinstance(row, Mapping) else getattr(row, name)
    return row


def print_table(made: Table) -> None:
    """Prints a table on stdout. Without a terminal each row is one line, however long it is."""
    from rich.console import Console

    # Ids and messages are data: Rich must not interpret mark-up or emoji codes in them.
    console = Console(markup=False, emoji=False, highlight=False)
    if console.is_terminal:
        console.print(made)
        return
    console.width = UNLIMITED_WIDTH
    with console.capture() as printed:
        console.print(made)
    # Rich makes every line as long as the longest.
    for line in printed.get().splitlines():
        is_rule = not line.strip(" ─")
        typer.echo((line[:RULE_WIDTH] if is_rule else line).rstrip())


UNITS_MS = {"m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}


def parse_duration_ms(text: str, option: str) -> int:
    """Parses a duration such as 30m, 8h or 3d, of at least a minute. Raises InputError."""
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if not match or not int(match[1]):
        raise InputError(f"{option} {text!r}: not a number above 0 with m, h or d, such as 8h")
    return int(match[1]) * UNITS_MS[match[2]]


def parse_since_ms(text: str, option: str = "--since") -> int:
    """Parses a duration before now, an ISO time (UTC if it has no zone) or epoch milliseconds.

    Returns epoch milliseconds. Raises InputError.
    """
    if re.fullmatch(r"\d{1,6}[mhd]", text):
        return time.time_ns() // 1_000_000 - parse_duration_ms(text, option)
    if re.fullmatch(r"\d{9,15}", text):
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
        return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1_000)
    except (ValueError, OverflowError):
        raise InputError(
            f"{option} {text!r}: neither a duration such as 30m, 2h or 7d, nor a time such as"
            " 2026-11-26T01:00, nor epoch milliseconds"
        ) from None


def time_option(name: str, text: str = "") -> Any:
    """An option with a time, as `parse_since_ms` reads it."""
    return option(name, "TIME", text, parser=lambda given: parse_since_ms(given, name))


AtOption = Annotated[
    int | None,
    time_option(
        "--at",
        "Churn and spend at this time instead of now: 7d ago, or a time such as 2026-11-26.",
    ),
]
SinceOption = Annotated[
    int | None,
    time_option(
        "--since",
        "Only since then: 30m, 2h or 7d ago, or a time (UTC) such as 2026-11-26,"
        " 2026-11-26T01:00 or epoch milliseconds.",
    ),
]
