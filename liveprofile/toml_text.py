"""Values as TOML text, which Python's own library only reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson


def to_toml(content: Mapping[str, Any]) -> str:
    """TOML of plain values and one level of tables."""
    plain = {key: value for key, value in content.items() if not isinstance(value, Mapping)}
    lines = _pairs(plain)
    for name, table in content.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{name}]", *_pairs(table)]
    return "\n".join(lines) + "\n"


def _pairs(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {toml_value(value)}" for key, value in table.items()]


def toml_value(value: Any) -> str:
    """Raises TypeError for what TOML does not have."""
    match value:
        case bool():
            return str(value).lower()
        case str() if "\n" in value:
            return '"""\n' + "\n".join(map(_escaped, value.split("\n"))) + '"""'
        case str():
            return quoted(value)
        case Mapping():
            pairs = (f"{quoted(k)} = {toml_value(v)}" for k, v in value.items())
            return f"{{ {', '.join(pairs)} }}" if value else "{}"
        case Sequence():
            return f"[{', '.join(map(toml_value, value))}]"
        case int() | float():
            return repr(value)
    raise TypeError(f"{value!r} is no TOML")


def quoted(text: str) -> str:
    """A string or key in one line."""
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    """JSON's escapes are TOML's, which also forbids DEL."""
    return orjson.dumps(text)[1:-1].decode().replace("\x7f", "\\u007f")
