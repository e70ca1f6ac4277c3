"""Section 7 of docs/data-contract.md in plain Python: entity lists and their features.

Computes one event at a time, from the definitions alone: it is slow and shares no code with
liveprofile.features.entity, which it checks.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

from tests.reference.units import DAY_MS, HOUR_MS, SECOND_MS

_HOURS = {"1m": 1 / 60, "10m": 1 / 6, "1h": 1, "6h": 6, "1d": 24, "3d": 72, "7d": 168}
SPAN_MS = {span: round(h * HOUR_MS) for span, h in (_HOURS | {"30d": 720, "90d": 2_160}).items()}
TYPE_LETTERS = {"purchase": "d", "return": "e", "share": "h", "follow": "i", "coupon": "j"}
TYPE_LETTERS |= {"login": "l"}
ENTITIES = ("device", "place", "shop", "coupon", "address")
PLURALS = {"device": "devices", "place": "places", "shop": "shops", "coupon": "coupon_ids"}
PLURALS |= {"address": "addresses"}


class Event(NamedTuple):
    id: str
    user: str
    type: str
    time_ms: int
    amount: float = 0.0
    device: str = ""
    place: str = ""
    shop: str = ""
    coupon: str = ""
    address: str = ""


class Label(NamedTuple):
    event: Event
    fraud: bool
    time_ms: int


Arrival = Event | Label


@functools.cache
def java_hash(text: str) -> int:
    value = 0
    units = text.encode("utf-16-be")
    for high, low in zip(units[::2], units[1::2], strict=True):
        value = (31 * value + (high << 8 | low)) & 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def entity_list(
    arrivals: list[Arrival], position: int, owner: str, max_entries: int
) -> list[Arrival]:
    """Returns the list that the job holds for the event at `position`.

    owner: "user" or an entity. The result is empty if the event has no such entity.
    """
    key = getattr(arrivals[position], owner)
    if not key:
        return []
    return [
        arrival for arrival in arrivals[: position + 1] if getattr(_event_of(arrival), owner) == key
    ][-max_entries:]


def list_text(entries: list[Arrival], owner: str) -> str:
    """Encodes the list as the job's SQL does."""
    return "\x1e".join("\x1f".join(_fields(entry, owner)) for entry in entries)


def _event_of(arrival: Arrival) -> Event:
    return arrival if isinstance(arrival, Event) else arrival.event


def _fields(entry: Arrival, owner: str) -> Iterator[str]:
    event = _event_of(entry)
    yield TYPE_LETTERS[entry.type] if isinstance(entry, Event) else "-+"[entry.fraud]
    yield str(entry.time_ms)
    yield str(java_hash(event.id))
    yield repr(float(entry.amount)) if isinstance(entry, Event) else "0"
    for name in ENTITIES if owner == "user" else ("user",):
        value = getattr(event, name)
        # A label in a user's list names no entities.
        has_field = isinstance(entry, Event) or owner != "user"
        yield str(java_hash(value)) if value and has_field else ""


def features(
    arrivals: list[Arrival], position: int, max_entries: int = 128, delay_days: float = 7
) -> dict[str, float]:
    """Returns all features of the event at `position`.

    delay_days: the time until an event counts as settled, that is, until its fraud is labelled.
    """
    own = arrivals[position]
    hour = own.time_ms // HOUR_MS % 24
    values = {
        "amount": own.amount,
        "hour": hour,
        "weekend": (own.time_ms // DAY_MS + 3) % 7 in (5, 6),
        "night": hour <= 6,
    }
    for name in TYPE_LETTERS:
        values[f"is_{name}"] = own.type == name
    for owner in ("user", *ENTITIES):
        entries = entity_list(arrivals, position, owner, max_entries)
        of_list = _ListFeatures(entries, own, round(delay_days * DAY_MS))
        columns = of_list.for_user() if owner == "user" else of_list.for_entity()
        missing = owner != "user" and not entries
        values |= {f"{owner}_{name}": math.nan if missing else v for name, v in columns.items()}
    return {name: float(value) for name, value in values.items()}


class _ListFeatures:
    """The features of one list, for the event `own`, which is its last event."""

    def __init__(self, entries: list[Arrival], own: Event, delay_ms: int):
        self.own, self.now_ms, self.delay_ms = own, own.time_ms, delay_ms
        in_time_order = sorted(
            (entry for entry in entries if entry.time_ms <= self.now_ms),
            key=lambda entry: entry.time_ms,
        )
        seen, past = set(), []
        for entry in in_time_order:
            if isinstance(entry, Event) and (entry.id, entry.time_ms) not in seen:
                seen.add((entry.id, entry.time_ms))
                past.append(entry)
        self.past: list[Event] = past
        self.earlier = past[:-1]
        # The latest label of an event replaces earlier ones.
        self.labels = {label.event.id: label for label in in_time_order if isinstance(label, Label)}

    def _within(self, span: str, *types: str, end_ms_ago: int = 0) -> list[Event]:
        """The events of the types (default: all) in a span that ends `end_ms_ago` before now."""
        until_ms = self.now_ms - end_ms_ago
        return [
            event
            for event in self.past
            if until_ms - SPAN_MS[span] < event.time_ms <= until_ms
            and (not types or event.type in types)
        ]

    def _is_known_fraud(self, event: Event) -> bool:
        return event.id in self.labels and self.labels[event.id].fraud

    def _for_any_owner(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for span in ("1m", "10m", "1h", "6h", "1d", "3d", "7d", "30d", "90d"):
            values[f"events_{span}"] = len(self._within(span))
        for span in ("1d", "3d", "7d", "30d", "90d"):
            amounts = [event.amount for event in self._within(span, "purchase")]
            values[f"mean_amount_{span}"] = sum(amounts) / len(amounts) if amounts else math.nan
        for span in ("1h", "6h", "1d", "7d"):
            purchases = self._within(span, "purchase")
            tiny = sum(event.amount <= 2 for event in purchases)
            values[f"tiny_{span}"] = tiny
            values[f"tiny_share_{span}"] = tiny / len(purchases) if purchases else 0
        values |= self._own_amount() | self._frauds()
        values |= self._ratios(("1d", "3d", "7d", "30d", "90d"))
        values["list_events"] = len(self.past)
        values["list_days"] = (self.now_ms - self.past[0].time_ms) / DAY_MS if self.past else 0
        values["seconds_since_event"] = self._seconds_since(*TYPE_LETTERS)
        return values

    def for_user(self) -> dict[str, float]:
        values = self._for_any_owner()
        names = {"purchases": "purchase", "returns": "return", "logins": "login"}
        for span in ("1m", "10m", "1h", "6h", "1d", "3d", "7d", "30d", "90d"):
            for plural, name in (names | {"coupons": "coupon"}).items():
                values[f"{plural}_{span}"] = len(self._within(span, name))
            values[f"amount_{span}"] = sum(event.amount for event in self._within(span, "purchase"))
        for entity in ENTITIES:
            for span in ("1h", "6h", "1d", "3d", "7d"):
                keys = {getattr(event, entity) for event in self._within(span)} - {""}
                values[f"{PLURALS[entity]}_{span}"] = len(keys)
            key = getattr(self.own, entity)
            before = {getattr(event, entity) for event in self.earlier}
            values[f"new_{entity}"] = key not in before if key else math.nan
        return values | self._order()

    def for_entity(self) -> dict[str, float]:
        values = self._for_any_owner()
        for span in ("1d", "3d", "7d", "30d", "90d"):
            purchases = self._within(span, "purchase")
            values[f"purchases_{span}"] = len(purchases)
            values[f"amount_{span}"] = sum(event.amount for event in purchases)
        for span in ("1h", "6h", "1d", "3d", "7d"):
            values[f"users_{span}"] = len({event.user for event in self._within(span)})
        for span in ("1d", "3d", "7d"):
            recent = self._within(span)
            cut = len(self.past) - len(recent)
            earlier_users = {event.user for event in self.past[:cut]}
            new = len({event.user for event in recent} - earlier_users)
            values[f"new_user_share_{span}"] = new / len(recent) if recent else 0
        return values

    def _order(self) -> dict[str, float]:
        """Types and gaps of the last eight earlier events; `back` counts from the scored event."""
        numbers = ("purchase", "return", "login", "coupon", "follow", "share")
        values: dict[str, float] = {}
        for back in range(1, 9):
            known = back <= len(self.earlier)
            event = self.past[-1 - back] if known else None
            values[f"type_{back}_before"] = numbers.index(event.type) if event else math.nan
            if back > 1:
                values[f"gap_{back}_before"] = (
                    (self.past[-back].time_ms - event.time_ms) / SECOND_MS if event else math.nan
                )
        for name in numbers:
            values[f"seconds_since_{name}"] = self._seconds_since(name)
            places = [place for place, event in enumerate(self.earlier) if event.type == name]
            values[f"events_since_{name}"] = len(self.earlier) - places[-1] if places else math.nan
        return values

    def _seconds_since(self, *types: str) -> float:
        times = [event.time_ms for event in self.earlier if event.type in types]
        return (self.now_ms - times[-1]) / SECOND_MS if times else math.nan

    def _own_amount(self) -> dict[str, float]:
        values = {"earlier_purchases": sum(event.type == "purchase" for event in self.earlier)}
        for suffix, span_ms in (("", math.inf), ("_30d", 30 * DAY_MS)):
            amounts = [
                event.amount
                for event in self.earlier
                if event.type == "purchase" and self.now_ms - event.time_ms < span_ms
            ]
            mean = spread = ratio = z = math.nan
            if len(amounts) >= 2:
                mean = math.fsum(amounts) / len(amounts)
                spread = math.sqrt(math.fsum((a - mean) ** 2 for a in amounts) / len(amounts))
                if self.own.type == "purchase":
                    ratio = self.own.amount / max(mean, 1)
                    z = (self.own.amount - mean) / max(spread, 1)
            values |= {f"usual_amount{suffix}": mean, f"amount_spread{suffix}": spread}
            values |= {f"amount_ratio{suffix}": ratio, f"amount_z{suffix}": z}
        return values

    def _ratios(self, spans: tuple[str, ...]) -> dict[str, float]:
        """Each purchase's amount is compared with the mean of the purchases before it."""
        ratios, amounts = {}, []
        for event in self.past:
            if event.type == "purchase":
                mean = sum(amounts) / len(amounts) if amounts else 0
                ratios[event] = event.amount / max(mean, 1) if len(amounts) >= 2 else 1.0
                amounts.append(event.amount)
        values = {}
        for span in spans:
            recent = [ratios[event] for event in self._within(span, "purchase")]
            values[f"large_{span}"] = sum(ratio > 3 for ratio in recent)
            capped = [min(ratio, 20) for ratio in recent]
            values[f"mean_ratio_{span}"] = sum(capped) / len(capped) if capped else math.nan
        return values

    def _frauds(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for span in ("1d", "7d", "30d", "90d"):
            recent, settled = self._within(span), self._within(span, end_ms_ago=self.delay_ms)
            values[f"frauds_{span}"] = sum(map(self._is_known_fraud, recent))
            values[f"fraud_rate_{span}"] = values[f"frauds_{span}"] / max(len(recent), 1)
            values[f"settled_{span}"] = len(settled)
            values[f"risk_{span}"] = sum(map(self._is_known_fraud, settled)) / max(len(settled), 1)
            fraud_labels = [label for label in self.labels.values() if label.fraud]
            values[f"fraud_labels_{span}"] = sum(
                self.now_ms - label.time_ms < SPAN_MS[span] for label in fraud_labels
            )
        known_frauds = [event for event in self.past if self._is_known_fraud(event)]
        values["days_since_last_fraud"] = (
            (self.now_ms - known_frauds[-1].time_ms) / DAY_MS if known_frauds else math.nan
        )
        settled = [event for event in self.past if event.time_ms <= self.now_ms - self.delay_ms]
        for span in ("7d", "30d", "90d"):
            spree_from_ms = self.now_ms - self.delay_ms - SPAN_MS[span]
            spree = [event for event in known_frauds if event.time_ms > spree_from_ms]
            values[f"days_since_first_fraud_{span}"] = (
                (self.now_ms - spree[0].time_ms) / DAY_MS if spree else math.nan
            )
            since = settled[self.past.index(spree[0]) :] if spree else []
            values[f"risk_since_first_fraud_{span}"] = sum(map(self._is_known_fraud, since)) / max(
                len(since), 1
            )
        return values
