"""What a table of Cassandra is: its columns, its key, how long rows stay, what they say of users.

The columns of a table are those of a row class, a NamedTuple, or lines of `name type -- meaning`.
In a row class the field `x_ms` stands for the timestamp column `x`, in epoch milliseconds.
"""

import re
import textwrap
from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import BaseModel, Field, create_model
from typing_extensions import Doc

Text = Annotated[str, "text"]
Int = Annotated[int, "int"]
Bigint = Annotated[int, "bigint"]
Double = Annotated[float, "double"]
Timestamp = Annotated[int, "timestamp"]
Blob = Annotated[bytes, "blob"]
TextSet = Annotated[list[str], "frozen<set<text>>"]
Json = Annotated[dict[str, Any], "text"]
JsonList = Annotated[list[dict[str, Any]], "text"]
Embedding = Annotated[list[float], "vector<float, {dim}>"]

# Rows of the same age expire together, so whole files are dropped.
BY_DAY = (
    "compaction = {'class': 'TimeWindowCompactionStrategy',"
    " 'compaction_window_unit': 'DAYS', 'compaction_window_size': 1}"
)
# For the tables that take most of the disk and of whose rows few are read.
ZSTD = "compression = {'class': 'ZstdCompressor', 'chunk_length_in_kb': 64}"
_LINE = re.compile(r"(\w+) (.+?)(?:\s+-- (.*))?")


class FixedLimit(StrEnum):
    """A limit of a table that is no setting; the value is its text for readers."""

    HALF_DAY = "12 hours"
    MONTH = "30 days"
    SNOOZE_END = "the snooze's end"


class Column(NamedTuple):
    name: str
    cql: str  # its type, with `static`
    meaning: str = ""
    field: str = ""  # of a row class; otherwise the name
    nullable: bool = False


class Users(NamedTuple):
    """How the rows about a user are found and erased.

    found_by: "user", the partition key; "hours", "flag days" or "segments", keys that other tables
    list; or the column that names the user, a flag or a target in a table that is read as a whole.
    """

    found_by: Literal["user", "hours", "flag days", "segments", "user_id", "alert_id", "target"]
    of_windows: bool = False  # rows have the times of windows, which may end after an erasure
    lists_keys: bool = False  # of other tables, so it is erased after them
    kept: str = ""  # why an erasure leaves the rows
    row_by_row: bool = False  # a partition has rows of other users, or rows that stay
    # The column that tells of which time the data is that a row derives from: a time, a flag, or
    # the alerts of a case. Without it, the time of the write does.
    about: str = ""

    @property
    def read_whole(self) -> bool:
        """Whether no key finds a user's rows."""
        return self.found_by in ("user_id", "alert_id", "target")


BY_USER, BY_WINDOW = Users("user"), Users("user", of_windows=True)


class Table(NamedTuple):
    """A table. TABLES in liveprofile/rows has all of them."""

    name: str
    doc: str
    columns: dict[str, Column]
    partition_key: tuple[str, ...]
    clustering: dict[str, str]  # the rest of the key: ASC or DESC by column
    limit: str | FixedLimit  # the setting as section.key, or what else limits the rows
    holds: str  # what the rows say; without users: why they are about nobody
    users: Users | None
    options: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()  # NAME (COLUMN) USING ...
    times: int = 1  # rows stay this multiple of the limit
    more_ms: int = 0  # and so much longer

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the primary key."""
        return (*self.partition_key, *self.clustering)

    def kind(self, column: str) -> str:
        """What a column is, as system_schema names it."""
        if column in self.key:
            return "partition_key" if column in self.partition_key else "clustering"
        return "static" if self.columns[column].cql.endswith(" static") else "regular"

    def names(self, without: Collection[str] = ()) -> list[str]:
        """The columns, without some."""
        return [name for name in self.columns if name not in without]

    def insert(
        self,
        ttl_s: int | str,
        keyspace: str = "",
        *,
        time: str = "?",
        without: Collection[str] = (),
        condition: str = "",
        mark: str = "?",
    ) -> str:
        """An INSERT of all columns in their order.

        ttl_s, time: of USING TTL and TIMESTAMP, or marks; "": the time of the write.
        """
        names = self.names(without)
        return (
            f"INSERT INTO {keyspace and f'{keyspace}.'}{self.name} ({', '.join(names)})"
            f" VALUES ({', '.join([mark] * len(names))}){condition}"
            f" USING {time and f'TIMESTAMP {time} AND'} TTL {ttl_s}"
        )

    def create(self, comments: bool = False) -> list[str]:
        """CREATE TABLE and CREATE INDEX, with the places {keyspace} and {dim}."""
        lines = [f"    {column.name} {column.cql}," for column in self.columns.values()]
        if comments:
            width = max(len(line) for line in lines) + 1
            lines = [
                f"{line:<{width}} -- {column.meaning}" if column.meaning else line
                for line, column in zip(lines, self.columns.values(), strict=True)
            ]
        key = ", ".join((f"({', '.join(self.partition_key)})", *self.clustering))
        order = ", ".join(f"{name} {way}" for name, way in self.clustering.items())
        options = [f"CLUSTERING ORDER BY ({order})"] if "DESC" in order else []
        options += self.options
        end = " WITH " + "\n  AND ".join(options) if options else ""
        create = "\n".join(
            (
                f"CREATE TABLE IF NOT EXISTS {{keyspace}}.{self.name} (",
                *lines,
                f"    PRIMARY KEY ({key})",
                f"){end}",
            )
        )
        indexes = (index.partition(" ") for index in self.indexes)
        return [
            create,
            *(
                f"CREATE INDEX IF NOT EXISTS {name} ON {{keyspace}}.{self.name} {rest}"
                for name, _, rest in indexes
            ),
        ]

    def describe(self) -> str:
        """The statements of `create` with what they mean, for schemas/cassandra.cql."""
        about = textwrap.fill(self.doc, 98, initial_indent="-- ", subsequent_indent="-- ")
        return "\n".join((about, *(f"{each};\n" for each in self.create(comments=True))))


def table(
    name: str,
    doc: str,
    row: type[NamedTuple] | str,
    key: str,
    *,
    limit: str | FixedLimit,
    holds: str,
    users: Users | None = None,
    more: str = "",
    **options: Any,
) -> Table:
    """A table. key: as in `(user_id, hour), event_time DESC, event_id`; more: further columns."""
    parts = re.fullmatch(r"(?:\((.*?)\)|(\w+))(?:, (.*))?", key)
    partition, single, rest = parts.groups()
    order = (each.split() for each in rest.split(", ")) if rest else ()
    found = _lines(more)
    found += _lines(row) if isinstance(row, str) else _fields(row)
    return Table(
        name,
        " ".join(doc.split()),
        {column.name: column for column in found},
        tuple((partition or single).split(", ")),
        {each[0]: (*each[1:], "ASC")[0] for each in order},
        limit,
        holds,
        users,
        **options,
    )


def _lines(text: str) -> list[Column]:
    lines = (line.strip() for line in text.splitlines())
    parts = (_LINE.fullmatch(line).groups() for line in lines if line)
    return [Column(name, cql, meaning or "", name) for name, cql, meaning in parts]


def _fields(kind: type[NamedTuple]) -> list[Column]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        Column(
            field.removesuffix("_ms"),
            next(each for each in _annotations(hints[field]) if isinstance(each, str)),
            _meaning(hints[field]),
            field,
            type(None) in get_args(_plain(hints[field])),
        )
        for field in kind._fields
    ]


def _annotations(hint: Any) -> Iterable[Any]:
    """All that Annotated says of a type, also inside a union."""
    if get_origin(hint) is Annotated:
        inner, *found = get_args(hint)
        return [*_annotations(inner), *found]
    return [found for each in get_args(hint) for found in _annotations(each)]


def _meaning(hint: Any) -> str:
    texts = [each.documentation for each in _annotations(hint) if isinstance(each, Doc)]
    return texts[0] if texts else ""


def _plain(hint: Any) -> Any:
    """The type without annotations."""
    if get_origin(hint) is Annotated:
        return _plain(get_args(hint)[0])
    if type(None) in get_args(hint):
        [inner] = (each for each in get_args(hint) if each is not type(None))
        return _plain(inner) | None
    return hint


def row_model(
    kind: type[NamedTuple], base: type[BaseModel], without: Collection[str] = ()
) -> type[BaseModel]:
    """A model with name and fields of a row class; a field whose default is None may be missing."""
    hints = get_type_hints(kind, include_extras=True)
    fields: dict[str, Any] = {}
    for name in (name for name in kind._fields if name not in without):
        default = None if kind._field_defaults.get(name, ...) is None else ...
        fields[name] = (
            _plain(hints[name]),
            Field(default, description=_meaning(hints[name]) or None),
        )
    return create_model(kind.__name__, __base__=base, __doc__=kind.__doc__, **fields)


def columns(kind: type[NamedTuple]) -> str:
    """The columns of a row class for SELECT: `x_ms` reads the timestamp `x` in milliseconds."""
    return ", ".join(
        f"to_unix_timestamp({name.removesuffix('_ms')}) AS {name}" if name.endswith("_ms") else name
        for name in kind._fields
    )
