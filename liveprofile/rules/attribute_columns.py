"""Columns of attributes in conditions: any scalar values, read as numbers, texts or conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

AttributeValue = bool | int | float | str
ATTRIBUTE = "attribute"  # the function of conditions that reads them
MISSING = np.array([None], object)  # the column of an attribute that nobody has


def attribute_column(name: str, users: Sequence[Mapping[str, AttributeValue]]) -> np.ndarray:
    """(n,) objects: the attribute of each user, None if it is missing."""
    column = np.empty(len(users), object)
    column[:] = [values.get(name) for values in users]
    return column


class TypedColumn(NamedTuple):
    """An attribute as one kind of value, n rows."""

    values: np.ndarray  # (n,) float64, bool, or objects that are texts
    known: np.ndarray  # (n,) bool: present, and of this kind


def _as_numbers(column: np.ndarray) -> TypedColumn:
    values = np.array(
        [float(v) if type(v) in (int, float) else np.nan for v in column.tolist()], np.float64
    )
    return TypedColumn(values, ~np.isnan(values))


def _as_texts(column: np.ndarray) -> TypedColumn:
    known = np.array([type(value) is str for value in column.tolist()], bool)
    return TypedColumn(column, known)


def _as_conditions(column: np.ndarray) -> TypedColumn:
    values = column.tolist()
    return TypedColumn(
        np.array([value is True for value in values], bool),
        np.array([type(value) is bool for value in values], bool),
    )


TYPED_COLUMNS: dict[Literal["number", "text", "condition"], Callable[[np.ndarray], TypedColumn]] = {
    "number": _as_numbers,
    "text": _as_texts,
    "condition": _as_conditions,
}
