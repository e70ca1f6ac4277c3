"""Risk rules: validation of files and records."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.features import window_features
from liveprofile.rules.conditions import MAX_CHARS, ConditionError, parse_condition
from liveprofile.rules.definitions import RuleSigner, SignatureError
from liveprofile.rules.rules import (
    Rule,
    RulesError,
    RuleSet,
    read_rule,
    read_rules,
)
from tests.support.paths import ROOT
from tests.support.rows.rule_examples import RULES_TOML, rule


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("purchases >= threshold", "purchase >= threshold", 6,
         "rule many: when, column 1: unknown name purchase; purchases?"),
        ('"purchases >= threshold"', '"""\nwindows > 2 and\npurchases"""', 6,
         "rule many: when, line 2, column 1: `purchases` is a number, expected a condition"),
        ("purchases >= threshold", "user_purchases_1h >= threshold", 6,
         "rule many: when, column 1: unknown name user_purchases_1h"),  # the other scope has it
        ('value = "purchases"', 'value = "purchase"', 7, "rule many: value: unknown name purchase"),
        ("threshold = 3", "threshold = nan", 8, "rule many: threshold: Input should be a finite"),
        ("threshold = 3", 'usual = "score"', 3, "rule many: threshold: Field required"),
        ("threshold = 3", 'threshold = 3\nusual = "score"', 9,
         "rule many: usual: unknown name score"),
        ('reason = "MANY"', 'reason = "many"', 9, "rule many: reason: String should match"),
        ('"low"', '"lower"', 10, "rule many: severity: Input should be 'low'"),
        ("cool_down_hours = 2", "cool_down_hours = -2", 12, "rule many: cool_down_hours: Input"),
        ("cool_down_hours = 2", 'cool_down_hours = 2\nstate = "OFF"', 13, "rule many: state: "),
        ("cool_down_hours = 2", 'cool_down_hours = 2\ntypes = ["login"]', 13,
         "rule many: types: is for scope event"),
        ("cool_down_hours = 2", "cool_down_hours = 2\nfeature = 3", 13,
         "rule many: feature: Extra inputs are not permitted"),
        ("{value}", "{n}", 13,
         "rule many: message: unknown name {n}; it may use purchases, threshold, value"),
        ("{value}", "{value.real}", 13, "rule many: message: unknown name {value.real}"),
        ("{value}", "{value:99999}", 13, "rule many: message: {value} has an invalid format"),
        ("{value}", "{value!r}", 13, "rule many: message: {value} has an invalid format"),
        ("{value}", "{value", 13, "rule many: message: expected '}' before end of string"),
        ('id = "many"', 'id = "Many"', 4, "rule Many: id: String should match pattern"),
        ('id = "many"', "", 3, "rule number 1: id: Field required"),
        ('version = "1"', "", None, "version: Field required"),
        ('version = "1"', 'version = "1"\nrule = 3', None, "rule: Extra inputs"),
        ("[[rules]]", "[[rule]]", None, "rules: must be tables [[rules]]"),
        ("[[rules]]", "[rules]", None, "rules: must be tables [[rules]]"),
        ("[[rules]]", "[[rules]", None, "TOML: Expected ']]' at the end of an array declaration"),
    ],
)  # fmt: skip
def test_invalid_file_is_rejected_with_line_and_reason(
    tmp_path: Path, old: str, new: str, line: int | None, reason: str
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(RULES_TOML.replace(old, new, 1))
    with pytest.raises(RulesError) as error:
        read_rules(file)
    where = f"rules file {file}:{line}: " if line else f"rules file {file}: "
    assert str(error.value).startswith(where + reason)


@given(
    st.text("+,.0f2g%ed9x<", max_size=6),
    st.sampled_from([0, 7, -3, 10**15, 2.5, math.nan, math.inf]),
)
def test_accepted_message_format_works_for_every_number(spec: str, number: float) -> None:
    try:
        shown = rule(message=f"{{value:{spec}}}")
    except RulesError:
        assert spec not in ("", ",", ".2f", ",.0f", "+.1f", ".0%", "g")
    else:
        assert len(shown.message.format(value=number)) < 150


def test_error_lists_every_problem(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    broken = RULES_TOML.replace("[[rules]]", "[[rules]]\ntypo = 1").replace(
        "purchases >=", "purchase >="
    )
    file.write_text(RULES_TOML + broken.partition("\n")[2])
    with pytest.raises(RulesError) as error:
        read_rules(file)
    assert [(found.line, found.key) for found in error.value.problems] == [
        (16, "typo"),
        (19, "when"),
    ]
    assert "(and 1 more:" in str(error.value)


def test_repeated_rule_id_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(RULES_TOML + RULES_TOML.partition("\n")[2])
    with pytest.raises(RulesError, match=r":16: rule many: id: another rule has the same id"):
        read_rules(file)


def test_missing_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match=r"none\.toml: file: No such file"):
        read_rules(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{", "record: JSON: "),
        (b"[]", "record: JSON: must be an object"),
        (b"{}", "record: rule ?: id: Field required"),
    ],
)
def test_invalid_record_is_rejected(value: bytes, reason: str) -> None:
    with pytest.raises(RulesError) as error:
        read_rule(value, "record")
    assert str(error.value).startswith(reason)


def test_contract_lists_every_rule_key_and_window_feature() -> None:
    text = (ROOT / "docs/data-contract.md").read_text("utf-8")
    section = text.partition("## 6. ")[2].partition("\n## ")[0]
    listed = {
        name
        for line in section.splitlines()
        if line.startswith("| ")
        for name in line.split(" | ")[0].removeprefix("| ").split(", ")
    }
    headers = {"key", "feature"}
    assert listed - headers == Rule.model_fields.keys() | window_features.WINDOW_FEATURES.keys()


def test_paused_rules_are_not_evaluated() -> None:
    rules = RuleSet(version="1", rules=tuple(rule(state=x) for x in ("ACTIVE", "SHADOW", "PAUSED")))
    assert [found.state for found in rules.evaluated("event")] == ["ACTIVE", "SHADOW"]
    assert rules.evaluated("window") == []


KEY = "k" * 32
SIGNER = RuleSigner(KEY, "risk-rules")


def as_read(headers: dict[str, str]) -> dict[str, bytes]:
    return {name: value.encode() for name, value in headers.items()}


@pytest.mark.parametrize("value", [b'{"id":"a"}', b"", None])
def test_signed_record_gives_its_signing_time(value: bytes | None) -> None:
    headers = as_read(SIGNER.headers(b"a", value, 1_700_000_000_000))
    assert SIGNER.verify(b"a", value, headers) == 1_700_000_000_000


@pytest.mark.parametrize(
    ("signer", "rule_id", "value", "changed"),
    [
        (RuleSigner("o" * 32, "risk-rules"), b"a", b"1", {}),
        (RuleSigner(KEY, "other-rules"), b"a", b"1", {}),
        (SIGNER, b"b", b"1", {}),
        (SIGNER, b"a", b"2", {}),
        (SIGNER, b"a", b"", {}),
        (SIGNER, b"a", None, {}),
        (SIGNER, b"a", b"1", {"signed-ms": b"6"}),
        (SIGNER, b"a", b"1", {"signed-ms": b""}),
        (SIGNER, b"a", b"1", {"signature": b""}),
        (SIGNER, b"a", b"1", {"signature": "ü".encode()}),
    ],
)
def test_change_of_any_part_is_detected(
    signer: RuleSigner, rule_id: bytes, value: bytes | None, changed: dict[str, bytes]
) -> None:
    headers = as_read(SIGNER.headers(b"a", b"1", 5))
    with pytest.raises(SignatureError, match="the signature is wrong"):
        signer.verify(rule_id, value, headers | changed)


def test_bytes_cannot_move_between_key_and_value() -> None:
    headers = as_read(SIGNER.headers(b"ab", b"c", 5))
    with pytest.raises(SignatureError):
        SIGNER.verify(b"a", b"bc", headers)


def test_removal_and_empty_value_have_different_signatures() -> None:
    headers = as_read(SIGNER.headers(b"a", None, 5))
    with pytest.raises(SignatureError):
        SIGNER.verify(b"a", b"", headers)


def test_record_without_signature_is_named_unsigned() -> None:
    with pytest.raises(SignatureError, match="not signed"):
        SIGNER.verify(b"a", b"1", {"signed-ms": b"5"})


NAMES = {"a": "number", "b": "number", "kind": "text"}
CONSTANTS = {"threshold": 4.0}


@pytest.mark.parametrize(
    ("text", "position", "reason"),
    [
        ("", 0, "is empty"),
        ("a >", 3, "ends too early"),
        ("  a > 1 or", 10, "ends too early"),
        ("a > 1 b > 2", 6, "invalid syntax"),
        ("a = 1", 2, "invalid syntax"),
        ("(a > 1", 0, "never closed"),
        ("a > x", 4, "unknown name x"),
        ("a > 1 and\n  treshold > b", 12, "unknown name treshold; threshold?"),
        ('kind == "é" and x > 1', 16, "unknown name x"),
        ('a > "s"', 4, "`'s'` is a text, expected a number"),
        ("kind > 1", 0, "`kind` is a text, expected a number"),
        ("kind == 1", 8, "`1` is a number, expected a text"),
        ('a + kind > 1', 4, "`kind` is a text, expected a number"),
        ("a > 1 and b", 10, "`b` is a number, expected a condition"),
        ("not a", 4, "`a` is a number, expected a condition"),
        ("a + b", 0, "is a number, not a condition"),
        ("kind", 0, "is a text, not a condition"),
        ("(a > 1) == (b > 1)", 1, "a condition cannot be compared"),
        ("1 < (a > 1)", 5, "`a > 1` is a condition, expected a number"),
        ("a is b", 0, "`is` is not allowed"),
        ("a > True", 4, "True and False are not allowed"),
        ("a > 1e999", 4, "the number is too large"),
        ("a > 1j", 4, "`1j` is not allowed"),
        ("a ** 2 > 1", 0, "`a ** 2` is not allowed"),
        ("a > 1 # b > 1", 6, "'#' is not allowed"),
        ("a.real > 1", 0, "`a.real` is not allowed"),
        ("a if b > 1 else b", 0, "is not allowed"),
        ("[a for a in b]", 0, "is not allowed"),
        ("(lambda: 1)() > a", 0, "only abs, min, max can be called"),
        ('__import__("os").system("x") == 0', 0, "only abs, min, max can be called"),
        ("open(a) > 1", 0, "only abs, min, max can be called"),
        ("abs(a, b) > 1", 0, "abs takes one number, not 2"),
        ("max(a) > 1", 0, "max takes 2 numbers or more, not 1"),
        ("max(a, *b) > 1", 7, "is not allowed"),
        ("max(a, b, key=a) > 1", 0, "only abs, min, max can be called"),
        ("a in b", 5, "after `in` must come a list"),
        ("a in []", 5, "after `in` must come a list"),
        ("a in [b]", 6, "a list may only have constants"),
        ('a in ["x"]', 6, "is a text, expected a number"),
        ("a > 1 and b\0", 11, "is not allowed"),
        ("(" * 300 + "a", 200, "too many nested"),
        ("-" * 900 + "a > 1", 0, "nested too deeply"),
        ("a" * (MAX_CHARS + 1), MAX_CHARS, f"longer than {MAX_CHARS} characters"),
    ],
)  # fmt: skip
def test_invalid_condition_is_rejected_with_its_position(
    text: str, position: int, reason: str
) -> None:
    with pytest.raises(ConditionError) as error:
        parse_condition(text, NAMES, CONSTANTS)
    assert reason in error.value.reason
    assert error.value.position == position


def test_condition_lists_the_names_it_reads() -> None:
    text = 'b > threshold and (a > b or kind in ["x", "y"])'
    assert parse_condition(text, NAMES, CONSTANTS).names == ("b", "a", "kind")


def test_condition_without_names_is_evaluated_for_every_row() -> None:
    assert parse_condition("1 < threshold", NAMES, CONSTANTS)({}, 3).tolist() == [True] * 3


def test_nan_compares_false() -> None:
    columns = {"a": np.array([math.nan, 1.0]), "b": np.array([1.0, 1.0])}
    for text, holds in (
        ("a > 0", [False, True]),
        ("a <= 0", [False, False]),
        ("not a > 0", [True, False]),
        ("max(a, b) > 0", [False, True]),
        ("b / 0 > 5", [True, True]),
        ("(b - 1) / 0 > 5", [False, False]),
    ):
        assert parse_condition(text, NAMES, {})(columns, 2).tolist() == holds, text


# --- random conditions against plain Python ----------------------------------------------------

Row = dict[str, Any]
Pair = tuple[str, Callable[[Row], Any]]  # the text, and a function that evaluates it for a row


def _divided(x: float, y: float) -> float:
    """Divides by IEEE 754 rules, where Python raises."""
    if y != 0:
        return x / y
    return math.nan if x == 0 or math.isnan(x) else math.copysign(math.inf, x) * math.copysign(1, y)


def _least(*numbers: float) -> float:
    return math.nan if any(map(math.isnan, numbers)) else min(numbers)


def _greatest(*numbers: float) -> float:
    return math.nan if any(map(math.isnan, numbers)) else max(numbers)


BINARY = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": _divided,
}
ORDER = {
    "<": lambda x, y: x < y,
    "<=": lambda x, y: x <= y,
    ">": lambda x, y: x > y,
    ">=": lambda x, y: x >= y,
    "==": lambda x, y: x == y,
    "!=": lambda x, y: x != y,
}
TEXTS = ("", "x", "é", "two words")


def _both(op: str, function: Callable[..., Any], left: Pair, right: Pair) -> Pair:
    return f"({left[0]} {op} {right[0]})", lambda row: function(left[1](row), right[1](row))


def _call(name: str, function: Callable[..., Any], *args: Pair) -> Pair:
    text = f"{name}({', '.join(arg[0] for arg in args)})"
    return text, lambda row: function(*(arg[1](row) for arg in args))


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


def _constant(number: float) -> Pair:
    return repr(number), lambda row: number


def _named(name: str) -> Pair:
    return name, lambda row: row[name]


operators = st.sampled_from([*BINARY])
numbers = st.recursive(
    st.sampled_from([_named("a"), _named("b"), ("threshold", lambda row: 4.0)])
    | st.floats(0, 1e9).map(_constant),
    lambda inner: st.one_of(
        st.builds(lambda op, x, y: _both(op, BINARY[op], x, y), operators, inner, inner),
        st.builds(lambda x: (f"-{x[0]}", lambda row: -x[1](row)), inner),
        st.builds(lambda x: _call("abs", abs, x), inner),
        st.builds(lambda x, y: _call("min", _least, x, y), inner, inner),
        st.builds(lambda x, y, z: _call("max", _greatest, x, y, z), inner, inner, inner),
    ),
    max_leaves=6,
)
orders = st.sampled_from([*ORDER])
comparisons = st.one_of(
    st.builds(lambda op, x, y: _both(op, ORDER[op], x, y), orders, numbers, numbers),
    st.builds(_chain, numbers, orders, numbers, orders, numbers),
    st.builds(_among, st.lists(st.sampled_from(TEXTS), min_size=1), st.booleans()),
    st.sampled_from(TEXTS).map(lambda x: (f'(kind == "{x}")', lambda row: row["kind"] == x)),
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(lambda x, y: _both("and", lambda p, q: p and q, x, y), inner, inner),
        st.builds(lambda x, y: _both("or", lambda p, q: p or q, x, y), inner, inner),
        st.builds(lambda x: (f"(not {x[0]})", lambda row: not x[1](row)), inner),
    ),
    max_leaves=5,
)
rows = st.fixed_dictionaries(
    {"a": st.floats(), "b": st.sampled_from([0.0, 1.0, 4.0]), "kind": st.sampled_from(TEXTS)}
)


@given(conditions.filter(lambda pair: len(pair[0]) <= MAX_CHARS), st.lists(rows, min_size=1))
def test_condition_on_columns_matches_plain_python_on_each_row(
    pair: Pair, table: list[Row]
) -> None:
    text, holds = pair
    columns = {name: np.array([row[name] for row in table]) for name in NAMES}
    found = parse_condition(text, NAMES, CONSTANTS)(columns, len(table))
    assert found.tolist() == [holds(row) for row in table]
