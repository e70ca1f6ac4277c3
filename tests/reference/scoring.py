"""What the event lane must say of every event, in plain Python: scored or not, rules true, flags.

Features are those of tests/reference/entity_features.py, a sequence model's tokens those of
tests/reference/sequence.py, a rule's condition is judged by Python itself, and
the score is the model's own answer to those features. A user's events must come in order of time,
no two at the same: else which is judged by which depends on how they come together in a batch.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from models.fraud.model import SEQUENCE_LOG_ODDS, FraudModel
from tests.reference.entity_features import (
    ENTITIES,
    LETTERS,
    Arrival,
    Event,
    Label,
    entries,
    features,
    text,
)
from tests.reference.profile import HOUR_MS, Record, flag_id
from tests.reference.sequence import sequence, tokens
from tests.reference.validation import Valid, as_text, check

Key = tuple[str, int, str]  # user, time in ms, event
Rules = Sequence[Mapping[str, Any]]
KEYS = {"device": "device_id", "place": "place", "shop": "shop_id", "coupon": "coupon_id",
        "address": "address_id"}  # fmt: skip
_SEPARATORS = re.compile(r"[\x1d\x1e\x1f]")


class Decision(NamedTuple):
    event: Event
    score: float
    active_rules: frozenset[str]
    flags: dict[str, str]  # rule -> flag_id


# --- records --------------------------------------------------------------------------------------


def read_event(record: Record, limits: Any) -> Event | None:
    """None for what the lane does not score: no event, a broken one, or of another type."""
    valid = check(record.value, record.timestamp_ms, limits)
    if not isinstance(valid, Valid) or valid.event_type not in LETTERS:
        return None
    payload = json.loads(record.value or b"")
    attributes = payload.get("attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    return Event(
        valid.event_id,
        valid.user_id,
        valid.event_type,
        valid.time_ms,
        valid.amount,
        device=_id(payload.get("device_id")),
        place=_cell(payload.get("place")),
        shop=_id(attributes.get("shop_id")),
        coupon=_id(payload.get("coupon_id")),
        address=_id(attributes.get("address_id")),
    )


def read_label(record: Record) -> Label | None:
    """None for what is no label. Times are numbers here."""
    try:
        found = json.loads(record.value or b"")
        ids = [found["event_id"], found["user_id"]]
        if not all(isinstance(one, str) and one for one in ids):
            return None
        fraud, time_ms = ("legitimate", "fraud").index(found["label"]), found["time"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(time_ms, int):
        return None
    about = {name: found.get(key) or "" for name, key in KEYS.items()}
    return Label(Event(*ids, type="", time_ms=0, **about), bool(fraud), time_ms)


def read_events(records: Iterable[Record], limits: Any) -> list[Arrival]:
    """The scored events, copies among them, in order of arrival."""
    return [event for one in records if (event := read_event(one, limits)) is not None]


def _id(value: Any) -> str:
    return _SEPARATORS.sub("_", as_text(value))[:256]


def _cell(place: Any) -> str:
    if not isinstance(place, dict) or None in (place.get("lat"), place.get("lon")):
        return ""
    return ":".join(str(math.floor(float(place[name]) * 100)) for name in ("lat", "lon"))


# --- decisions ------------------------------------------------------------------------------------


def key_of(event: Event) -> Key:
    return event.user, event.time_ms, event.id


def first_rows(arrivals: Sequence[Arrival]) -> list[int]:
    """Places of the events that are no copies of earlier ones."""
    seen: set[Key] = set()
    rows = []
    for row, one in enumerate(arrivals):
        if isinstance(one, Event) and key_of(one) not in seen:
            seen.add(key_of(one))
            rows.append(row)
    return rows


def decide(
    arrivals: list[Arrival],
    rules: Rules | Callable[[Event], Rules],
    model: FraudModel,
    keep: int,
) -> dict[Key, Decision]:
    """Of every event in the order of arrival. rules: tables of rules.toml, or those in force at an
    event. keep: how many entries a list holds."""
    rows = first_rows(arrivals)
    known = [features(arrivals, row, keep, model.delay_days) for row in rows]
    names = known[0] if known else {}
    columns = {name: np.array([one[name] for one in known]) for name in names}
    if model.sequence is not None and rows:
        columns[SEQUENCE_LOG_ODDS] = model.sequence.log_odds_of_sequences(
            tokens([sequence(arrivals, row, model.sequence.shape, keep) for row in rows])
        )
    scores = model.score(columns).tolist() if known else []
    of_user: dict[str, list[Decision]] = defaultdict(list)
    for row, about, score in zip(rows, known, scores, strict=True):
        event = arrivals[row]
        assert isinstance(event, Event)
        in_force = rules(event) if callable(rules) else rules
        own = of_user[event.user]
        assert not own or own[-1].event.time_ms < event.time_ms, "not in order of time"
        own.append(_decide(event, in_force, {**about, "score": score}, own))
    return {key_of(one.event): one for own in of_user.values() for one in own}


def _decide(
    event: Event, rules: Rules, about: Mapping[str, float], earlier: Sequence[Decision]
) -> Decision:
    chosen = [
        rule
        for rule in rules
        if rule["scope"] == "event"
        and rule.get("state", "ACTIVE") != "PAUSED"
        and event.type in (rule.get("types") or LETTERS)
    ]
    names = {**about, "event_type": event.type}
    active = frozenset(rule["id"] for rule in chosen if _holds(rule, names))
    before = earlier[-1].active_rules if earlier else frozenset()
    flags = {}
    for rule in chosen:
        rule_id = rule["id"]
        raised = [one.event.time_ms for one in earlier if rule_id in one.flags]
        cool = not raised or event.time_ms - raised[-1] >= rule["cool_down_hours"] * HOUR_MS
        if rule_id in active - before and cool:
            flags[rule_id] = flag_id(event.user, rule_id, event.id)
    return Decision(event, about["score"], active, flags)


def _holds(rule: Mapping[str, Any], names: Mapping[str, Any]) -> bool:
    if not math.isfinite(names[rule["value"]]):
        return False
    known = {**names, "threshold": rule["threshold"], "abs": abs, "min": min, "max": max}
    return bool(eval(f"({rule['when']}\n)", {"__builtins__": {}}, known))


def loud(expected: Mapping[Key, Decision], rules: Rules) -> list[str]:
    """Ids of the flags that send an alert."""
    silent = {rule["id"] for rule in rules if rule.get("state") == "SHADOW"}
    return [
        flag_id
        for decision in expected.values()
        for rule_id, flag_id in decision.flags.items()
        if rule_id not in silent
    ]


# --- rows -----------------------------------------------------------------------------------------


def parts(arrivals: list[Arrival], upto: int, keep: int = 128) -> str:
    """The event at `upto` and its lists as the job's SQL hands them over."""
    event = arrivals[upto]
    assert isinstance(event, Event)
    entities = [getattr(event, name) for name in ENTITIES]
    head = (event.id, event.type, str(event.time_ms), repr(event.amount), "", "", *entities)
    lists = [f"u{text(entries(arrivals, upto, 'user', keep), 'user')}"]
    for name in ENTITIES:
        if getattr(event, name):
            lists.append(f"{name[0]}{text(entries(arrivals, upto, name, keep), name)}")
    return "\x1d".join(["h" + "\x1f".join(head), *lists])
