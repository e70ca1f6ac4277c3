"""Writes all that is stored about one user to a JSON file (docs/privacy.md)."""

import os
import tempfile
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import orjson
from cassandra.cluster import Session
from cassandra.util import datetime_from_uuid1

from liveprofile.errors import InputError
from liveprofile.kafka.records import Record
from liveprofile.privacy.places import UserKeys, conditions, is_theirs
from liveprofile.rows.table import Table
from liveprofile.storage.cql import prepare, read_pages

# Cassandra stores some texts that are JSON.
_JSON_STARTS = ("{", "[")


@contextmanager
def private_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file that only its owner can read; it appears when the with block has succeeded.

    Raises InputError if the path exists or its folder cannot be written.
    """
    if path.exists():
        raise InputError(f"{path} exists: remove it or name another file")
    try:
        # Created with mode 0600.
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(name).rename(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()


def table_rows(session: Session, table: Table, keys: UserKeys) -> Iterator[dict[str, Any]]:
    """The user's rows of a table. Raises ServiceError."""
    names = table.names()
    for where, values in conditions(table, keys):
        query = f"SELECT {', '.join(names)} FROM {table.name}"
        prepared = prepare(session, f"{query} WHERE {where}" if where else query)
        for row in read_pages(session, prepared, values):
            if is_theirs(table, row, keys):
                yield {
                    name: as_json(cell, is_key=name in table.key)
                    for name, cell in zip(names, row, strict=True)
                }


def as_json(value: Any, *, is_key: bool = False) -> Any:
    """A value of a column for JSON. Texts that are JSON are parsed, unless they are keys."""
    if isinstance(value, datetime):
        aware = value.replace(tzinfo=value.tzinfo or UTC)
        return aware.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str):
        if not is_key and value.startswith(_JSON_STARTS):
            with suppress(orjson.JSONDecodeError):
                return orjson.loads(value)
        return value
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, uuid.UUID):
        return (
            f"{value} ({as_json(datetime_from_uuid1(value))})" if value.version == 1 else str(value)
        )
    if isinstance(value, Mapping):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(each) for each in value]
    if isinstance(value, Iterable):  # the driver's sets
        return sorted(as_json(each) for each in value)
    return str(value)  # the driver's dates


def user_records(records: Iterable[Record], user_ids: Collection[str]) -> Iterator[dict[str, Any]]:
    """The records about a user with these ids: by key, by a field of the JSON, or by the text of a
    record that is not JSON."""
    encoded = [user_id.encode("utf-8", "surrogatepass") for user_id in user_ids]
    for record in records:
        value = record.value or b""
        parsed: Any = None
        with suppress(orjson.JSONDecodeError):
            parsed = orjson.loads(value)
        if isinstance(parsed, dict):
            ids = {str(parsed[name]) for name in ("user_id", "subject") if name in parsed}
            is_named = not ids.isdisjoint(user_ids)
        else:
            is_named = any(each in value for each in encoded)
        if is_named or record.key in encoded:
            yield {
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "record_time": as_json(datetime.fromtimestamp(record.timestamp_ms / 1_000, UTC)),
                "value": value.decode("utf-8", "replace") if parsed is None else parsed,
            }
