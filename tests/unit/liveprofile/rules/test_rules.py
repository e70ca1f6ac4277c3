"""Risk rules: what is wrong with them, when they are true, and what they raise."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.features import window as window_features
from liveprofile.rules import flag_policy
from liveprofile.rules.flag_policy import FlagPolicy, RuleEvaluation
from liveprofile.rules.rules import (
    OF_THE_EVENT,
    Rule,
    Rules,
    RulesError,
    names,
    read_rule,
    read_rules,
)
from liveprofile.units import HOUR_MS
from tests.support.memory_sinks import MemoryProfileSink
from tests.support.paths import ROOT
from udfs.profile.assemble import FEATURES
from udfs.profile.sink import FlagHistory

SHIPPED = read_rules(ROOT / "rules.toml")
WINDOWS = {rule.id: rule for rule in SHIPPED.of("window")}
EVENTS = {rule.id: rule for rule in SHIPPED.of("event")}

TEXT = """\
version = "1"

[[rules]]
id = "many"
scope = "window"
when = "purchases >= threshold"
value = "purchases"
threshold = 3
reason = "MANY"
severity = "low"
action = "limit_trading"
cool_down_hours = 2
message = "{value} purchases"
"""


def rule(**changes: Any) -> Rule:
    table = {
        "id": "many", "scope": "event", "when": "amount >= threshold", "value": "amount",
        "threshold": 3, "reason": "MANY", "severity": "low", "action": "limit_trading",
        "cool_down_hours": 2, "message": "spent {amount}",
    }  # fmt: skip
    return read_rule(orjson.dumps(table | changes), "record")


# --- the file ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("purchases >= threshold", "purchase >= threshold", 6,
         "rule many: when, column 1: unknown name purchase; purchases?"),
        ('"purchases >= threshold"', '"""\nwindows > 2 and\npurchases"""', 6,
         "rule many: when, line 2, column 1: `purchases` is a number where a condition must stand"),
        ("purchases >= threshold", "user_purchases_1h >= threshold", 6,
         "rule many: when, column 1: unknown name user_purchases_1h"),  # of the other scope
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
         "rule many: types: are of scope event"),
        ("cool_down_hours = 2", "cool_down_hours = 2\nfeature = 3", 13,
         "rule many: feature: Extra inputs are not permitted"),
        ("{value}", "{n}", 13,
         "rule many: message: unknown name {n}; it may name purchases, threshold, value"),
        ("{value}", "{value.real}", 13, "rule many: message: unknown name {value.real}"),
        ("{value}", "{value:99999}", 13, "rule many: message: {value} can be shown as"),
        ("{value}", "{value!r}", 13, "rule many: message: {value} can be shown as"),
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
def test_what_is_wrong_with_a_file(
    tmp_path: Path, old: str, new: str, line: int | None, reason: str
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(RulesError) as refused:
        read_rules(file)
    where = f"rules file {file}:{line}: " if line else f"rules file {file}: "
    assert str(refused.value).startswith(where + reason)


@given(
    st.text("+,.0f2g%ed9x<", max_size=6),
    st.sampled_from([0, 7, -3, 10**15, 2.5, math.nan, math.inf]),
)
def test_what_a_message_may_say_it_can_say_of_every_number(spec: str, number: float) -> None:
    try:
        shown = rule(message=f"{{value:{spec}}}")
    except RulesError:
        assert spec not in ("", ",", ".2f", ",.0f", "+.1f", ".0%", "g")
    else:
        assert len(shown.message.format(value=number)) < 150


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    broken = TEXT.replace("[[rules]]", "[[rules]]\ntypo = 1").replace("purchases >=", "purchase >=")
    file.write_text(TEXT + broken.partition("\n")[2])
    with pytest.raises(RulesError) as refused:
        read_rules(file)
    assert [(found.line, found.key) for found in refused.value.problems] == [
        (16, "typo"),
        (19, "when"),
    ]
    assert "(and 1 more:" in str(refused.value)


def test_an_id_stands_once(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(TEXT + TEXT.partition("\n")[2])
    with pytest.raises(RulesError, match=r":16: rule many: id: another rule has it already"):
        read_rules(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
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
def test_what_is_wrong_with_a_record(value: bytes, reason: str) -> None:
    with pytest.raises(RulesError) as refused:
        read_rule(value, "record")
    assert str(refused.value).startswith(reason)


def test_the_contract_names_every_key_and_every_feature_of_a_window() -> None:
    text = (ROOT / "docs/data-contract.md").read_text("utf-8")
    section = text.partition("## 6. ")[2].partition("\n## ")[0]
    listed = {
        name
        for line in section.splitlines()
        if line.startswith("| ")
        for name in line.split(" | ")[0].removeprefix("| ").split(", ")
    }
    headers = {"key", "feature"}
    assert listed - headers == Rule.model_fields.keys() | window_features.NAMES.keys()


def test_paused_rules_are_not_evaluated() -> None:
    rules = Rules(version="1", rules=tuple(rule(state=x) for x in ("ACTIVE", "SHADOW", "PAUSED")))
    assert [found.state for found in rules.of("event")] == ["ACTIVE", "SHADOW"]
    assert rules.of("window") == []


# --- windows: beside the contract in plain Python -----------------------------------------------


def expected(window: dict[str, float], before: dict[str, float]) -> dict[str, tuple[float, str]]:
    """Value and message of the three shipped rules that are true."""
    found = {}
    n, amount, events = window["purchases"], window["amount"], window["events"]
    mean, std = before["purchase_count_mean"], before["purchase_count_std"]
    z = (n - mean) / max(std, 1.0)
    if z >= 4.0 and before["purchase_windows"] >= 5 and n >= 3:
        text = f"{n} purchases in this window; usually {mean:.1f} ± {std:.1f}"
        found["purchase_frequency"] = (z, text)
    mean, std = before["purchase_amount_mean"], before["purchase_amount_std"]
    z = (amount - mean) / max(std, 0.1 * mean, 1.0)
    if z >= 4.0 and before["purchase_windows"] >= 5 and n >= 1:
        text = f"{amount:.2f} spent in this window; usually {mean:.2f} ± {std:.2f}"
        found["purchase_amount"] = (z, text)
    surprise = window["surprise"]
    if surprise >= 7.5 and before["windows"] >= 3 and events >= 3:
        text = (
            f"{events} events in this window that do not fit this user's past:"
            f" surprise {surprise:.1f}, flagged from 7.5"
        )
        found["behaviour_surprise"] = (surprise, text)
    return found


def amounts(limit: float) -> st.SearchStrategy[float]:
    return st.floats(0, limit).map(lambda x: round(x, 3))


windows = st.fixed_dictionaries(
    {
        "events": st.integers(1, 8), "purchases": st.integers(0, 30), "amount": amounts(900),
        "surprise": amounts(12),
    }
)  # fmt: skip
pasts = st.fixed_dictionaries(
    dict.fromkeys(FEATURES, st.just(0.0))
    | {
        "windows": st.integers(0, 8).map(float), "purchase_windows": st.integers(0, 8).map(float),
        "purchase_count_mean": amounts(4), "purchase_count_std": amounts(3),
        "purchase_amount_mean": amounts(90), "purchase_amount_std": amounts(30),
        "recency_days": st.just(math.nan),
    }
)  # fmt: skip


@given(st.lists(st.tuples(windows, pasts), min_size=1))
def test_the_rules_of_windows_are_those_of_the_contract(table: list[Any]) -> None:
    now = {name: np.array([window[name] for window, _ in table]) for name in table[0][0]}
    before = {name: np.array([past[name] for _, past in table]) for name in FEATURES}
    columns = window_features.compute(before, now)
    assert columns.keys() == window_features.NAMES.keys()
    found = flag_policy.evaluate(list(WINDOWS.values()), columns, len(table))
    for (window, past), findings in zip(table, found, strict=True):
        flags = [flag_policy.to_flag(finding, "u", 300_000, "1") for finding in findings]
        said = {flag.rule_id: (flag.value, flag.message) for flag in flags}
        assert said == expected(window, past)


def test_what_a_windows_flag_holds() -> None:
    now = {"events": 9, "purchases": 9, "amount": 1.5, "surprise": 0.0}
    before = dict.fromkeys(FEATURES, 0.0) | {"purchase_windows": 7.0, "purchase_count_mean": 1.25}
    columns = window_features.compute(
        {name: np.array([value]) for name, value in before.items()},
        {name: np.array([value]) for name, value in now.items()},
    )
    [[finding]] = flag_policy.evaluate([WINDOWS["purchase_frequency"]], columns, 1)
    flag = flag_policy.to_flag(finding, "u", 300_000, "7")
    assert flag.flag_id == hashlib.sha256(b"u\x1fpurchase_frequency\x1f300000").hexdigest()[:32]
    assert flag.evidence == {
        "value": 7.75, "threshold": 4.0, "history": 7, "n": 9, "mean": 1.25, "std": 0,
        "usual": 1.25,
    }  # fmt: skip
    sentence = "9 purchases in this window; usually 1.2 ± 0.0"
    assert flag.reasons == [
        {"code": "PURCHASE_FREQUENCY_CHANGE", "value": 7.75, "usual": 1.25, "sentence": sentence}
    ]
    assert (flag.event_id, flag.rule_version, flag.rule_state) == ("", 1, "ACTIVE")
    assert (flag.message, flag.rules_version) == (sentence, "7")


# --- events ------------------------------------------------------------------------------------


def event_columns(**known: list[Any]) -> dict[str, np.ndarray]:
    """Of n events; what isn't given is not known."""
    n = len(next(iter(known.values())))
    unknown = dict.fromkeys(names("event"), np.full(n, np.nan))
    given = {name: np.array(values) for name, values in known.items()}
    return unknown | {"event_type": np.full(n, "purchase")} | given


def true(rule_id: str, **known: Any) -> bool:
    columns = event_columns(**{name: [value] for name, value in known.items()})
    return bool(flag_policy.evaluate([EVENTS[rule_id]], columns, 1)[0])


CARD_TEST = {"user_purchases_10m": 5, "user_amount_10m": 20, "device_list_days": 0.5}


@pytest.mark.parametrize("rule_id", EVENTS)
def test_a_shipped_event_rule_is_false_where_nothing_is_known(rule_id: str) -> None:
    assert not true(rule_id, score=math.nan)


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
def test_a_shipped_event_rule(rule_id: str, known: dict[str, Any], but: dict[str, Any]) -> None:
    assert true(rule_id, **known)
    assert not true(rule_id, **known | but)


def test_a_rule_looks_at_its_types_only() -> None:
    columns = event_columns(amount=[5.0] * 4, event_type=["login", "purchase", "coupon", "share"])
    found = flag_policy.evaluate([rule(types=["purchase", "share"])], columns, 4)
    assert [len(findings) for findings in found] == [0, 1, 0, 1]


def test_a_rule_whose_value_is_not_known_is_not_true() -> None:
    columns = event_columns(amount=[5.0], score=[math.nan])
    assert flag_policy.evaluate([rule(value="score")], columns, 1) == [[]]
    [[finding]] = flag_policy.evaluate([rule(usual="score")], columns, 1)
    assert flag_policy.reason_of(finding)["usual"] is None


def test_what_an_events_flag_holds() -> None:
    seen = rule(
        when='event_type == "login" or amount > 3', version=4, state="SHADOW", usual="score",
        message="{event_type} of {amount:.2f}, {usual:.0%}",
    )  # fmt: skip
    [[finding]] = flag_policy.evaluate([seen], event_columns(amount=[5.25], score=[0.5]), 1)
    flag = flag_policy.to_flag(finding, "u", 99, "9", "e1")
    assert flag.flag_id == hashlib.sha256(b"u\x1fmany\x1fe1").hexdigest()[:32]
    assert flag.evidence == {
        "value": 5.25, "usual": 0.5, "threshold": 3.0, "event_type": "purchase", "amount": 5.25
    }  # fmt: skip
    assert flag.message == flag.reasons[0]["sentence"] == "purchase of 5.25, 50%"
    assert (flag.event_id, flag.rule_version, flag.rule_state) == ("e1", 4, "SHADOW")


def test_every_name_of_an_event_is_one() -> None:
    assert {"score", "event_type", "amount", "hour"} <= names("event").keys()
    assert not OF_THE_EVENT.keys() & window_features.NAMES.keys()


# --- raising -----------------------------------------------------------------------------------


def judged(time_ms: int, *rules: Rule, user_id: str = "u") -> RuleEvaluation:
    columns = event_columns(amount=[5.0])
    return RuleEvaluation(
        user_id, time_ms, flag_policy.evaluate(rules, columns, 1)[0], f"e{time_ms}"
    )


def raised(rows: list[RuleEvaluation], store: Any) -> list[list[str]]:
    flags = FlagPolicy(store).raise_flags(rows, "1")
    return [[flag.event_id for flag in of_row] for of_row in flags]


@pytest.mark.parametrize("state", ["ACTIVE", "SHADOW"])
def test_a_flag_needs_a_change_and_waits_for_its_cool_down(state: str) -> None:
    one = rule(state=state)
    rows = [
        judged(0, one), judged(1, one), judged(2), judged(3, one), judged(3, one, user_id="v"),
        judged(4), judged(2 * HOUR_MS, one),
    ]  # fmt: skip
    assert raised(rows, MemoryProfileSink()) == [
        ["e0"],
        [],
        [],
        [],
        ["e3"],
        [],
        [f"e{2 * HOUR_MS}"],
    ]


@pytest.mark.parametrize(
    ("past", "raises"),
    [
        (FlagHistory(False, None), True),
        (FlagHistory(True, None), False),
        (FlagHistory(False, 1), False),
        (FlagHistory(False, 0), True),
    ],
)
def test_what_is_stored_counts(past: FlagHistory, raises: bool) -> None:
    class Stored:
        def flag_history(self, queries: list[Any]) -> list[FlagHistory]:
            assert queries == [("u", "many", 2 * HOUR_MS)]
            return [past]

    assert raised([judged(2 * HOUR_MS, rule())], Stored()) == [
        [f"e{2 * HOUR_MS}"] if raises else []
    ]
