"""Section 7 of docs/data-contract.md in plain Python: scores, true rules and flags of each event.

The score is the fraud model's own answer to the features of entity_features.py. A user's events
must be in time order, no two at the same time: otherwise the result depends on how the events are
batched.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.fraud.model import FraudModel
from tests.reference.entity_features import (
    ENTITIES,
    TYPE_LETTERS,
    Arrival,
    Event,
    Label,
    entity_list,
    features,
    list_text,
)
from tests.reference.rules import flag_id, is_true
from tests.reference.units import HOUR_MS
from tests.reference.validation import MAX_ID_CHARS, ValidEvent, as_text, read_own_types, validate
from tests.reference.windows import Record

Key = tuple[str, int, str]  # user, time in ms, event
Rules = Sequence[Mapping[str, Any]]
LABEL_FIELDS = {"device": "device_id", "place": "place", "shop": "shop_id", "coupon": "coupon_id"}
LABEL_FIELDS |= {"address": "address_id"}
_OWN_TYPES = read_own_types(Path("events.toml"))
_SEPARATORS = re.compile(r"[\x1d\x1e\x1f]")


class Decision(NamedTuple):
    event: Event
    score: float
    active_rules: frozenset[str]
    flags: dict[str, str]  # rule -> flag_id


# --- records --------------------------------------------------------------------------------------


def read_event(record: Record, limits: Any, max_delay_ms: int | None = None) -> Event | None:
    """Returns None for a record that is not scored: an invalid one, or one of another type.

    max_delay_ms: of live events; None: history.
    """
    valid = validate(record.value, record.timestamp_ms, limits, _OWN_TYPES)
    if not isinstance(valid, ValidEvent) or valid.event_type not in TYPE_LETTERS:
        return None
    time_ms = valid.time_ms
    if max_delay_ms is not None:
        time_ms = max(time_ms, record.timestamp_ms - max_delay_ms)
    payload = json.loads(record.value or b"")
    attributes = payload.get("attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    return Event(
        valid.event_id,
        valid.user_id,
        valid.event_type,
        time_ms,
        valid.amount,
        device=_id(payload.get("device_id")),
        place=_cell(payload.get("place")),
        shop=_id(attributes.get("shop_id")),
        coupon=_id(payload.get("coupon_id")),
        address=_id(attributes.get("address_id")),
    )


def read_label(record: Record) -> Label | None:
    """Returns None for an invalid label. Only reads labels whose time is a number."""
    try:
        label = json.loads(record.value or b"")
        ids = [label["event_id"], label["user_id"]]
        if not all(isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS for value in ids):
            return None
        fraud, time_ms = ("legitimate", "fraud").index(label["label"]), label["time"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(time_ms, int):
        return None
    entities = {name: (label.get(key) or "")[:MAX_ID_CHARS] for name, key in LABEL_FIELDS.items()}
    return Label(Event(*ids, type="", time_ms=0, **entities), bool(fraud), time_ms)


def read_events(records: Iterable[Record], limits: Any) -> list[Arrival]:
    """Returns the events of the scored types, duplicates included, in arrival order."""
    return [event for record in records if (event := read_event(record, limits)) is not None]


def _id(value: Any) -> str:
    return _SEPARATORS.sub("_", as_text(value))[:256]


def _cell(place: Any) -> str:
    if not isinstance(place, dict) or None in (place.get("lat"), place.get("lon")):
        return ""
    return ":".join(str(math.floor(float(place[name]) * 100)) for name in ("lat", "lon"))


# --- decisions ------------------------------------------------------------------------------------


def event_key(event: Event) -> Key:
    return event.user, event.time_ms, event.id


def first_occurrences(arrivals: Sequence[Arrival]) -> list[int]:
    """Returns the positions of the events that are not duplicates of earlier ones."""
    seen: set[Key] = set()
    positions = []
    for position, arrival in enumerate(arrivals):
        if isinstance(arrival, Event) and event_key(arrival) not in seen:
            seen.add(event_key(arrival))
            positions.append(position)
    return positions


def decide(
    arrivals: list[Arrival],
    rules: Rules | Callable[[Event], Rules],
    model: FraudModel,
    max_entries: int,
) -> dict[Key, Decision]:
    """Scores every event, in arrival order, and evaluates the rules on it.

    rules: tables of rules.toml, or a function that returns those in force for an event.
    max_entries: the length of an entity list.
    """
    positions = first_occurrences(arrivals)
    rows = [features(arrivals, position, max_entries, model.delay_days) for position in positions]
    x_nF = np.array([[row[name] for name in model.names] for row in rows], np.float32)
    scores = model.score(x_nF).tolist() if rows else []
    by_user: dict[str, list[Decision]] = defaultdict(list)
    for position, row, score in zip(positions, rows, scores, strict=True):
        event = arrivals[position]
        assert isinstance(event, Event)
        in_force = rules(event) if callable(rules) else rules
        earlier = by_user[event.user]
        earlier.append(_decide(event, in_force, {**row, "score": score}, earlier))
    return {
        event_key(decision.event): decision
        for decisions in by_user.values()
        for decision in decisions
    }


def _decide(
    event: Event, rules: Rules, values: Mapping[str, float], earlier: Sequence[Decision]
) -> Decision:
    evaluated = [
        rule
        for rule in rules
        if rule["scope"] == "event"
        and rule.get("state", "ACTIVE") != "PAUSED"
        and event.type in (rule.get("types") or TYPE_LETTERS)
    ]
    names = {**values, "event_type": event.type}
    active = frozenset(
        rule["id"]
        for rule in evaluated
        if math.isfinite(names[rule["value"]]) and is_true(rule, names)
    )
    before = _rules_before(event, earlier)
    flags = {}
    for rule in evaluated:
        rule_id = rule["id"]
        raised_ms = [decision.event.time_ms for decision in earlier if rule_id in decision.flags]
        cool_down_ms = rule["cool_down_hours"] * HOUR_MS
        cooling = any(abs(event.time_ms - time_ms) < cool_down_ms for time_ms in raised_ms)
        if rule_id in active - before and not cooling:
            flags[rule_id] = flag_id(event.user, rule_id, event.id)
    return Decision(event, values["score"], active, flags)


def _rules_before(event: Event, earlier: Sequence[Decision]) -> frozenset[str]:
    """Returns the true rules of the user's latest event before this one, among those that came."""
    before = [
        decision
        for decision in earlier
        if decision.event.time_ms < event.time_ms
        or (decision.event.time_ms == event.time_ms and decision.event.id > event.id)
    ]
    latest = min(before, key=lambda found: (-found.event.time_ms, found.event.id), default=None)
    return frozenset() if latest is None else latest.active_rules


def alerting_flag_ids(expected: Mapping[Key, Decision], rules: Rules) -> list[str]:
    """Returns the ids of the flags that send an alert: all but those of SHADOW rules."""
    silent = {rule["id"] for rule in rules if rule.get("state") == "SHADOW"}
    return [
        flag_id
        for decision in expected.values()
        for rule_id, flag_id in decision.flags.items()
        if rule_id not in silent
    ]


# --- rows of the view scoring_input ---------------------------------------------------------------


def event_parts(arrivals: list[Arrival], position: int, max_entries: int = 128) -> str:
    """Encodes the event at `position` and its lists as the job's SQL does (column `parts`).

    The time of its arrival is unknown.
    """
    event = arrivals[position]
    assert isinstance(event, Event)
    entities = [getattr(event, name) for name in ENTITIES]
    common = (event.id, event.type, str(event.time_ms), repr(event.amount), "", "")
    head = (*common, *entities, str(position), "0")

    def encode(owner: str) -> str:
        return list_text(entity_list(arrivals, position, owner, max_entries), owner)

    lists = [encode(name) if getattr(event, name) else "" for name in ENTITIES]
    return "\x1d".join(["\x1f".join(head), encode("user"), *lists])
