"""Conditions of risk rules: a small part of Python's expressions, checked whole before any use.

    user_purchases_10m >= threshold and user_amount_10m <= 5 * user_purchases_10m

Numbers and texts in quotes; names; + - * /; < <= > >= == != (also chained, as in 1 < x < 3); `in` a
list of constants; and, or, not; abs(x), min(x, y, ...), max(x, y, ...). Numbers follow IEEE 754, so
no value makes a condition fail: what is unknown is NaN, and compares false (but with !=).

Python's own parser (the standard library's `ast`) reads the text and gives every part its place.
One walk over the tree then gives each part a kind, refuses what doesn't fit, and turns it into
numpy operations, so a condition costs the same few microseconds for one row as for a thousand.
Nothing is ever handed to Python to execute.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import reduce
from typing import Any, Literal, NamedTuple

import numpy as np

Kind = Literal["number", "text", "condition"]
Columns = Mapping[str, np.ndarray]

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


class ConditionError(ValueError):
    """What is wrong with a condition, and where: `position` counts characters from 0."""

    def __init__(self, position: int, reason: str):
        super().__init__(reason)
        self.position, self.reason = position, reason


class Condition(NamedTuple):
    """A checked condition. `names`: those it reads, in the order of their first use."""

    text: str
    names: tuple[str, ...]
    evaluate: Callable[[Columns], Any]

    def __call__(self, columns: Columns, rows: int) -> np.ndarray:
        """(rows,) bool. columns: `names` at least, (rows,) each; texts as numpy's str."""
        with np.errstate(all="ignore"):
            return np.broadcast_to(np.asarray(self.evaluate(columns), bool), (rows,))


def read_condition(
    text: str, names: Mapping[str, Kind], constants: Mapping[str, float]
) -> Condition:
    """Checks a condition and makes it ready.

    names: what may be read, with kinds; constants: names with a fixed number.
    Raises ConditionError.
    """
    if len(text) > MAX_CHARS:
        raise ConditionError(MAX_CHARS, f"longer than {MAX_CHARS} characters")
    reader = _Reader(text, names, constants)
    try:
        kind, evaluate = reader.part(reader.parse())
    except RecursionError:
        raise ConditionError(0, "nested too deeply") from None
    if kind != "condition":
        raise ConditionError(0, f"is a {kind}, not a condition: compare it with something")
    return Condition(text, tuple(reader.seen), evaluate)


class _Part(NamedTuple):
    kind: Kind
    evaluate: Callable[[Columns], Any]


class _Reader:
    """One condition on its way from text to numpy operations."""

    def __init__(self, text: str, names: Mapping[str, Kind], constants: Mapping[str, float]):
        self._names, self._constants = names, constants
        self.seen: dict[str, None] = {}
        # Python ends an expression at the end of a line; ours may go on.
        self._indent = len(text) - len(text.lstrip())
        self._line = text.replace("\r", " ").replace("\n", " ").strip()

    def parse(self) -> ast.expr:
        if not self._line:
            raise ConditionError(0, "is empty")
        for character in "#\0":  # Python's parser would ignore what stands behind
            if character in self._line:
                place = self._line.index(character)
                raise self._error(place, f"{character!r} is no part of a condition")
        try:
            return ast.parse(self._line, mode="eval").body
        except SyntaxError as error:
            raise self._syntax_error(error) from None
        except MemoryError:
            raise ConditionError(0, "nested too deeply") from None

    def _syntax_error(self, error: SyntaxError) -> ConditionError:
        if not error.offset:  # Python's parser came to the end and wanted more
            return self._error(len(self._line), "ends too early")
        return self._error(min(error.offset - 1, len(self._line)), error.msg)

    def part(self, node: ast.expr) -> _Part:
        match node:
            case ast.Constant(value=bool()):
                raise self._at(node, "True and False are no part of a condition")
            case ast.Constant(value=int() | float()):
                return self._number(node)
            case ast.Constant(value=str() as text):
                return _Part("text", lambda columns: text)
            case ast.Name(id=name):
                return self._name(node, name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = self._of_kind("number", operand)
                return _Part("number", lambda columns: np.negative(value(columns)))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                holds = self._of_kind("condition", operand)
                return _Part("condition", lambda columns: np.logical_not(holds(columns)))
            case ast.BoolOp(op=op, values=values):
                parts = [self._of_kind("condition", value) for value in values]
                return _folded(
                    "condition", np.logical_and if isinstance(op, ast.And) else np.logical_or, parts
                )
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                parts = [self._of_kind("number", side) for side in (left, right)]
                return _folded("number", _ARITHMETIC[type(op)], parts)
            case ast.Compare(left=left, ops=ops, comparators=right):
                pairs = zip([left, *right[:-1]], ops, right, strict=True)
                return _folded(
                    "condition", np.logical_and, [self._comparison(*pair) for pair in pairs]
                )
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
                return self._call(node, name, args)
            case ast.Call():
                raise self._at(node, f"only {', '.join(_FUNCTIONS)} can be called")
        raise self._at(node, f"{_in_words(node)} is no part of a condition")

    def _number(self, node: ast.Constant) -> _Part:
        try:
            number = np.float64(node.value)
        except OverflowError:
            number = np.float64(np.inf)
        if not math.isfinite(number):
            raise self._at(node, "a number too large")
        return _Part("number", lambda columns: number)

    def _name(self, node: ast.expr, name: str) -> _Part:
        if name in self._constants:
            number = np.float64(self._constants[name])
            return _Part("number", lambda columns: number)
        if name not in self._names:
            known = [*self._names, *self._constants]
            close = get_close_matches(name, known, 1)
            raise self._at(node, f"unknown name {name}" + (f"; {close[0]}?" if close else ""))
        self.seen.setdefault(name)
        return _Part(self._names[name], lambda columns: columns[name])

    def _comparison(
        self, left: ast.expr, op: ast.cmpop, right: ast.expr
    ) -> Callable[[Columns], Any]:
        if isinstance(op, ast.In | ast.NotIn):
            return self._membership(left, right, isinstance(op, ast.NotIn))
        if type(op) in _ORDER:
            compare = _ORDER[type(op)]
            first, second = (self._of_kind("number", side) for side in (left, right))
        elif type(op) in _EQUALITY:
            compare = _EQUALITY[type(op)]
            kind, first = self.part(left)
            if kind == "condition":
                raise self._at(left, "a condition can't be compared; use and, or, not")
            second = self._of_kind(kind, right)
        else:
            raise self._at(left, "`is` is no part of a condition; use ==")
        return lambda columns: compare(first(columns), second(columns))

    def _membership(
        self, left: ast.expr, right: ast.expr, negated: bool
    ) -> Callable[[Columns], Any]:
        kind, value = self.part(left)
        if not isinstance(right, ast.List | ast.Tuple) or not right.elts:
            raise self._at(right, 'behind `in` comes a list such as ["login", "coupon"]')
        for member in right.elts:
            if not isinstance(member, ast.Constant):
                raise self._at(member, "a list holds constants only")
        members = [self._of_kind(kind, member) for member in right.elts]

        def among(columns: Columns) -> Any:
            found = value(columns)
            return reduce(np.logical_or, [found == member(columns) for member in members])

        return (lambda columns: np.logical_not(among(columns))) if negated else among

    def _call(self, node: ast.Call, name: str, args: Sequence[ast.expr]) -> _Part:
        function, least, most = _FUNCTIONS[name]
        if len(args) < least or (most is not None and len(args) > most):
            wanted = "one number" if most == 1 else f"{least} numbers or more"
            raise self._at(node, f"{name} takes {wanted}, not {len(args)}")
        values = [self._of_kind("number", arg) for arg in args]
        if most == 1:
            return _Part("number", lambda columns: function(values[0](columns)))
        return _folded("number", function, values)

    def _of_kind(self, wanted: Kind, node: ast.expr) -> Callable[[Columns], Any]:
        kind, evaluate = self.part(node)
        if kind != wanted:
            raise self._at(node, f"`{ast.unparse(node)}` is a {kind} where a {wanted} must stand")
        return evaluate

    def _at(self, node: ast.expr, reason: str) -> ConditionError:
        # Python counts bytes of UTF-8.
        before = self._line.encode()[: node.col_offset].decode()
        return self._error(len(before), reason)

    def _error(self, position: int, reason: str) -> ConditionError:
        return ConditionError(self._indent + position, reason)


def _folded(
    kind: Kind, function: Callable[[Any, Any], Any], parts: Sequence[Callable[[Columns], Any]]
) -> _Part:
    """f(f(a, b), c) ..., and a alone."""
    if len(parts) == 1:
        return _Part(kind, parts[0])
    if len(parts) == 2:
        first, second = parts
        return _Part(kind, lambda columns: function(first(columns), second(columns)))
    return _Part(kind, lambda columns: reduce(function, [part(columns) for part in parts]))


def _in_words(node: ast.expr) -> str:
    return f"`{ast.unparse(node)}`" if len(ast.unparse(node)) <= 40 else type(node).__name__
