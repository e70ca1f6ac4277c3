"""Risk rules: validation of files and records."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.features import window_features
from liveprofile.rules.definitions import RuleSigner, SignatureError
from liveprofile.rules.rules import (
    Rule,
    RulesError,
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
        ("threshold = 3", 'threshold = 3\nusual = "score"', 9,
         "rule many: usual: unknown name score"),
        ("cool_down_hours = 2", 'cool_down_hours = 2\ntypes = ["login"]', 13,
         "rule many: types: is for scope event"),
        ("{value}", "{n}", 13,
         "rule many: message: unknown name {n}; it may use purchases, threshold, value"),
        ("{value}", "{value:99999}", 13, "rule many: message: {value} has an invalid format"),
        ("{value}", "{value", 13, "rule many: message: expected '}' before end of string"),
        ('id = "many"', 'id = "Many"', 4, "rule Many: id: String should match pattern"),
        ('version = "1"', "", None, "version: Field required"),
        ('version = "1"', 'version = "1"\nrule = 3', None, "rule: Extra inputs"),
        ("[[rules]]", "[[rule]]", None, "rules: must be tables [[rules]]"),
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
    broken = RULES_TOML.replace("[[rules]]", "[[rules]]\ntypo = 1")
    first = RULES_TOML.replace("purchases >=", "purchase >=")
    file.write_text(first + broken.partition("\n")[2])
    with pytest.raises(RulesError) as error:
        read_rules(file)
    assert [(found.line, found.key) for found in error.value.problems] == [
        (6, "when"),
        (16, "typo"),
    ]
    assert "(and 1 more:" in str(error.value)


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
        (SIGNER, b"", b"a1", {}),
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
