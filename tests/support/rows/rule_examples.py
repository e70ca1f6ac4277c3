"""The shipped rules, a small rules file, rules and their records, and columns of features."""

from typing import Any

import numpy as np
import orjson

from liveprofile.kafka.records import Record
from liveprofile.rules.rules import Rule, feature_kinds, read_rule, read_rules
from liveprofile.rules.signing import DefinitionSigner
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


def rule_table(**changes: Any) -> dict[str, Any]:
    """A rule of events as a table of the rules file; `changes` overrides keys."""
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
    return table | changes


def rule(**changes: Any) -> Rule:
    return read_rule(orjson.dumps(rule_table(**changes)), "record")


def event_columns(**known: list[Any]) -> dict[str, np.ndarray]:
    """Columns of n events; features that are not given are NaN."""
    n = len(next(iter(known.values())))
    unknown = dict.fromkeys(feature_kinds("event"), np.full(n, np.nan))
    given = {name: np.array(values) for name, values in known.items()}
    return unknown | {"event_type": np.full(n, "purchase")} | given


def raw_rule_record(rule_id: str, value: bytes | None, offset: int = 0) -> Record:
    """A record with any value; None: a tombstone."""
    return Record("risk-rules", 0, offset, 0, rule_id.encode(), value, {})


def rule_record(rule_id: str, **changes: object) -> Record:
    """A record of a valid rule; `changes` overrides the rule's fields."""
    return raw_rule_record(rule_id, rule(id=rule_id, **changes).model_dump_json().encode())


def signed(record: Record, signer: DefinitionSigner, signed_ms: int) -> Record:
    headers = signer.headers(record.key, record.value, signed_ms)
    return record._replace(headers={name: value.encode() for name, value in headers.items()})
