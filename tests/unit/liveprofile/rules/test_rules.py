"""Risk rules: validation of files, signatures, evaluation of the shipped ones, and flags."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.features import window_features
from liveprofile.rules import flag_policy
from liveprofile.rules.rules import Rule, RulesError, read_rules
from liveprofile.rules.signing import DefinitionSigner, SignatureError
from tests.support.paths import ROOT
from tests.support.rows.rule_examples import RULES_TOML, SHIPPED_RULES, event_columns, rule
from udfs.profile.inputs import FEATURES


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
SIGNER = DefinitionSigner(KEY, "risk-rules")


def as_read(headers: dict[str, str]) -> dict[str, bytes]:
    return {name: value.encode() for name, value in headers.items()}


@pytest.mark.parametrize("value", [b'{"id":"a"}', b"", None])
def test_signed_record_gives_its_signing_time(value: bytes | None) -> None:
    headers = as_read(SIGNER.headers(b"a", value, 1_700_000_000_000))
    assert SIGNER.verify(b"a", value, headers) == 1_700_000_000_000


@pytest.mark.parametrize(
    ("signer", "rule_id", "value", "changed"),
    [
        (DefinitionSigner("o" * 32, "risk-rules"), b"a", b"1", {}),
        (DefinitionSigner(KEY, "other-rules"), b"a", b"1", {}),
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
    signer: DefinitionSigner, rule_id: bytes, value: bytes | None, changed: dict[str, bytes]
) -> None:
    headers = as_read(SIGNER.headers(b"a", b"1", 5))
    with pytest.raises(SignatureError, match="the signature is wrong"):
        signer.verify(rule_id, value, headers | changed)


EVENTS = {rule.id: rule for rule in SHIPPED_RULES.evaluated("event")}
PAST = dict.fromkeys(FEATURES, 0.0) | {"windows": 3.0, "purchase_windows": 5.0}
COUNTS = PAST | {"purchase_count_mean": 1.0, "purchase_count_std": 0.5}
AMOUNTS = PAST | {"purchase_amount_mean": 20.0, "purchase_amount_std": 1.0}
QUIET = {"events": 2, "purchases": 0, "amount": 0.0, "surprise": 0.0}


@pytest.mark.parametrize(
    ("rule_id", "past", "now", "but", "value", "message"),
    [
        ("purchase_frequency", COUNTS, {"purchases": 5}, {"purchases": 4}, 4.0,
         "5 purchases in this window; usually 1.0 ± 0.5"),
        ("purchase_frequency", PAST, {"purchases": 4}, {"purchase_windows": 4.0}, 4.0,
         "4 purchases in this window; usually 0.0 ± 0.0"),
        ("purchase_amount", AMOUNTS, {"purchases": 1, "amount": 28.0}, {"amount": 27.9}, 4.0,
         "28.00 spent in this window; usually 20.00 ± 1.00"),
        ("purchase_amount", AMOUNTS | {"purchase_amount_std": 5.0},
         {"purchases": 1, "amount": 40.0}, {"purchases": 0}, 4.0,
         "40.00 spent in this window; usually 20.00 ± 5.00"),
        ("purchase_amount", PAST, {"purchases": 1, "amount": 4.0}, {"purchase_windows": 4.0}, 4.0,
         "4.00 spent in this window; usually 0.00 ± 0.00"),
        *(("behaviour_surprise", PAST, {"events": 3, "surprise": 7.5}, but, 7.5,
           "3 events in this window that do not fit this user's past:"
           " surprise 7.5, flagged from 7.5")
          for but in ({"events": 2}, {"surprise": 7.4}, {"windows": 2.0})),
    ],
)  # fmt: skip
def test_shipped_window_rule_is_true_only_above_its_limits(
    rule_id: str,
    past: dict[str, float],
    now: dict[str, float],
    but: dict[str, float],
    value: float,
    message: str,
) -> None:
    cases = [past | QUIET | now, past | QUIET | now | but]
    before, current = (
        {name: np.array([case[name] for case in cases], float) for name in names}
        for names in (FEATURES, QUIET)
    )
    columns = window_features.window_features(before, current)
    assert columns.keys() == window_features.WINDOW_FEATURES.keys()
    rules = SHIPPED_RULES.evaluated("window")
    [match], below = flag_policy.evaluate_rules(rules, columns, 2)
    flag = flag_policy.build_flag(match, "u", 300_000, "1")
    assert (flag.rule_id, flag.value, flag.message) == (rule_id, value, message)
    assert below == []


def true(rule_id: str, **known: Any) -> bool:
    columns = event_columns(**{name: [value] for name, value in known.items()})
    return bool(flag_policy.evaluate_rules([EVENTS[rule_id]], columns, 1)[0])


CARD_TEST = {"user_purchases_10m": 5, "user_amount_10m": 20, "device_list_days": 0.5}


@pytest.mark.parametrize(
    ("rule_id", "known", "but"),
    [
        ("card_testing", CARD_TEST, {"user_amount_10m": 21}),
        ("card_testing", CARD_TEST, {"event_type": "login"}),
        ("account_takeover",
         {"device_list_days": 0, "user_new_address": 1, "user_earlier_purchases": 5,
          "user_amount_ratio": 2, "user_usual_amount": 10, "amount": 20},
         {"user_new_address": 0}),
        ("device_many_users", {"device_users_1d": 8}, {"device_users_1d": 7}),
        ("coupon_ring",
         {"coupon_users_1d": 5, "device_users_7d": 8}, {"device_users_7d": math.nan}),
        ("device_known_fraud", {"device_frauds_30d": 1}, {"device_frauds_30d": 0}),
        ("shop_known_fraud", {"shop_frauds_7d": 2, "shop_fraud_rate_7d": 0.05},
         {"shop_frauds_7d": 1}),
        ("fraud_score", {"score": 0.9}, {"score": 0.89}),
    ],
)  # fmt: skip
def test_shipped_event_rule_is_true_only_above_its_limits(
    rule_id: str, known: dict[str, Any], but: dict[str, Any]
) -> None:
    assert true(rule_id, **known)
    assert not true(rule_id, **known | but)


def test_rule_with_unknown_value_is_false() -> None:
    columns = event_columns(amount=[5.0], score=[math.nan])
    assert flag_policy.evaluate_rules([rule(value="score")], columns, 1) == [[]]
    [[match]] = flag_policy.evaluate_rules([rule(usual="score")], columns, 1)
    assert flag_policy.reason_entry(match)["usual"] is None


def test_event_flag_has_id_evidence_and_state() -> None:
    seen = rule(
        when='event_type == "login" or amount > 3',
        version=4,
        state="SHADOW",
        usual="score",
        message="{event_type} of {amount:.2f}, {usual:.0%}",
    )
    [[match]] = flag_policy.evaluate_rules([seen], event_columns(amount=[5.25], score=[0.5]), 1)
    flag = flag_policy.build_flag(match, "u", 99, "9", "e1")
    assert flag.flag_id == hashlib.sha256(b"u\x1fmany\x1fe1").hexdigest()[:32]
    assert flag.evidence == {
        "value": 5.25,
        "usual": 0.5,
        "threshold": 3.0,
        "event_type": "purchase",
        "amount": 5.25,
    }
    assert flag.message == flag.reasons[0]["sentence"] == "purchase of 5.25, 50%"
    assert (flag.event_id, flag.rule_version, flag.rule_state) == ("e1", 4, "SHADOW")
