"""The shipped rules, a small rules file, and a rule with changed fields."""

from __future__ import annotations

from typing import Any

import orjson

from liveprofile.rules.rules import (
    Rule,
    read_rule,
    read_rules,
)
from tests.support.paths import ROOT

SHIPPED_RULES = read_rules(ROOT / "rules.toml")


RULES_TOML = """\
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
        "id": "many",
        "scope": "event",
        "when": "amount >= threshold",
        "value": "amount",
        "threshold": 3,
        "reason": "MANY",
        "severity": "low",
        "action": "limit_trading",
        "cool_down_hours": 2,
        "message": "spent {amount}",
    }
    return read_rule(orjson.dumps(table | changes), "record")
