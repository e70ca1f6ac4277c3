"""Section 6 of docs/data-contract.md in plain Python: conditions and flag ids.

A condition is a Python expression, so Python's own `eval` decides whether it is true.
"""

import functools
import hashlib
from collections.abc import Mapping
from types import CodeType
from typing import Any, NamedTuple


class Flag(NamedTuple):
    flag_id: str
    rule_id: str
    reason: str
    value: float
    threshold: float


def is_true(rule: Mapping[str, Any], features: Mapping[str, Any]) -> bool:
    """Evaluates the condition of a rule, a table of rules.toml, with these features."""
    names = {**features, "threshold": rule["threshold"], "abs": abs, "min": min, "max": max}
    return bool(eval(_compiled(rule["when"]), {"__builtins__": {}}, names))


@functools.cache
def _compiled(condition: str) -> CodeType:
    return compile(f"({condition}\n)", "condition", "eval")


def flag_id(user_id: str, rule_id: str, window_end_or_event_id: int | str) -> str:
    """The last argument is the window's end in ms, or the event_id of an event's flag."""
    text = "\x1f".join((user_id, rule_id, str(window_end_or_event_id)))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]
