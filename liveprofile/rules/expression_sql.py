"""Flink SQL of expressions: the language of `liveprofile.rules.conditions`.

The text has passed `parse_condition`. An unknown number is NULL or NaN. As in numpy, a comparison
with an unknown value is false, and != is true.
"""

import ast
from collections.abc import Mapping

_OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/",
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "=", ast.NotEq: "<>",
    ast.And: " AND ", ast.Or: " OR ",
}  # fmt: skip
_FUNCTIONS = {"abs": "ABS", "min": "LEAST", "max": "GREATEST"}


def expression_sql(text: str, names: Mapping[str, str]) -> str:
    """SQL of a condition, which is never NULL, or of a number. names: SQL of those not columns."""
    line = text.replace("\r", " ").replace("\n", " ").strip()
    tree = ast.parse(line, mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
    return _sql(tree.body)


def _sql(node: ast.AST) -> str:
    match node:
        case ast.Constant(value=str() as text):
            return "'" + text.replace("'", "''") + "'"
        case ast.Constant(value=int() | float() as number):
            return f"{float(number):.17e}"
        case ast.Name(id=name):
            return name
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return f"(- {_sql(operand)})"
        case ast.UnaryOp(operand=operand):
            return f"(NOT {_sql(operand)})"
        case ast.BoolOp(op=op, values=values):
            return f"({_OPERATORS[type(op)].join(map(_sql, values))})"
        case ast.BinOp(left=left, op=op, right=right):
            return f"({_sql(left)} {_OPERATORS[type(op)]} {_sql(right)})"
        case ast.Compare(left=left, ops=ops, comparators=right):
            pairs = zip([left, *right[:-1]], ops, right, strict=True)
            return f"({' AND '.join(_comparison(*pair) for pair in pairs)})"
        case ast.Call(func=ast.Name(id=name), args=args):
            return f"{_FUNCTIONS[name]}({', '.join(map(_sql, args))})"
    raise NotImplementedError(f"{type(node).__name__} of a condition has no SQL")


def _comparison(left: ast.AST, op: ast.AST, right: ast.AST) -> str:
    if isinstance(right, ast.List | ast.Tuple):
        equal = " OR ".join(_comparison(left, ast.Eq(), each) for each in right.elts)
        return f"({equal})" if isinstance(op, ast.In) else f"(NOT ({equal}))"
    unknown = "TRUE" if isinstance(op, ast.NotEq) else "FALSE"
    return f"COALESCE({_sql(left)} {_OPERATORS[type(op)]} {_sql(right)}, {unknown})"
