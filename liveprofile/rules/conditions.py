"""Conditions of risk rules: a subset of Python's expressions, validated before use.

    user_purchases_10m >= threshold and user_amount_10m <= 5 * user_purchases_10m

A condition may use numbers and quoted texts; names; + - * /; < <= > >= == != (also chained, as in
1 < x < 3); `in` with a list of constants; and, or, not; abs(x), min(x, y, ...), max(x, y, ...).
A caller may add functions of one quoted text, such as interest("CHEESE").
Numbers follow IEEE 754, so evaluation never fails: an unknown value is NaN, and every comparison
with NaN but != is false.

Python's parser (the module `ast`) reads the text and gives the position of each part. One walk over
the tree determines the kind of each part, rejects unsupported parts, and compiles the tree into
numpy operations: a condition takes the same few microseconds for one row as for a thousand. Python
never executes the text.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import reduce
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

ValueKind = Literal["number", "text", "condition"]

MAX_CHARS = 1_000

_ARITHMETIC = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
}
_ORDER = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
_EQUALITY = {ast.Eq: operator.eq, ast.NotEq: operator.ne}
_FUNCTIONS = {"abs": (np.abs, 1, 1), "min": (np.minimum, 2, None), "max": (np.maximum, 2, None)}


class TextCall(NamedTuple):
    """A call of a function of one text, such as interest("CHEESE"): the key of its column."""

    function: str
    argument: str

    def __str__(self) -> str:
        return f'{self.function}("{self.argument}")'


Columns = Mapping[str | TextCall, np.ndarray]


class ConditionError(ValueError):
    """A condition is invalid. `position` counts characters from 0."""

    def __init__(self, position: int, reason: str):
        super().__init__(reason)
        self.position, self.reason = position, reason


class Condition(NamedTuple):
    """A validated condition. `names`, `calls`: what it reads, in the order of first use."""

    text: str
    names: tuple[str, ...]
    calls: tuple[TextCall, ...]
    evaluate: Callable[[Columns], Any]

    def __call__(self, columns: Columns, rows: int) -> np.ndarray:
        """(rows,) bool. columns: (rows,) for each of `names` and `calls`; texts as numpy's str."""
        with np.errstate(all="ignore"):
            return np.broadcast_to(np.asarray(self.evaluate(columns), bool), (rows,))


def parse_condition(
    text: str,
    names: Mapping[str, ValueKind],
    constants: Mapping[str, float],
    functions: Mapping[str, ValueKind] = MappingProxyType({}),
) -> Condition:
    """Parses, validates and compiles a condition.

    names: the names that it may read, with their kinds; constants: names with a fixed number;
    functions: functions of one text, with the kinds of their values. Raises ConditionError.
    """
    if len(text) > MAX_CHARS:
        raise ConditionError(MAX_CHARS, f"longer than {MAX_CHARS} characters")
    parser = _Parser(text, names, constants, functions)
    try:
        kind, evaluate = parser.compile(parser.parse())
    except RecursionError:
        raise ConditionError(0, "nested too deeply") from None
    if kind != "condition":
        raise ConditionError(0, f"is a {kind}, not a condition: compare it with something")
    return Condition(text, tuple(parser.seen), tuple(parser.calls), evaluate)


class _Expression(NamedTuple):
    kind: ValueKind
    evaluate: Callable[[Columns], Any]


class _Parser:
    """Parses one condition and compiles it into numpy operations."""

    def __init__(
        self,
        text: str,
        names: Mapping[str, ValueKind],
        constants: Mapping[str, float],
        functions: Mapping[str, ValueKind],
    ):
        self._names, self._constants, self._functions = names, constants, functions
        self.seen: dict[str, None] = {}
        self.calls: dict[TextCall, None] = {}
        # Python ends an expression at the end of a line; a condition may have several lines.
        self._indent = len(text) - len(text.lstrip())
        self._line = text.replace("\r", " ").replace("\n", " ").strip()

    def parse(self) -> ast.expr:
        if not self._line:
            raise ConditionError(0, "is empty")
        for character in "#\0":  # Python's parser ignores what follows these
            if character in self._line:
                position = self._line.index(character)
                raise self._error(position, f"{character!r} is not allowed in a condition")
        try:
            return ast.parse(self._line, mode="eval").body
        except SyntaxError as error:
            raise self._syntax_error(error) from None
        except MemoryError:
            raise ConditionError(0, "nested too deeply") from None

    def _syntax_error(self, error: SyntaxError) -> ConditionError:
        if not error.offset:  # Python's parser expected more at the end
            return self._error(len(self._line), "ends too early")
        return self._error(min(error.offset - 1, len(self._line)), error.msg)

    def compile(self, node: ast.expr) -> _Expression:
        match node:
            case ast.Constant(value=bool()):
                raise self._at(node, "True and False are not allowed in a condition")
            case ast.Constant(value=int() | float()):
                return self._number(node)
            case ast.Constant(value=str() as text):
                return _Expression("text", lambda columns: text)
            case ast.Name(id=name):
                return self._name(node, name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = self._compile_as("number", operand)
                return _Expression("number", lambda columns: np.negative(value(columns)))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                holds = self._compile_as("condition", operand)
                return _Expression("condition", lambda columns: np.logical_not(holds(columns)))
            case ast.BoolOp(op=op, values=values):
                parts = [self._compile_as("condition", value) for value in values]
                return _fold(
                    "condition", np.logical_and if isinstance(op, ast.And) else np.logical_or, parts
                )
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                parts = [self._compile_as("number", side) for side in (left, right)]
                return _fold("number", _ARITHMETIC[type(op)], parts)
            case ast.Compare(left=left, ops=ops, comparators=right):
                pairs = zip([left, *right[:-1]], ops, right, strict=True)
                return _fold(
                    "condition", np.logical_and, [self._comparison(*pair) for pair in pairs]
                )
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
                return self._call(node, name, args)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if (
                name in self._functions
            ):
                return self._text_call(node, name, args)
            case ast.Call():
                known = ", ".join([*_FUNCTIONS, *self._functions])
                raise self._at(node, f"only {known} can be called")
        raise self._at(node, f"{_describe(node)} is not allowed in a condition")

    def _number(self, node: ast.Constant) -> _Expression:
        try:
            number = np.float64(node.value)
        except OverflowError:
            number = np.float64(np.inf)
        if not math.isfinite(number):
            raise self._at(node, "the number is too large")
        return _Expression("number", lambda columns: number)

    def _name(self, node: ast.expr, name: str) -> _Expression:
        if name in self._constants:
            number = np.float64(self._constants[name])
            return _Expression("number", lambda columns: number)
        if name not in self._names:
            known = [*self._names, *self._constants]
            close = get_close_matches(name, known, 1)
            raise self._at(node, f"unknown name {name}" + (f"; {close[0]}?" if close else ""))
        self.seen.setdefault(name)
        return _Expression(self._names[name], lambda columns: columns[name])

    def _comparison(
        self, left: ast.expr, op: ast.cmpop, right: ast.expr
    ) -> Callable[[Columns], Any]:
        if isinstance(op, ast.In | ast.NotIn):
            return self._membership(left, right, isinstance(op, ast.NotIn))
        if type(op) in _ORDER:
            compare = _ORDER[type(op)]
            first, second = (self._compile_as("number", side) for side in (left, right))
        elif type(op) in _EQUALITY:
            compare = _EQUALITY[type(op)]
            kind, first = self.compile(left)
            if kind == "condition":
                raise self._at(left, "a condition cannot be compared; use and, or, not")
            second = self._compile_as(kind, right)
        else:
            raise self._at(left, "`is` is not allowed in a condition; use ==")
        return lambda columns: compare(first(columns), second(columns))

    def _membership(
        self, left: ast.expr, right: ast.expr, negated: bool
    ) -> Callable[[Columns], Any]:
        kind, value = self.compile(left)
        if not isinstance(right, ast.List | ast.Tuple) or not right.elts:
            raise self._at(right, 'after `in` must come a list such as ["login", "coupon"]')
        for member in right.elts:
            if not isinstance(member, ast.Constant):
                raise self._at(member, "a list may only have constants")
        members = [self._compile_as(kind, member) for member in right.elts]

        def is_member(columns: Columns) -> Any:
            values = value(columns)
            return reduce(np.logical_or, [values == member(columns) for member in members])

        return (lambda columns: np.logical_not(is_member(columns))) if negated else is_member

    def _call(self, node: ast.Call, name: str, args: Sequence[ast.expr]) -> _Expression:
        function, min_args, max_args = _FUNCTIONS[name]
        if len(args) < min_args or (max_args is not None and len(args) > max_args):
            expected = "one number" if max_args == 1 else f"{min_args} numbers or more"
            raise self._at(node, f"{name} takes {expected}, not {len(args)}")
        values = [self._compile_as("number", arg) for arg in args]
        if max_args == 1:
            return _Expression("number", lambda columns: function(values[0](columns)))
        return _fold("number", function, values)

    def _text_call(self, node: ast.Call, name: str, args: Sequence[ast.expr]) -> _Expression:
        match args:
            case [ast.Constant(value=str() as argument)]:
                call = TextCall(name, argument)
                self.calls.setdefault(call)
                return _Expression(self._functions[name], lambda columns: columns[call])
        raise self._at(node, f'{name} takes one quoted text, such as {name}("X")')

    def _compile_as(self, expected: ValueKind, node: ast.expr) -> Callable[[Columns], Any]:
        kind, evaluate = self.compile(node)
        if kind != expected:
            raise self._at(node, f"`{ast.unparse(node)}` is a {kind}, expected a {expected}")
        return evaluate

    def _at(self, node: ast.expr, reason: str) -> ConditionError:
        # `col_offset` counts bytes of UTF-8.
        before = self._line.encode()[: node.col_offset].decode()
        return self._error(len(before), reason)

    def _error(self, position: int, reason: str) -> ConditionError:
        return ConditionError(self._indent + position, reason)


def _fold(
    kind: ValueKind, function: Callable[[Any, Any], Any], parts: Sequence[Callable[[Columns], Any]]
) -> _Expression:
    """Folds the parts from the left: f(f(a, b), c) ...; a single part stays as it is."""
    if len(parts) == 1:
        return _Expression(kind, parts[0])
    if len(parts) == 2:
        first, second = parts
        return _Expression(kind, lambda columns: function(first(columns), second(columns)))
    return _Expression(kind, lambda columns: reduce(function, [part(columns) for part in parts]))


def _describe(node: ast.expr) -> str:
    return f"`{ast.unparse(node)}`" if len(ast.unparse(node)) <= 40 else type(node).__name__
