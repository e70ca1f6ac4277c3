"""Conditions: what is rejected where, and random ones against plain Python.

A missing attribute makes a comparison unknown, as in SQL.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.rules.conditions import MAX_CHARS, ConditionError, TextCall, parse_condition

Truth = bool | None  # None: unknown
Row = dict[str, Any]
NAMES = {"a": "number", "b": "number", "kind": "text"}
CONSTANTS = {"threshold": 4.0}
FUNCTIONS = {"attribute": "attribute", "segment": "condition"}


@pytest.mark.parametrize(
    ("text", "position", "reason"),
    [
        ("", 0, "is empty"),
        ("a >", 3, "ends too early"),
        ("(a > 1", 0, "never closed"),
        ("a > x", 4, "unknown name x"),
        ("a > 1 and\n  treshold > b", 12, "unknown name treshold; threshold?"),
        ('kind == "é" and x > 1', 16, "unknown name x"),
        ("kind == 1", 8, "`1` is a number, expected a text"),
        ("a > 1 and b", 10, "`b` is a number, expected a condition"),
        ("a + b", 0, "is a number, not a condition"),
        ("(a > 1) == (b > 1)", 1, "a condition cannot be compared"),
        ("a is b", 0, "`is` is not allowed"),
        ("a > 1e999", 4, "the number is too large"),
        ("a ** 2 > 1", 0, "`a ** 2` is not allowed"),
        ("a > 1 # b > 1", 6, "'#' is not allowed"),
        ("a.real > 1", 0, "`a.real` is not allowed"),
        ("a if b > 1 else b", 0, "is not allowed"),
        ("(lambda: 1)() > a", 0, "only abs, min, max, attribute, segment"),
        ('__import__("os").system("x") == 0', 0, "only abs, min, max, attribute, segment"),
        ("abs(a, b) > 1", 0, "abs takes one number, not 2"),
        ("max(a, b, key=a) > 1", 0, "only abs, min, max, attribute, segment"),
        ("a in b", 5, "after `in` must come a list"),
        ("a in [b]", 6, "a list may only have constants"),
        ('a in ["x"]', 6, "is a text, expected a number"),
        ("a > 1 and b\0", 11, "is not allowed"),
        ("(" * 300 + "a", 200, "too many nested"),
        ("-" * 900 + "a > 1", 0, "nested too deeply"),
        ("a" * (MAX_CHARS + 1), MAX_CHARS, f"longer than {MAX_CHARS} characters"),
        ('attribute("x") > 1 and attribute("x") == "y"', 23, 'attribute("x") is a text here'),
        ('attribute("x") == attribute("y")', 0, "two attributes cannot be compared by =="),
        ("attribute(a) > 1", 0, "takes one quoted text"),
        ('(attribute("x") or a > 1) > 2', 1, "is a condition, expected a number"),
        ('attribute("x") in ["a", 1]', 24, "is a number, expected a text"),
    ],
)  # fmt: skip
def test_invalid_condition_is_rejected_with_its_position(
    text: str, position: int, reason: str
) -> None:
    with pytest.raises(ConditionError) as error:
        parse_condition(text, NAMES, CONSTANTS, FUNCTIONS)
    assert reason in error.value.reason
    assert error.value.position == position


def test_condition_lists_the_attributes_with_the_kinds_that_it_needs() -> None:
    text = 'attribute("n") > a and (attribute("f") or attribute("t") == "x")'
    found = parse_condition(text, NAMES, {}, FUNCTIONS)
    assert found.attributes == {"n": "number", "f": "condition", "t": "text"}
    assert found.calls == tuple(TextCall("attribute", name) for name in "nft")


# --- random conditions against plain Python ----------------------------------------------------

Pair = tuple[str, Callable[[Row], Any]]  # the text, and a function that evaluates it for a row


def _divided(x: float, y: float) -> float:
    """Divides by IEEE 754 rules, where Python raises."""
    if y != 0:
        return x / y
    return math.nan if x == 0 or math.isnan(x) else math.copysign(math.inf, x) * math.copysign(1, y)


def _extreme(function: Callable[..., float]) -> Callable[..., float]:
    return lambda *numbers: math.nan if any(map(math.isnan, numbers)) else function(numbers)


BINARY = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": _divided}
ORDER = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
TEXTS = ("", "x", "é", "two words")


def _both(op: str, function: Callable[..., Any], left: Pair, right: Pair) -> Pair:
    return f"({left[0]} {op} {right[0]})", lambda row: function(left[1](row), right[1](row))


def _call(name: str, function: Callable[..., Any], *args: Pair) -> Pair:
    text = f"{name}({', '.join(arg[0] for arg in args)})"
    return text, lambda row: function(*(arg[1](row) for arg in args))


def _not(truth: Truth) -> Truth:
    return None if truth is None else not truth


def _and(first: Truth, second: Truth) -> Truth:
    if first is False or second is False:
        return False
    return None if first is None or second is None else True


def _or(first: Truth, second: Truth) -> Truth:
    return _not(_and(_not(first), _not(second)))


def _known(name: str, kind: type | tuple[type, ...], test: Callable[[Any], bool]) -> Any:
    """The test of an attribute; unknown if it is missing or of another kind."""

    def holds(row: Row) -> Truth:
        value = row[name]
        wrong = not isinstance(value, kind) or (kind is not bool and isinstance(value, bool))
        return None if wrong else test(value)

    return holds


def _chain(first: Pair, op: str, second: Pair, other: str, third: Pair) -> Pair:
    text = f"({first[0]} {op} {second[0]} {other} {third[0]})"

    def holds(row: Row) -> bool:
        x, y, z = (part[1](row) for part in (first, second, third))
        return ORDER[op](x, y) and ORDER[other](y, z)

    return text, holds


def _among(texts: list[str], negated: bool) -> Pair:
    listed = ", ".join(f'"{text}"' for text in texts)
    word = "not in" if negated else "in"
    return f"(kind {word} [{listed}])", lambda row: (row["kind"] in texts) != negated


operators = st.sampled_from([*BINARY])
numbers = st.recursive(
    st.sampled_from(
        [(name, operator.itemgetter(name)) for name in "ab"] + [("threshold", lambda row: 4.0)]
    )
    | st.floats(0, 1e9).map(lambda number: (repr(number), lambda row: number)),
    lambda inner: st.one_of(
        st.builds(lambda op, x, y: _both(op, BINARY[op], x, y), operators, inner, inner),
        st.builds(lambda x: (f"-{x[0]}", lambda row: -x[1](row)), inner),
        st.builds(lambda x: _call("abs", abs, x), inner),
        st.builds(lambda x, y: _call("min", _extreme(min), x, y), inner, inner),
        st.builds(lambda x, y, z: _call("max", _extreme(max), x, y, z), inner, inner, inner),
    ),
    max_leaves=6,
)
orders = st.sampled_from([*ORDER])
comparisons = st.one_of(
    st.builds(lambda op, x, y: _both(op, ORDER[op], x, y), orders, numbers, numbers),
    st.builds(_chain, numbers, orders, numbers, orders, numbers),
    st.builds(_among, st.lists(st.sampled_from(TEXTS), min_size=1), st.booleans()),
    st.sampled_from(TEXTS).map(lambda x: (f'(kind == "{x}")', lambda row: row["kind"] == x)),
    st.sampled_from(
        [
            ('attribute("n") > 1', _known("n", (int, float), lambda n: n > 1)),
            ('attribute("n") != 1', _known("n", (int, float), lambda n: n != 1)),
            ('attribute("t") == "x"', _known("t", str, lambda t: t == "x")),
            ('attribute("t") not in ["x", "y"]', _known("t", str, lambda t: t not in "xy")),
            ('attribute("f")', _known("f", bool, bool)),
            ('0 < attribute("n") < 3', _known("n", (int, float), lambda n: 0 < n < 3)),
            ('attribute("n") in [1, 2]', _known("n", (int, float), lambda n: n in (1, 2))),
            ('max(attribute("n"), 3) > 2', _known("n", (int, float), lambda n: max(n, 3) > 2)),
            ('attribute("n") * 2 - threshold > 0', _known("n", (int, float), lambda n: n > 2)),
            (
                'attribute("t") == kind',
                lambda row: _known("t", str, lambda t: t == row["kind"])(row),
            ),
            ('attribute("n") >= attribute("nobody has it")', lambda row: None),
            ('segment("s")', operator.itemgetter("s")),
        ]
    ),
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(lambda x, y: _both("and", _and, x, y), inner, inner),
        st.builds(lambda x, y: _both("or", _or, x, y), inner, inner),
        st.builds(lambda x: (f"(not {x[0]})", lambda row: _not(x[1](row))), inner),
    ),
    max_leaves=5,
)
rows = st.fixed_dictionaries(
    {
        "a": st.floats(),
        "b": st.sampled_from([0.0, 1.0, 4.0]),
        "kind": st.sampled_from(TEXTS),
        "n": st.sampled_from([None, 0, 1, 2.5, "1", True]),
        "t": st.sampled_from([None, "x", "z", 1]),
        "f": st.sampled_from([None, True, False, 1]),
        "s": st.booleans(),
    }
)


@given(conditions.filter(lambda pair: len(pair[0]) <= MAX_CHARS), st.lists(rows, min_size=1))
def test_condition_on_columns_matches_three_valued_logic_on_each_row(
    pair: Pair, table: list[Row]
) -> None:
    text, holds = pair
    columns: dict[Any, np.ndarray] = {
        name: np.array([row[name] for row in table]) for name in NAMES
    }
    for name in "ntf":
        column = columns[TextCall("attribute", name)] = np.empty(len(table), object)
        column[:] = [row[name] for row in table]
    columns[TextCall("segment", "s")] = np.array([row["s"] for row in table])
    found = parse_condition(text, NAMES, CONSTANTS, FUNCTIONS)(columns, len(table))
    assert found.tolist() == [holds(row) is True for row in table]
