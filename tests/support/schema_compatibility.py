"""Does a new JSON Schema accept every document that an old one accepted?

The comparison follows properties, items, additionalProperties and local references, and compares
types, enumerations, limits and required fields. Any other difference, such as another pattern or
another `anyOf`, counts as a break: somebody must judge it.

`python -m tests.support.schema_compatibility` makes the present schemas the released ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import typer

from tests.support.paths import ROOT

SCHEMAS, RELEASED = ROOT / "schemas", ROOT / "tests" / "released_schemas"

ANNOTATIONS = {"$schema", "$id", "$defs", "title", "description", "examples", "default"}
# A new value must be at most, or at least, the old one. Without the keyword there is no limit.
LOWER_LIMITS = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
UPPER_LIMITS = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}
COMPARED = {"type", "enum", "const", "required", "properties", "items", "additionalProperties"}
ALL_TYPES = {"null", "boolean", "number", "integer", "string", "array", "object"}


def breaks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What the old schema accepts and the new one may refuse, as a line with a path for each."""
    return list(_Comparison(old, new).schemas(old, new, "$"))


class _Comparison:
    def __init__(self, old_root: dict[str, Any], new_root: dict[str, Any]):
        self._old_root, self._new_root = old_root, new_root
        self._seen: set[tuple[str, str]] = set()

    def schemas(self, old: Any, new: Any, path: str) -> Iterator[str]:
        references = (_reference(old), _reference(new))
        if any(references):
            if references in self._seen:  # a recursive schema
                return
            self._seen.add(references)
        old, new = _resolved(old, self._old_root), _resolved(new, self._new_root)
        if new is True or old is False:
            return
        if new is False or old is True:
            old, new = ({} if old is True else old), ({"not": {}} if new is False else new)
        yield from self._types(old, new, path)
        yield from self._values(old, new, path)
        yield from self._limits(old, new, path)
        yield from self._objects(old, new, path)
        if "items" in new:
            yield from self.schemas(old.get("items", True), new["items"], f"{path}[]")
        known = ANNOTATIONS | LOWER_LIMITS | UPPER_LIMITS | COMPARED
        for keyword in sorted(new.keys() - known):
            if not self._same(old.get(keyword), new[keyword]):
                yield f"{path}: {keyword} is new or differs"

    def _types(self, old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[str]:
        if lost := _types_of(old) - _types_of(new):
            yield f"{path}: type {', '.join(sorted(lost))} is no longer accepted"

    def _values(self, old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[str]:
        if (allowed := _values_of(new)) is None:
            return
        if (before := _values_of(old)) is None:
            yield f"{path}: only {allowed} are accepted, before any value"
        elif lost := [value for value in before if value not in allowed]:
            yield f"{path}: values {lost} are no longer accepted"

    def _limits(self, old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[str]:
        for keyword in sorted((LOWER_LIMITS | UPPER_LIMITS) & new.keys()):
            before, after = old.get(keyword), new[keyword]
            wider = before is not None and (
                after <= before if keyword in LOWER_LIMITS else after >= before
            )
            if not wider:
                yield f"{path}: {keyword} is {after}, before {before}"

    def _objects(self, old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[str]:
        for name in new.get("required", ()):
            if name not in old.get("required", ()):
                yield f"{path}.{name}: is required now"
        before, after = old.get("properties", {}), new.get("properties", {})
        old_more, new_more = (each.get("additionalProperties", True) for each in (old, new))
        for name in before.keys() | after.keys():
            yield from self.schemas(
                before.get(name, old_more), after.get(name, new_more), f"{path}.{name}"
            )
        yield from self.schemas(old_more, new_more, f"{path}.*")

    def _same(self, old: Any, new: Any) -> bool:
        return _plain(old, self._old_root) == _plain(new, self._new_root)


def _reference(schema: Any) -> str:
    return schema.get("$ref", "") if isinstance(schema, dict) else ""


def _resolved(schema: Any, root: dict[str, Any]) -> Any:
    """The schema behind a local reference, with what stands beside the reference."""
    if not (reference := _reference(schema)):
        return schema
    target: Any = root
    for part in reference.removeprefix("#/").split("/"):
        target = target[part]
    beside = {key: value for key, value in schema.items() if key != "$ref"}
    return {**_resolved(target, root), **beside}


def _plain(value: Any, root: dict[str, Any]) -> Any:
    """Without annotations and references."""
    if isinstance(value, dict):
        value = _resolved(value, root)
        return {key: _plain(each, root) for key, each in value.items() if key not in ANNOTATIONS}
    return [_plain(each, root) for each in value] if isinstance(value, list) else value


def _types_of(schema: dict[str, Any]) -> set[str]:
    types = schema.get("type", list(ALL_TYPES))
    names = {types} if isinstance(types, str) else set(types)
    return names | {"integer"} if "number" in names else names


def _values_of(schema: dict[str, Any]) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def main() -> None:
    """Makes the present JSON Schemas the released ones: replaces the copies."""
    for file in SCHEMAS.glob("*.schema.json"):
        shutil.copy(file, RELEASED / file.name)


if __name__ == "__main__":
    typer.run(main)
