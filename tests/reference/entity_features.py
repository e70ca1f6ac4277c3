"""The features of liveprofile.features.entity in plain Python, one event at a time, from the data contract.

Slow on purpose, and it shares no code with what it checks: written from the definitions alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

SECOND, HOUR, DAY = 1_000, 3_600_000, 86_400_000
SPAN_MS = {
    "1m": 60 * SECOND, "10m": 600 * SECOND, "1h": HOUR, "1d": DAY, "3d": 3 * DAY, "7d": 7 * DAY,
    "14d": 14 * DAY, "28d": 28 * DAY, "30d": 30 * DAY,
}  # fmt: skip
LETTERS = {"purchase": "d", "return": "e", "share": "h", "follow": "i", "coupon": "j", "login": "l"}
ENTITIES = ("device", "place", "shop", "coupon", "address")
DISTINCT = {"device": "devices", "place": "places", "shop": "shops", "coupon": "coupon_ids",
            "address": "addresses"}  # fmt: skip


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


def java_hash(text: str) -> int:
    value = 0
    units = text.encode("utf-16-be")
    for high, low in zip(units[::2], units[1::2], strict=True):
        value = (31 * value + (high << 8 | low)) & 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def entries(arrivals: list[Arrival], upto: int, owner: str, keep: int) -> list[Arrival]:
    """The list of the owner ("user" or an entity) of the event at `upto`: what a job would hold."""
    key = getattr(arrivals[upto], owner)
    if not key:
        return []
    about = (a if isinstance(a, Event) else a.event for a in arrivals[: upto + 1])
    held = [a for a, event in zip(arrivals, about, strict=False) if getattr(event, owner) == key]
    return held[-keep:]


def text(held: list[Arrival], owner: str) -> str:
    """The list as the job's SQL writes it."""
    return "\x1e".join("\x1f".join(_fields(one, owner)) for one in held)


def _fields(one: Arrival, owner: str) -> Iterator[str]:
    event = one if isinstance(one, Event) else one.event
    yield LETTERS[one.type] if isinstance(one, Event) else "-+"[one.fraud]
    yield str(one.time_ms)
    yield str(java_hash(event.id))
    yield repr(float(one.amount)) if isinstance(one, Event) else "0"
    for name in ENTITIES if owner == "user" else ("user",):
        value = getattr(event, name)
        known = isinstance(one, Event) or owner != "user"
        yield str(java_hash(value)) if value and known else ""


def features(
    arrivals: list[Arrival], upto: int, keep: int = 128, delay_days: float = 7
) -> dict[str, float]:
    own = arrivals[upto]
    hour = own.time_ms // HOUR % 24
    found = {
        "amount": own.amount,
        "hour": hour,
        "weekend": (own.time_ms // DAY + 3) % 7 in (5, 6),
        "night": hour <= 6,
    }
    for name in LETTERS:
        found[f"is_{name}"] = own.type == name
    for owner in ("user", *ENTITIES):
        held = entries(arrivals, upto, owner, keep)
        about = _OfOwner(held, own, round(delay_days * DAY))
        columns = about.of_user() if owner == "user" else about.of_entity()
        missing = owner != "user" and not held
        found |= {f"{owner}_{name}": math.nan if missing else v for name, v in columns.items()}
    return {name: float(value) for name, value in found.items()}


class _OfOwner:
    def __init__(self, held: list[Arrival], own: Event, delay_ms: int):
        self.own, self.now, self.delay_ms = own, own.time_ms, delay_ms
        seen, past = set(), []
        for one in sorted(
            (one for one in held if one.time_ms <= self.now), key=lambda one: one.time_ms
        ):
            if isinstance(one, Event) and (one.id, one.time_ms) not in seen:
                seen.add((one.id, one.time_ms))
                past.append(one)
        self.past: list[Event] = past
        self.earlier = past[:-1]
        self.verdicts: dict[str, Label] = {}
        for label in sorted(
            (one for one in held if isinstance(one, Label) and one.time_ms <= self.now),
            key=lambda label: label.time_ms,
        ):
            self.verdicts[label.event.id] = label

    def within(self, span: str, *types: str, ended_ms: int = 0) -> list[Event]:
        until = self.now - ended_ms
        return [
            one for one in self.past
            if until - SPAN_MS[span] < one.time_ms <= until and (not types or one.type in types)
        ]  # fmt: skip

    def known_fraud(self, one: Event) -> bool:
        return one.id in self.verdicts and self.verdicts[one.id].fraud

    def any_owner(self, ratio_spans: tuple[str, ...]) -> dict[str, float]:
        found: dict[str, float] = {}
        for span in ("1m", "10m", "1h", "1d", "7d", "30d"):
            found[f"events_{span}"] = len(self.within(span))
        for span in ("1d", "7d", "30d"):
            amounts = [one.amount for one in self.within(span, "purchase")]
            found[f"mean_amount_{span}"] = sum(amounts) / len(amounts) if amounts else math.nan
        for span in ("1h", "1d", "7d"):
            bought = self.within(span, "purchase")
            tiny = sum(one.amount <= 2 for one in bought)
            found[f"tiny_{span}"] = tiny
            found[f"tiny_share_{span}"] = tiny / len(bought) if bought else 0
        found |= self.own_amount() | self.ratios(ratio_spans) | self.frauds()
        found["list_events"] = len(self.past)
        found["list_days"] = (self.now - self.past[0].time_ms) / DAY if self.past else 0
        found["seconds_since_event"] = self.since(*LETTERS)
        return found

    def of_user(self) -> dict[str, float]:
        found = self.any_owner(("1d", "3d", "7d", "14d"))
        names = {"purchases": "purchase", "returns": "return", "logins": "login"}
        for span in ("1m", "10m", "1h", "1d", "7d", "30d"):
            for what, name in (names | {"coupons": "coupon"}).items():
                found[f"{what}_{span}"] = len(self.within(span, name))
            found[f"amount_{span}"] = sum(one.amount for one in self.within(span, "purchase"))
        for entity in ENTITIES:
            for span in ("1h", "1d", "7d"):
                keys = {getattr(one, entity) for one in self.within(span)} - {""}
                found[f"{DISTINCT[entity]}_{span}"] = len(keys)
            key = getattr(self.own, entity)
            before = {getattr(one, entity) for one in self.earlier}
            found[f"new_{entity}"] = key not in before if key else math.nan
        found["seconds_since_purchase"] = self.since("purchase")
        found["seconds_since_login"] = self.since("login")
        return found

    def of_entity(self) -> dict[str, float]:
        found = self.any_owner(("1d", "7d", "28d"))
        for span in ("1d", "7d", "30d"):
            bought = self.within(span, "purchase")
            found[f"purchases_{span}"] = len(bought)
            found[f"amount_{span}"] = sum(one.amount for one in bought)
        for span in ("1h", "1d", "7d"):
            found[f"users_{span}"] = len({one.user for one in self.within(span)})
        for span in ("1d", "7d"):
            lately = self.within(span)
            cut = len(self.past) - len(lately)
            known = {one.user for one in self.past[:cut]}
            new = len({one.user for one in lately} - known)
            found[f"new_user_share_{span}"] = new / len(lately) if lately else 0
        return found

    def since(self, *types: str) -> float:
        times = [one.time_ms for one in self.earlier if one.type in types]
        return (self.now - times[-1]) / SECOND if times else math.nan

    def own_amount(self) -> dict[str, float]:
        found = {"earlier_purchases": sum(one.type == "purchase" for one in self.earlier)}
        for end, span_ms in (("", math.inf), ("_30d", 30 * DAY)):
            amounts = [
                one.amount for one in self.earlier
                if one.type == "purchase" and self.now - one.time_ms < span_ms
            ]  # fmt: skip
            mean = spread = ratio = z = math.nan
            if len(amounts) >= 2:
                mean = math.fsum(amounts) / len(amounts)
                spread = math.sqrt(math.fsum((a - mean) ** 2 for a in amounts) / len(amounts))
                if self.own.type == "purchase":
                    ratio = self.own.amount / max(mean, 1)
                    z = (self.own.amount - mean) / max(spread, 1)
            found |= {f"usual_amount{end}": mean, f"amount_spread{end}": spread}
            found |= {f"amount_ratio{end}": ratio, f"amount_z{end}": z}
        return found

    def ratios(self, spans: tuple[str, ...]) -> dict[str, float]:
        ratio, bought = {}, []
        for one in self.past:
            if one.type == "purchase":
                mean = sum(bought) / len(bought) if bought else 0
                ratio[one] = one.amount / max(mean, 1) if len(bought) >= 2 else 1.0
                bought.append(one.amount)
        found = {}
        for span in spans:
            lately = [ratio[one] for one in self.within(span, "purchase")]
            found[f"large_{span}"] = sum(one > 3 for one in lately)
            capped = [min(one, 20) for one in lately]
            found[f"mean_ratio_{span}"] = sum(capped) / len(capped) if capped else math.nan
        return found

    def frauds(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for span in ("1d", "7d", "30d"):
            lately, settled = self.within(span), self.within(span, ended_ms=self.delay_ms)
            found[f"frauds_{span}"] = sum(map(self.known_fraud, lately))
            found[f"fraud_rate_{span}"] = found[f"frauds_{span}"] / max(len(lately), 1)
            found[f"settled_{span}"] = len(settled)
            found[f"risk_{span}"] = sum(map(self.known_fraud, settled)) / max(len(settled), 1)
            given = [one for one in self.verdicts.values() if one.fraud]
            found[f"fraud_labels_{span}"] = sum(
                self.now - one.time_ms < SPAN_MS[span] for one in given
            )
        known = [one for one in self.past if self.known_fraud(one)]
        spree_from = self.now - self.delay_ms - SPAN_MS["28d"]
        spree = [one for one in known if one.time_ms > spree_from]
        found["days_since_last_fraud"] = (self.now - known[-1].time_ms) / DAY if known else math.nan
        found["days_since_first_fraud"] = found["risk_since_first_fraud"] = math.nan
        if spree:
            found["days_since_first_fraud"] = (self.now - spree[0].time_ms) / DAY
        settled = [one for one in self.past if one.time_ms <= self.now - self.delay_ms]
        since = settled[self.past.index(spree[0]) :] if spree else []
        found["risk_since_first_fraud"] = sum(map(self.known_fraud, since)) / max(len(since), 1)
        return found
