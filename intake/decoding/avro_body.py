"""Avro schemas of a registry, and bodies of records that were written with them.

The binary encoding is that of the Avro specification 1.12. A body of n bytes must not cost more
than O(n) memory or stack, so schemas that allow it are refused: values without bytes, and types
that contain themselves.
"""

import base64
import io
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import fastavro
import orjson
from fastavro.schema import SchemaParseException

from intake.decoding.decode import BodyReader, DecodeError

Named = dict[str, Any]  # full name: parsed schema
_EPOCH, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)


class UnusableSchemaError(ValueError):
    """A schema that is no Avro schema of an event."""


def avro_reader(schema: str) -> BodyReader:
    """A function that turns a body into the JSON of an event. Raises UnusableSchemaError."""
    named: Named = {}
    try:
        parsed = fastavro.parse_schema(orjson.loads(schema), named)
    except (SchemaParseException, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnusableSchemaError(f"no Avro schema: {error!r}") from None
    if not isinstance(parsed, dict) or parsed.get("type") != "record":
        raise UnusableSchemaError("not a record")
    _require_bounded(parsed, named, set(), ())

    def read(body: bytes) -> bytes:
        stream = io.BytesIO(body)
        try:
            event = fastavro.schemaless_reader(stream, parsed, None)
        # What the reader raises depends on the byte where it stops to understand the body.
        except (EOFError, ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
            raise DecodeError("BAD_BODY", f"not written with the schema: {error!r}") from None
        except (MemoryError, ArithmeticError) as error:
            raise DecodeError("BAD_BODY", f"a length that is impossible: {error!r}") from None
        if left := len(body) - stream.tell():
            raise DecodeError("BAD_BODY", f"{left} bytes after the last field of the schema")
        return orjson.dumps(event, _json_value, orjson.OPT_PASSTHROUGH_DATETIME)

    return read


def _require_bounded(schema: Any, named: Named, known: set[str], inside: tuple[str, ...]) -> None:
    """Raises UnusableSchemaError if a value may take no bytes, or may be nested without end.

    known: names that have been checked. inside: names that contain this schema.
    """
    if isinstance(schema, list):  # of a union, the number of the type is a byte
        for option in schema:
            if option != "null" and option != {"type": "null"}:
                _require_bounded(option, named, known, inside)
        return
    if isinstance(schema, str):
        if schema == "null":
            raise UnusableSchemaError("null outside of a union takes no bytes")
        if schema in inside:
            raise UnusableSchemaError(f"{schema} contains itself")
        if schema in named and schema not in known:
            _require_bounded(named[schema], named, known, inside)
        return
    kind = schema["type"]
    if kind in ("array", "map"):
        _require_bounded(schema["items" if kind == "array" else "values"], named, known, inside)
    elif kind in ("record", "error"):
        if not schema["fields"]:
            raise UnusableSchemaError(f"{schema['name']} has no fields, so it takes no bytes")
        for field in schema["fields"]:
            _require_bounded(field["type"], named, known, (*inside, schema["name"]))
        known.add(schema["name"])
    elif kind == "fixed":
        if schema["size"] < 1:
            raise UnusableSchemaError(f"{schema['name']} takes no bytes")
    elif kind != "enum":
        _require_bounded(kind, named, known, inside)


def _json_value(value: Any) -> Any:
    """JSON for values of logical types and for bytes."""
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)  # local-timestamp-millis
        return (moment - _EPOCH) // _MILLISECOND
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f"))
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} in an Avro body")
