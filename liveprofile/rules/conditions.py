"""Conditions of risk rules: a subset of Python's expressions, validated before use.

    user_purchases_10m >= threshold and user_amount_10m <= 5 * user_purchases_10m

A condition may use numbers and quoted texts; names; + - * /; < <= > >= == != (also chained, as in
1 < x < 3); `in` with a list of constants; and, or, not; abs(x), min(x, y, ...), max(x, y, ...).
A caller may add functions of one quoted text, such as interest("CHEESE").
Numbers follow IEEE 754, so evaluation never fails: an unknown value is NaN, and every comparison
with NaN but != is false.

A caller may also allow attribute("name"): a number, a text or a condition, whatever its place
needs. If the value is missing or of another kind, the comparison around it is unknown, as with NULL
in SQL: so is its `not`, and a condition that is unknown as a whole is false.

Python's parser (the module `ast`) reads the text and gives the position of each part. One walk over
the tree determines the kind of each part, rejects unsupported parts, and compiles the tree into
numpy operations: a condition takes the same few microseconds for one row as for a thousand. Python
never executes the text.
"""

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
FunctionKind = ValueKind | Literal["attribute"]  # attribute: of the kind that its place needs

MAX_CHARS = 1_000
AttributeValue = bool | int | float | str
ATTRIBUTE = "attribute"  # the function that reads attributes
_MISSING = np.array([None], object)  # the column of an attribute that nobody has

_ARITHMETIC = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
}
_ORDER = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
_EQUALITY = {ast.Eq: operator.eq, ast.NotEq: operator.ne}
FUNCTIONS = {"abs": (np.abs, 1, 1), "min": (np.minimum, 2, None), "max": (np.maximum, 2, None)}


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
    attributes: Mapping[str, ValueKind]  # those that it reads, with the kind that it needs
    evaluate: Callable[[Columns], Any]

    def __call__(self, columns: Columns, rows: int) -> np.ndarray:
        """(rows,) bool.

        columns: (rows,) for each of `names` and `calls`: texts as numpy's str, attributes as
        objects, which are a bool, a number, a text, or None if the value is missing. An attribute
        without a column is missing everywhere.
        """
        with np.errstate(all="ignore"):
            return np.broadcast_to(np.asarray(self.evaluate(columns), bool), (rows,))


def parse_condition(
    text: str,
    names: Mapping[str, ValueKind],
    constants: Mapping[str, float],
    functions: Mapping[str, FunctionKind] = MappingProxyType({}),
) -> Condition:
    """Parses, validates and compiles a condition.

    names: the names that it may read, with their kinds; constants: names with a fixed number;
    functions: functions of one text, with the kinds of their values. Raises ConditionError.
    """
    if len(text) > MAX_CHARS:
        raise ConditionError(MAX_CHARS, f"longer than {MAX_CHARS} characters")
    parser = _Parser(text, names, constants, functions)
    try:
        node = parser.parse()
        kind, evaluate = parser.compile(node)
        if kind == "attribute":  # one that stands alone must be a condition
            kind, evaluate = "condition", parser.compile_as("condition", node)
    except RecursionError:
        raise ConditionError(0, "nested too deeply") from None
    if kind != "condition":
        raise ConditionError(0, f"is a {kind}, not a condition: compare it with something")
    return Condition(text, tuple(parser.seen), tuple(parser.calls), parser.attributes, evaluate)


class _Expression(NamedTuple):
    kind: FunctionKind
    evaluate: Callable[[Columns], Any]


class _Parser:
    """Parses one condition and compiles it into numpy operations."""

    def __init__(
        self,
        text: str,
        names: Mapping[str, ValueKind],
        constants: Mapping[str, float],
        functions: Mapping[str, FunctionKind],
    ):
        self._names, self._constants, self._functions = names, constants, functions
        self.seen: dict[str, None] = {}
        self.calls: dict[TextCall, None] = {}
        self.attributes: dict[str, ValueKind] = {}
        # Of the comparison being compiled: where each attribute that it reads is known.
        self._read: list[Callable[[Columns], Any]] = []
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
            if not error.offset:  # Python's parser expected more at the end
                raise self._error(len(self._line), "ends too early") from None
            position = min(error.offset - 1, len(self._line))
            raise self._error(position, error.msg) from None
        except MemoryError:
            raise ConditionError(0, "nested too deeply") from None

    def compile(self, node: ast.expr, negated: bool = False) -> _Expression:
        """Compiles a part. negated: its opposite, if it is a condition.

        `not` is carried inwards, to the comparisons: where all of them that are unknown count as
        false, the whole is true if and only if it is true in Kleene's three-valued logic.
        """
        match node:
            case ast.Constant(value=bool()):
                raise self._at(node, "True and False are not allowed in a condition")
            case ast.Constant(value=int() | float()):
                return self._number(node)
            case ast.Constant(value=str() as text):
                return _Expression("text", lambda columns: text)
            case ast.Name(id=name):
                return _negated_if(negated, self._name(node, name))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = self.compile_as("number", operand)
                return _Expression("number", lambda columns: np.negative(value(columns)))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _Expression("condition", self.compile_as("condition", operand, not negated))
            case ast.BoolOp(op=op, values=values):
                parts = [self.compile_as("condition", value, negated) for value in values]
                is_and = isinstance(op, ast.And) is not negated
                return _fold("condition", np.logical_and if is_and else np.logical_or, parts)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                parts = [self.compile_as("number", side) for side in (left, right)]
                return _fold("number", _ARITHMETIC[type(op)], parts)
            case ast.Compare(left=left, ops=ops, comparators=right):
                pairs = zip([left, *right[:-1]], ops, right, strict=True)
                parts = [self._comparison(*pair, negated) for pair in pairs]
                return _fold("condition", np.logical_or if negated else np.logical_and, parts)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
                return self._call(node, name, args)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if (
                name in self._functions
            ):
                return _negated_if(negated, self._text_call(node, name, args))
            case ast.Call():
                known = ", ".join([*FUNCTIONS, *self._functions])
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
        self, left: ast.expr, op: ast.cmpop, right: ast.expr, negated: bool
    ) -> Callable[[Columns], Any]:
        self._read = []
        if isinstance(op, ast.In | ast.NotIn):
            holds = self._membership(left, right)
            negated = negated is not isinstance(op, ast.NotIn)
        else:
            holds = self._comparison_of_two(left, op, right)
        known = self._read

        def atom(columns: Columns) -> Any:
            true = np.logical_not(holds(columns)) if negated else holds(columns)
            return reduce(np.logical_and, [each(columns) for each in known], true)

        return atom

    def _comparison_of_two(
        self, left: ast.expr, op: ast.cmpop, right: ast.expr
    ) -> Callable[[Columns], Any]:
        if type(op) in _ORDER:
            compare = _ORDER[type(op)]
            first, second = (self.compile_as("number", side) for side in (left, right))
        elif type(op) in _EQUALITY:
            compare = _EQUALITY[type(op)]
            kind = self.compile(left).kind
            if kind == "attribute":  # as what it is compared with
                kind = self.compile(right).kind
            if kind == "attribute":
                raise self._at(left, "two attributes cannot be compared by ==; use <= and >=")
            if kind == "condition":
                raise self._at(left, "a condition cannot be compared; use and, or, not")
            first, second = (self.compile_as(kind, side) for side in (left, right))
        else:
            raise self._at(left, "`is` is not allowed in a condition; use ==")
        return lambda columns: compare(first(columns), second(columns))

    def _membership(self, left: ast.expr, right: ast.expr) -> Callable[[Columns], Any]:
        kind = self.compile(left).kind
        if not isinstance(right, ast.List | ast.Tuple) or not right.elts:
            raise self._at(right, 'after `in` must come a list such as ["login", "coupon"]')
        for member in right.elts:
            if not isinstance(member, ast.Constant):
                raise self._at(member, "a list may only have constants")
        if kind == "attribute":
            kind = self.compile(right.elts[0]).kind
        value = self.compile_as(kind, left)
        members = [self.compile_as(kind, member) for member in right.elts]

        def is_member(columns: Columns) -> Any:
            values = value(columns)
            return reduce(np.logical_or, [values == member(columns) for member in members])

        return is_member

    def _call(self, node: ast.Call, name: str, args: Sequence[ast.expr]) -> _Expression:
        function, min_args, max_args = FUNCTIONS[name]
        if len(args) < min_args or (max_args is not None and len(args) > max_args):
            expected = "one number" if max_args == 1 else f"{min_args} numbers or more"
            raise self._at(node, f"{name} takes {expected}, not {len(args)}")
        values = [self.compile_as("number", arg) for arg in args]
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

    def compile_as(
        self, expected: ValueKind, node: ast.expr, negated: bool = False
    ) -> Callable[[Columns], Any]:
        kind, evaluate = self.compile(node, negated)
        if kind == "attribute":
            return self._typed_attribute(node, expected, negated)
        if kind != expected:
            raise self._at(node, f"`{ast.unparse(node)}` is a {kind}, expected a {expected}")
        return evaluate

    def _typed_attribute(
        self, node: ast.expr, kind: ValueKind, negated: bool
    ) -> Callable[[Columns], Any]:
        """An attribute as a value of this kind; as a condition, false where it is unknown."""
        call = TextCall(ATTRIBUTE, node.args[0].value)
        other = self.attributes.setdefault(call.argument, kind)
        if other != kind:
            raise self._at(node, f"{call} is a {kind} here and a {other} before")

        def typed(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
            return _typed_column(columns.get(call, _MISSING), kind)

        if kind == "condition":

            def holds(columns: Columns) -> Any:
                values, known = typed(columns)
                return np.logical_and(np.logical_not(values) if negated else values, known)

            return holds
        self._read.append(lambda columns: typed(columns)[1])
        return lambda columns: typed(columns)[0]

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
    return _Expression(kind, lambda columns: reduce(function, [part(columns) for part in parts]))


def _negated_if(negated: bool, value: _Expression) -> _Expression:
    if not negated or value.kind != "condition":
        return value
    return _Expression("condition", lambda columns: np.logical_not(value.evaluate(columns)))


def _describe(node: ast.expr) -> str:
    return f"`{ast.unparse(node)}`" if len(ast.unparse(node)) <= 40 else type(node).__name__


def attribute_column(name: str, users: Sequence[Mapping[str, AttributeValue | None]]) -> np.ndarray:
    """(n,) objects: the attribute of each user, None if it is missing."""
    column = np.empty(len(users), object)
    column[:] = [values.get(name) for values in users]
    return column


def _typed_column(column: np.ndarray, kind: ValueKind) -> tuple[np.ndarray, np.ndarray]:
    """(n,) an attribute as one kind of value, and (n,) where it is present and of this kind."""
    values = column.tolist()
    if kind == "number":
        numbers = [float(each) if type(each) in (int, float) else np.nan for each in values]
        return np.array(numbers, np.float64), ~np.isnan(numbers)
    known = np.array([type(each) is (str if kind == "text" else bool) for each in values], bool)
    return column if kind == "text" else np.array([each is True for each in values], bool), known


def plain_value(value: np.generic | AttributeValue) -> AttributeValue:
    """Converts to a Python value; whole numbers become int, as messages show counts.

    Beyond 2^53 not every integer is a float, and beyond 64 bits it is no JSON integer for orjson.
    """
    if isinstance(value, bool | str | np.bool_):
        return str(value) if isinstance(value, str) else bool(value)
    number = float(value)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number
