"""The format of risk rules, and their validation (docs/data-contract.md, section 6).

Rules come from a TOML file or, one per record, from the topic risk-rules
(liveprofile/feeds/definition_topics.py). Both are validated here before use.
"""

import re
import string
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Literal

from pydantic import ConfigDict, Field

from liveprofile.features import entity, window_features
from liveprofile.rules.conditions import (
    ATTRIBUTE,
    Condition,
    ValueKind,
    parse_condition,
)
from liveprofile.rules.definition_kinds import (
    Definition,
    DefinitionKind,
    DefinitionProblem,
    DefinitionsError,
    DefinitionSet,
    condition_problems,
)
from liveprofile.rules.flags import Severity

Scope = Literal["window", "event"]
EventType = Literal["purchase", "return", "login", "coupon", "follow", "share"]
RuleState = Literal["ACTIVE", "SHADOW", "PAUSED"]

SCORE_FEATURE = "score"
# Features of rules of scope "event" besides liveprofile.features.entity.EVENT_FEATURES.
SCORING_ONLY_FEATURES: dict[str, str] = {
    SCORE_FEATURE: "the fraud model's calibrated probability, 0 to 1",
    "event_type": "a text: purchase, return, login, coupon, follow or share",
}
TEXT_FEATURES = frozenset({"event_type"})
# The allowed format specifications of numbers in messages. They work for int and float, and have no
# width, which could exhaust memory.
_FORMAT = re.compile(r"\+?,?((\.\d{1,2})?[fg%])?")


@cache
def feature_kinds(scope: Scope) -> Mapping[str, ValueKind]:
    """Returns the features that a rule of this scope may read, with their kinds."""
    features = (
        window_features.WINDOW_FEATURES
        if scope == "window"
        else {**entity.EVENT_FEATURES, **SCORING_ONLY_FEATURES}
    )
    return {name: "text" if name in TEXT_FEATURES else "number" for name in features}


class Rule(Definition):
    """One rule."""

    # use_enum_values: the fields hold plain str, which Cassandra's driver and orjson take.
    model_config = ConfigDict(use_enum_values=True)

    scope: Scope
    types: tuple[EventType, ...] = ()
    when: str = Field(min_length=1)
    value: str
    usual: str | None = None
    evidence: dict[str, str] = Field({}, description="a name in the message and its feature")
    threshold: float = Field(allow_inf_nan=False)
    reason: str = Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")
    severity: Severity
    action: Literal[
        "notify_customer_service", "step_up_verification", "limit_trading", "restrict_trading"
    ]
    cool_down_hours: float = Field(ge=0, allow_inf_nan=False)
    state: RuleState = "ACTIVE"
    message: str = Field(min_length=1, max_length=1_000)

    @property
    def condition(self) -> Condition:
        return _condition(self.when, self.scope, self.threshold)

    @property
    def message_features(self) -> dict[str, str]:
        """The names in the message and the flag's evidence: name -> feature.

        Defaults to the features that the condition reads. `value`, `usual` and `threshold` are
        available in addition.
        """
        return self.evidence or {name: name for name in self.condition.names}


class RuleSet(DefinitionSet):
    """All rules in force."""

    rules: tuple[Rule, ...]

    def evaluated(self, scope: Scope) -> list[Rule]:
        """Returns the scope's rules that are not PAUSED."""
        return [rule for rule in self.rules if rule.scope == scope and rule.state != "PAUSED"]

    def attributes(self, scope: Scope) -> list[str]:
        """Returns the attributes that the evaluated rules of the scope read."""
        rules = self.evaluated(scope)
        return sorted({name for rule in rules for name in rule.condition.attributes})


class RulesError(DefinitionsError):
    """The rules are invalid."""

    kind = "rule"
    plural = "rules"


@lru_cache(maxsize=1_024)
def _condition(when: str, scope: Scope, threshold: float) -> Condition:
    return parse_condition(
        when, feature_kinds(scope), {"threshold": threshold}, {ATTRIBUTE: "attribute"}
    )


def _problems(rule: Rule) -> Iterator[DefinitionProblem]:
    of_condition = condition_problems(rule, rule.when)
    yield from of_condition
    if rule.types and rule.scope == "window":
        yield DefinitionProblem(
            rule.id, "types", "is for scope event; a window has events of all types"
        )
    features = {"value": rule.value}
    features |= {f"evidence.{name}": feature for name, feature in rule.evidence.items()}
    if rule.usual is not None:
        features["usual"] = rule.usual
    kinds = feature_kinds(rule.scope)
    for key, name in features.items():
        if name not in kinds:
            yield DefinitionProblem(rule.id, key, f"unknown name {name}")
        elif key in ("value", "usual") and kinds[name] != "number":
            yield DefinitionProblem(rule.id, key, f"{name} is a {kinds[name]}, not a number")
    for name in sorted(set(rule.evidence) & {"value", "threshold", "usual"}):
        yield DefinitionProblem(rule.id, f"evidence.{name}", "is always available; remove it")
    # The message's names come from the evidence, else from a valid condition.
    if rule.evidence or not of_condition:
        known = {"value", "threshold", *rule.message_features} | (
            {"usual"} if rule.usual else set()
        )
        texts = {name for name, key in rule.message_features.items() if key in TEXT_FEATURES}
        for reason in _message_problems(rule.message, known, texts):
            yield DefinitionProblem(rule.id, "message", reason)


def _message_problems(message: str, known: set[str], texts: set[str]) -> Iterator[str]:
    try:
        fields = list(string.Formatter().parse(message))
    except ValueError as error:
        yield str(error)
        return
    for _, name, spec, conversion in fields:
        if name is None:
            continue
        if name not in known:
            yield f"unknown name {{{name}}}; it may use {', '.join(sorted(known))}"
        elif conversion or not _FORMAT.fullmatch(spec or "") or (spec and name in texts):
            yield f"{{{name}}} has an invalid format; use {{{name}:.2f}}, with , or % if needed"


RULES = DefinitionKind(RulesError, Rule, RuleSet, faults=_problems)
read_rules, read_rule = RULES.read_file, RULES.read_record
