"""Section 4 of docs/data-contract.md in plain Python: baselines and category affinity."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from tests.reference.history import Token
from tests.reference.units import DAY_MS
from tests.reference.validation import EPOCH, TYPES, ValidEvent

NEVER_PURCHASED_DAYS = 400  # recency in the model's input before the first purchase
SHARE_DECIMALS = 9  # shares equal after rounding are ties, ordered by name


class Baselines:
    """A user's long-term sums. `add` decays them from one window end to the next."""

    def __init__(self, tau_ms: float) -> None:
        self.tau_ms = tau_ms
        self.windows = self.events = self.purchases = self.purchase_windows = 0
        self.amount = 0.0
        self.last_purchase_ms: int | None = None
        self.decayed_to_ms: int | None = None  # end of the latest window
        # Sums over windows of weight x (p, n, n^2, a, a^2)
        self.w_p = self.w_n = self.w_nn = self.w_a = self.w_aa = 0.0
        self.hours = [0.0] * 24
        self.weekdays = [0.0] * 7

    def add(self, end_ms: int, events: Iterable[ValidEvent]) -> None:
        """Adds the user's next window."""
        decay = self._decay(end_ms)
        self.decayed_to_ms = end_ms
        self.hours = [weight * decay for weight in self.hours]
        self.weekdays = [weight * decay for weight in self.weekdays]
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
        self.w_p = self.w_p * decay + (count > 0)
        self.w_n = self.w_n * decay + count
        self.w_nn = self.w_nn * decay + count**2
        self.w_a = self.w_a * decay + amount
        self.w_aa = self.w_aa * decay + amount**2

    def features(self, at_ms: int) -> dict[str, float | None]:
        """The features without a model, at the time `at_ms`."""
        decay = self._decay(at_ms)
        last_ms = self.last_purchase_ms
        count_mean, count_std = self._mean_and_std(self.w_n, self.w_nn)
        amount_mean, amount_std = self._mean_and_std(self.w_a, self.w_aa)
        return {
            "windows": self.windows,
            "events": self.events,
            "purchases": self.purchases,
            "amount": self.amount,
            "purchase_windows": self.purchase_windows,
            "recency_days": None if last_ms is None else (at_ms - last_ms) / DAY_MS,
            "purchases_decayed": self.w_n * decay,
            "amount_decayed": self.w_a * decay,
            "purchase_count_mean": count_mean,
            "purchase_count_std": count_std,
            "purchase_amount_mean": amount_mean,
            "purchase_amount_std": amount_std,
        }

    def model_input(self, at_ms: int, history: Sequence[Token]) -> dict[str, float]:
        """The numbers that the model gets with the tokens of `history`, at the time `at_ms`."""
        numbers = self.features(at_ms)
        if numbers["recency_days"] is None:
            numbers["recency_days"] = NEVER_PURCHASED_DAYS
        first_ms = min((token.time_ms for token in history), default=at_ms)
        return {
            **numbers,
            "purchase_windows_decayed": self.w_p * self._decay(at_ms),
            "history_days": (at_ms - first_ms) / DAY_MS,
            "history_events": len(history),
            "history_amount": sum(t.amount for t in history if TYPES[t.type_index] == "purchase"),
        }

    def activity(self) -> tuple[list[float], list[float]]:
        """Shares by hour and by weekday. The decay to a later time cancels out."""
        return _shares(self.hours), _shares(self.weekdays)

    def _decay(self, to_ms: int) -> float:
        if self.decayed_to_ms is None:
            return 1.0
        return math.exp((self.decayed_to_ms - to_ms) / self.tau_ms)

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


def largest(shares: Mapping[str, float], count: int) -> list[tuple[str, float]]:
    """The names with the largest shares; ties by name."""
    ranked = sorted((-round(share, SHARE_DECIMALS), name) for name, share in shares.items())
    return [(name, shares[name]) for _, name in ranked[:count]]


def _shares(weights: list[float]) -> list[float]:
    total = sum(weights)
    return [weight / total if total else 0.0 for weight in weights]
