"""Section 4 of docs/data-contract.md in plain Python: what is remembered of a user."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import NamedTuple

from tests.reference.validation import EPOCH, TYPES, Valid

DAY_MS = 86_400_000
TOKEN_CHARS = 4_096
VECTORS_PER_ENCODER = 3
NEVER_DAYS = 400  # since a purchase that never was
TIES_WITHIN_DECIMALS = 9  # shares this close are equal, and their names decide


class Token(NamedTuple):
    """What the model reads of an event, and all that history keeps of it."""

    time_ms: int
    type_index: int  # in TYPES
    item: str
    category: str
    amount: float

    @classmethod
    def of(cls, event: Valid) -> Token:
        type_index = TYPES.index(event.event_type)
        return cls(event.time_ms, type_index, event.item, event.category, event.amount)


def token_text(token: Token) -> str:
    time_ms, type_index, item, category, amount = token
    letter = chr(ord("a") + type_index)
    return "\x1f".join((str(time_ms), letter, item, category, double_text(amount)))


def double_text(value: float) -> str:
    """The shortest decimal of a double, in Java's notation: 12.0, 0.001, 1.0E7, 2.5E-4."""
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value)
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    digits_text = "".join(map(str, digits)).rstrip("0")
    power = exponent + len(digits) - 1
    return f"{'-' if sign else ''}{digits_text[0]}.{digits_text[1:] or '0'}E{power}"


def kept(arrived: Sequence[Valid]) -> list[Token]:
    """What stays of a window: the tokens that lie whole in its last 4,096 characters.

    The cut goes by arrival; then they are in order of time, and of their other fields where times
    are equal.
    """
    tokens = [Token.of(event) for event in arrived]
    lengths = [len(token_text(token)) for token in tokens]
    if sum(lengths) + len(tokens) - 1 >= TOKEN_CHARS:
        # The first token in the tail goes even if it is whole: a kept one has a separator before.
        room, first = TOKEN_CHARS, len(tokens)
        while lengths[first - 1] + 1 <= room:
            first -= 1
            room -= lengths[first] + 1
        tokens = tokens[first:]
    return sorted(tokens)


def beside(events: Sequence[Valid]) -> dict[tuple[str, int], list[float]]:
    """What a window's events, in their order, bring beside tokens: for each encoder and length of
    its vectors their mean; and the last place, as ("@place", 2)."""
    found: dict[tuple[str, int], list[list[float]]] = defaultdict(list)
    for event in events:
        if event.media is not None:
            encoder, vector = event.media
            length = math.sqrt(sum(number**2 for number in vector))
            found[encoder, len(vector)].append([number / length for number in vector])
    means = {}
    for key, vectors in found.items():
        newest = vectors[-VECTORS_PER_ENCODER:]
        means[key] = [sum(numbers) / len(newest) for numbers in zip(*newest, strict=True)]
    places = [event.place for event in events if event.place is not None]
    if places:
        means["@place", 2] = list(places[-1])
    return means


class Baselines:
    """The long-term totals of one user. Decayed sums are carried from window end to window end."""

    def __init__(self, tau_ms: float) -> None:
        self.tau_ms = tau_ms
        self.windows = self.events = self.purchases = self.purchase_windows = 0
        self.amount = 0.0
        self.last_purchase_ms: int | None = None
        self.at_ms: int | None = None  # the end of the latest window: what the sums are decayed to
        # Sums over windows of weight x (p, n, n^2, a, a^2)
        self.w_p = self.w_n = self.w_nn = self.w_a = self.w_aa = 0.0
        self.hours = [0.0] * 24
        self.weekdays = [0.0] * 7

    def add(self, end_ms: int, events: Iterable[Valid]) -> None:
        """Adds the user's next window."""
        fade = 1.0 if self.at_ms is None else math.exp((self.at_ms - end_ms) / self.tau_ms)
        self.at_ms = end_ms
        self.hours = [share * fade for share in self.hours]
        self.weekdays = [share * fade for share in self.weekdays]
        count, amount = 0, 0.0
        self.windows += 1
        for event in events:
            self.events += 1
            time = EPOCH + timedelta(milliseconds=event.time_ms)
            self.hours[time.hour] += 1
            self.weekdays[time.weekday()] += 1
            if event.event_type == "purchase":
                count += 1
                amount += event.amount
                self.last_purchase_ms = max(self.last_purchase_ms or 0, event.time_ms)
        self.purchases += count
        self.amount += amount
        self.purchase_windows += count > 0
        self.w_p = self.w_p * fade + (count > 0)
        self.w_n = self.w_n * fade + count
        self.w_nn = self.w_nn * fade + count**2
        self.w_a = self.w_a * fade + amount
        self.w_aa = self.w_aa * fade + amount**2

    def features(self, at_ms: int) -> dict[str, float | None]:
        """The features that need no model, as seen at `at_ms`."""
        fade = 1.0 if self.at_ms is None else math.exp((self.at_ms - at_ms) / self.tau_ms)
        last = self.last_purchase_ms
        count_mean, count_std = self._mean_and_std(self.w_n, self.w_nn)
        amount_mean, amount_std = self._mean_and_std(self.w_a, self.w_aa)
        return {
            "windows": self.windows,
            "events": self.events,
            "purchases": self.purchases,
            "amount": self.amount,
            "purchase_windows": self.purchase_windows,
            "recency_days": None if last is None else (at_ms - last) / DAY_MS,
            "purchases_decayed": self.w_n * fade,
            "amount_decayed": self.w_a * fade,
            "purchase_count_mean": count_mean,
            "purchase_count_std": count_std,
            "purchase_amount_mean": amount_mean,
            "purchase_amount_std": amount_std,
        }

    def known(self, at_ms: int, recent: Sequence[Token]) -> dict[str, float]:
        """What the model is told beside the tokens; `recent`: those of the last windows."""
        fade = 1.0 if self.at_ms is None else math.exp((self.at_ms - at_ms) / self.tau_ms)
        numbers = self.features(at_ms)
        if numbers["recency_days"] is None:
            numbers["recency_days"] = NEVER_DAYS
        first_ms = min((token.time_ms for token in recent), default=at_ms)
        return {
            **numbers,
            "purchase_windows_decayed": self.w_p * fade,
            "history_days": (at_ms - first_ms) / DAY_MS,
            "history_events": len(recent),
            "history_amount": sum(t.amount for t in recent if TYPES[t.type_index] == "purchase"),
        }

    def activity(self) -> tuple[list[float], list[float]]:
        """Shares by hour and by weekday: the time they are seen at cancels out."""
        return _shares(self.hours), _shares(self.weekdays)

    def _mean_and_std(self, sum_x: float, sum_xx: float) -> tuple[float, float]:
        if self.w_p == 0:
            return 0.0, 0.0
        mean = sum_x / self.w_p
        return mean, math.sqrt(max(0.0, sum_xx / self.w_p - mean**2))


def affinity(tokens: Iterable[Token], at_ms: int, tau_ms: float) -> dict[str, float]:
    """The share of every known category."""
    weights: dict[str, float] = defaultdict(float)
    for token in tokens:
        if token.category:
            weights[token.category] += math.exp((token.time_ms - at_ms) / tau_ms)
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def largest(values: Mapping[str, float], count: int) -> list[tuple[str, float]]:
    """The names with the largest values; ties by name."""
    ranked = sorted((-round(value, TIES_WITHIN_DECIMALS), name) for name, value in values.items())
    return [(name, values[name]) for _, name in ranked[:count]]


def _shares(weights: list[float]) -> list[float]:
    total = sum(weights)
    return [weight / total if total else 0.0 for weight in weights]
