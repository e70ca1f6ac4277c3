"""The text of wrong settings: a line for each, with key, value, what it may be and its origin."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError

MASK = "********"
SECRET_WORDS = re.compile(r"pass|secret|key|token|credential", re.IGNORECASE)
LIST_KINDS = (tuple, list, set, frozenset)

Path = tuple[str, ...]


def setting_types(model: type[BaseModel], path: Path = ()) -> dict[Path, Any]:
    """The type of each section and setting of a settings class by path."""
    types: dict[Path, Any] = {}
    for name, field in model.model_fields.items():
        types[*path, name] = field.annotation
        if section := as_section(field.annotation):
            types |= setting_types(section, (*path, name))
    return types


def as_section(annotation: Any) -> type[BaseModel] | None:
    """The class of a section; None for the type of a single setting."""
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_model else None


def json_form(annotation: Any) -> str | None:
    """An example of a variable's value if it must be JSON, as for a list; None if it is plain."""
    if as_section(annotation):
        return '{"key": "value"}'
    for one in (annotation, *get_args(annotation)):
        if get_origin(one) is dict:
            return '{"key": "value"}'
        if get_origin(one) in LIST_KINDS:
            return "[1, 2]" if get_args(one)[0] in (int, float) else '["first", "second"]'
    return None


def is_secret(annotation: Any) -> bool:
    """Whether a setting of this type, or one of this section, must not be shown."""
    if section := as_section(annotation):
        return any(map(is_secret, setting_types(section).values()))
    return SecretStr in (annotation, *get_args(annotation))


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The name that was probably meant; None if none is similar.

    A name with the same last part but another section, or none, is similar.
    """
    if close := difflib.get_close_matches(name.lower(), known, 1, cutoff=0.75):
        return close[0]
    by_last_part = {re.split(r"\.|__", each)[-1]: each for each in reversed(known)}
    last_part = re.split(r"\.|__", name.lower())[-1]
    close = difflib.get_close_matches(last_part, by_last_part, 1, cutoff=0.8)
    return by_last_part[close[0]] if close else None


def unknown_variable(variable: str, names: Sequence[str], prefix: str) -> str:
    """The line for a variable that names no setting. names: in lower case, without the prefix."""
    meant = nearest(variable.removeprefix(prefix), names)
    return f"variable {variable} names no setting{_suggestion(meant and prefix + meant.upper())}"


def not_json(variable: str, value: str, annotation: Any) -> str:
    """The line for a variable whose value must be JSON, and is not."""
    shown = MASK if is_secret(annotation) else repr(value)
    if as_section(annotation):
        keys = f"; or set its keys one by one, as {variable}__<KEY>"
        return f"variable {variable} = {shown}: must be a JSON object of the section's keys{keys}"
    return f"variable {variable} = {shown}: must be JSON, such as {json_form(annotation)}"


def describe(
    error: ValidationError, model: type[BaseModel], origins: Callable[[Path], list[str]]
) -> list[str]:
    """A line for each setting that is wrong.

    origins: of a path, where its values come from, such as a file; empty: not known.
    """
    types = setting_types(model)
    lines = []
    for fault in error.errors():
        path = tuple(map(str, fault["loc"]))
        origin = " and ".join(origins(path[:2]))
        lines.append(_line(path, fault, types) + (f" (from {origin})" if origin else ""))
    return lines


def _line(path: Path, fault: Any, types: Mapping[Path, Any]) -> str:
    key, value, message = ".".join(path), fault["input"], fault["msg"]
    message = message.removeprefix("Value error, ")
    secret = is_secret(types.get(path[:2], types.get(path[:1])))
    if fault["type"] == "extra_forbidden":
        meant = nearest(key, [".".join(path) for path in types])
        secret = SECRET_WORDS.search(f"{key} {meant}")
        message = f"not a setting{_suggestion(meant)}"
    elif fault["type"] == "model_type":
        message = f"is a section: write its keys below [{key}]"
    # A fault of a whole section has the section as input, secrets included.
    whole = isinstance(value, (dict, BaseModel))
    shown = "" if whole else f" = {MASK if secret else repr(value)}"
    return f"setting {key}{shown}: {message}"


def _suggestion(meant: str | None) -> str:
    return f"; did you mean {meant}?" if meant else "; docs/settings.md lists all"


def as_text(lines: Sequence[str]) -> str:
    """The lines as one message: a single one alone, several below a line with their number."""
    if len(lines) == 1:
        return lines[0]
    return "\n  ".join([f"{len(lines)} settings are wrong:", *lines])
