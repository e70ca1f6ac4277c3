"""attribute("name") in conditions: a missing value makes a comparison unknown, as in SQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.rules.conditions import ConditionError, TextCall, parse_condition

NAMES = {"a": "number", "kind": "text"}
FUNCTIONS = {"attribute": "attribute", "segment": "condition"}

Row = dict[str, Any]
Truth = bool | None  # None: unknown
Pair = tuple[str, Callable[[Row], Truth]]


def holds(text: str, **values: Any) -> bool:
    """Of one user with these attributes; a is 1, kind is "x", the user is in segment s."""
    condition = parse_condition(text, NAMES, {}, FUNCTIONS)
    columns: dict[Any, np.ndarray] = {"a": np.array([1.0]), "kind": np.array(["x"])}
    for call in condition.calls:
        if call.function == "segment":
            columns[call] = np.array([True])
        else:
            columns[call] = np.array([values.get(call.argument)], object)
    return bool(condition(columns, 1)[0])


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ('attribute("n") > 1', {"n": 2}, True),
        ('attribute("n") > 1', {"n": 1}, False),
        ('attribute("n") > 1', {}, False),
        ('not attribute("n") > 1', {}, False),
        ('not (attribute("n") > 1)', {"n": 1}, True),
        ('attribute("n") != 1', {}, False),
        ('not attribute("n") == 1', {}, False),
        ('not 0 < attribute("n") < 3', {}, False),
        ('not 0 < attribute("n") < 3', {"n": 5}, True),
        ('attribute("n") > 1', {"n": "2"}, False),
        ('not attribute("n") > 1', {"n": True}, False),
        ('attribute("f")', {"f": True}, True),
        ('attribute("f")', {"f": False}, False),
        ('not attribute("f")', {"f": False}, True),
        ('not attribute("f")', {}, False),
        ('not not attribute("f")', {"f": True}, True),
        ('not attribute("f")', {"f": 0}, False),
        ('attribute("t") == "x"', {"t": "x"}, True),
        ('attribute("t") == kind', {"t": "x"}, True),
        ('"x" == attribute("t")', {"t": "x"}, True),
        ('attribute("t") != "x"', {"t": "y"}, True),
        ('attribute("t") != "x"', {}, False),
        ('attribute("t") in ["x", "y"]', {"t": "y"}, True),
        ('attribute("t") not in ["x", "y"]', {"t": "z"}, True),
        ('attribute("t") not in ["x", "y"]', {}, False),
        ('not attribute("t") in ["x"]', {}, False),
        ('attribute("n") in [1, 2]', {"n": 2}, True),
        ('attribute("n") > 1 or a > 0', {}, True),
        ('not (attribute("n") > 1 and a > 5)', {}, True),
        ('not (attribute("n") > 1 or a > 5)', {}, False),
        ('attribute("n") - a > 0 and not segment("s")', {"n": 2}, False),
        ('max(attribute("n"), 3) > 2', {}, False),
        ('attribute("n") >= attribute("m")', {"n": 2, "m": 1}, True),
        ('attribute("n") >= attribute("m")', {"n": 2}, False),
    ],
)
def test_condition_on_attributes(text: str, values: Row, expected: bool) -> None:
    assert holds(text, **values) is expected


@pytest.mark.parametrize(
    ("text", "position", "reason"),
    [
        ('attribute("x") > 1 and attribute("x") == "y"', 23, 'attribute("x") is a text here'),
        ('attribute("x") == attribute("y")', 0, "two attributes cannot be compared by =="),
        ("attribute(a) > 1", 0, "takes one quoted text"),
        ('(attribute("x") or a > 1) > 2', 1, "is a condition, expected a number"),
        ('attribute("x") in ["a", 1]', 24, "is a number, expected a text"),
    ],
)
def test_invalid_use_is_rejected_with_its_position(text: str, position: int, reason: str) -> None:
    with pytest.raises(ConditionError) as error:
        parse_condition(text, NAMES, {}, FUNCTIONS)
    assert reason in error.value.reason
    assert error.value.position == position


def test_condition_lists_the_attributes_with_the_kinds_that_it_needs() -> None:
    text = 'attribute("n") > a and (attribute("f") or attribute("t") == "x")'
    found = parse_condition(text, NAMES, {}, FUNCTIONS)
    assert found.attributes == {"n": "number", "f": "condition", "t": "text"}
    assert found.calls == tuple(TextCall("attribute", name) for name in "nft")


def test_attributes_are_refused_where_they_are_not_allowed() -> None:
    with pytest.raises(ConditionError, match="can be called"):
        parse_condition('attribute("n") > 1', NAMES, {})


# --- random conditions against Kleene's three-valued logic ---------------------------------------


def _not(truth: Truth) -> Truth:
    return None if truth is None else not truth


def _and(first: Truth, second: Truth) -> Truth:
    if first is False or second is False:
        return False
    return None if first is None or second is None else True


def _or(first: Truth, second: Truth) -> Truth:
    return _not(_and(_not(first), _not(second)))


def _number(row: Row) -> float | None:
    value = row["n"]
    return value if type(value) in (int, float) else None


def _text(row: Row) -> str | None:
    return row["t"] if isinstance(row["t"], str) else None


def _flag(row: Row) -> Truth:
    return row["f"] if isinstance(row["f"], bool) else None


def _of(get: Callable[[Row], Any], test: Callable[[Any], bool]) -> Callable[[Row], Truth]:
    return lambda row: None if get(row) is None else test(get(row))


atoms = st.sampled_from(
    [
        ('attribute("n") > 1', _of(_number, lambda n: n > 1)),
        ('attribute("n") != 1', _of(_number, lambda n: n != 1)),
        ('1 >= attribute("n") - a', lambda row: _of(_number, lambda n: n - row["a"] <= 1)(row)),
        ('attribute("t") == "x"', _of(_text, lambda t: t == "x")),
        ('attribute("t") not in ["x", "y"]', _of(_text, lambda t: t not in "xy")),
        ('attribute("f")', _flag),
        ("a > 1", lambda row: row["a"] > 1),
    ]
)
conditions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds(
            lambda x, y: (f"({x[0]} and {y[0]})", lambda row: _and(x[1](row), y[1](row))),
            inner,
            inner,
        ),
        st.builds(
            lambda x, y: (f"({x[0]} or {y[0]})", lambda row: _or(x[1](row), y[1](row))),
            inner,
            inner,
        ),
        st.builds(lambda x: (f"(not {x[0]})", lambda row: _not(x[1](row))), inner),
    ),
    max_leaves=8,
)
rows = st.fixed_dictionaries(
    {
        "a": st.sampled_from([0.0, 1.0, 2.0]),
        "n": st.sampled_from([None, 0, 1, 2.5, "1", True]),
        "t": st.sampled_from([None, "x", "z", 1]),
        "f": st.sampled_from([None, True, False, 1]),
    }
)


@given(conditions, st.lists(rows, min_size=1, max_size=5))
def test_condition_is_true_where_three_valued_logic_says_so(pair: Pair, table: list[Row]) -> None:
    text, expected = pair
    columns: dict[Any, np.ndarray] = {"a": np.array([row["a"] for row in table])}
    for name in "ntf":
        column = np.empty(len(table), object)
        column[:] = [row[name] for row in table]
        columns[TextCall("attribute", name)] = column
    found = parse_condition(text, NAMES, {}, FUNCTIONS)(columns, len(table))
    assert found.tolist() == [expected(row) is True for row in table]
