"""Section 5 of docs/data-contract.md in plain Python, and `run_reference`, which applies 1 to 6.

The profile pipeline of the job must store and send what `run_reference` returns. The code favours
clarity over speed. State never expires: `state.dedup_ttl_ms` and `state.user_ttl_ms` use processing
time, which the reference does not simulate.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.reference.baselines import Baselines, affinity, largest
from tests.reference.history import (
    HISTORY_WINDOWS,
    Token,
    long_history,
    modality_inputs,
    window_tokens,
)
from tests.reference.rules import Flag, flag_id, is_true
from tests.reference.units import DAY_MS, HOUR_MS
from tests.reference.validation import TYPES, ValidEvent
from tests.reference.windows import (
    NOBODY,
    Classification,
    Position,
    Record,
    classify,
    window_end_ms,
)

Features = dict[str, float | None]


class ScoreWindow(Protocol):
    """The model's scores of one window.

    It returns churn_before, churn_after, expected_spend_before, expected_spend_after and surprise.
    `history` and `window` hold all tokens in order. The numbers before and after the window are
    those of Baselines.model_input. `vectors` are those of history.modality_inputs, `memory` is that
    of history.long_history. The last number is the window's length in days.
    """

    def __call__(
        self,
        history: list[Token],
        window: list[Token],
        numbers_before: Mapping[str, float],
        numbers_after: Mapping[str, float],
        vectors: Mapping[tuple[str, int], Sequence[float]],
        memory: Sequence[tuple[int, Sequence[Token]]],
        window_days: float,
        /,
    ) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Profile:
    """One window of one user. Without a model, the values of the model are missing."""

    user_id: str
    window_start_ms: int
    window_end_ms: int
    events: int
    counts: dict[str, int]  # by type, without zeros
    amount: float
    return_amount: float
    items: int
    categories: int
    devices: int
    sessions: int
    before: Features
    after: Features
    activity_before: tuple[list[float], list[float]]  # 24 hours, 7 weekdays
    activity_after: tuple[list[float], list[float]]
    affinity_before: list[tuple[str, float]]  # the ten largest shares
    affinity_after: list[tuple[str, float]]
    moved_categories: list[tuple[str, float, float]]  # category, share before, share after
    segments: frozenset[str]
    surprise: float | None
    digests: list[bytes]  # of the event ids, in the window's order
    rule_values: dict[str, float]  # of the rules whose features are known
    active_rules: frozenset[str]
    flags: list[Flag]
    computed: dict[str, float | None]  # the shipped attributes


@dataclass
class Result(Classification):
    """The class of every record, and every window, closed or not."""

    profiles: dict[tuple[str, int], Profile] = field(default_factory=dict)  # (user, window end)

    def closed(self) -> dict[tuple[str, int], Profile]:
        """The windows that the final watermark has passed, which the job must have output."""
        reached = -1 if self.watermark_ms is None else self.watermark_ms
        return {key: profile for key, profile in self.profiles.items() if key[1] - 1 <= reached}


def run_reference(
    records: Iterable[Record],
    settings: Any,
    late: Set[Position] | None = None,
    too_many: Set[Position] | None = None,
    score: ScoreWindow | None = None,
    rules: Sequence[Mapping[str, Any]] = (),
    erased: Mapping[str, int] = NOBODY,
) -> Result:
    """Applies the contract to `records`, which are in arrival order.

    settings: has the sections window, state and limits of liveprofile.settings.Settings.
    late: the positions of late records, for a backfill, which has none. None computes them from the
    clocks of the partitions.
    too_many: the positions that a job with several tasks rejected as TOO_MANY. A user's events
    arrive there in no certain order. None computes them in the order of `records`.
    rules: tables of rules.toml; those of scope event are ignored.
    erased: user -> time in ms, before which the user has no past.
    """
    result = Result()
    used = classify(records, settings, late, too_many, result, erased)
    windows: dict[str, dict[int, list[ValidEvent]]] = defaultdict(lambda: defaultdict(list))
    for event in used:
        end_ms = window_end_ms(event.user_id, event.time_ms, settings.window)
        windows[event.user_id][end_ms].append(event)
    for user_id, windows_of_user in windows.items():
        user = _User(user_id, settings, score, rules)
        for end_ms in sorted(windows_of_user):
            result.profiles[user_id, end_ms] = user.close_window(end_ms, windows_of_user[end_ms])
    return result


def _by_content(event: ValidEvent) -> tuple[Any, ...]:
    """The order in a window, as far as results of this module depend on it."""
    return Token.from_event(event), event.device, event.place or (), event.media or ()


class _User:
    """The state of one user."""

    def __init__(
        self,
        user_id: str,
        settings: Any,
        score: ScoreWindow | None,
        rules: Sequence[Mapping[str, Any]],
    ) -> None:
        self.user_id = user_id
        self.settings = settings
        self.score = score
        self.rules = [
            rule
            for rule in rules
            if rule["scope"] == "window" and rule.get("state", "ACTIVE") != "PAUSED"
        ]
        self.tau_ms = settings.state.decay_days * DAY_MS
        self.history: list[list[Token]] = []  # tokens of the last windows
        self.memory: list[tuple[int, list[Token]]] = []  # all windows
        self.baselines = Baselines(self.tau_ms)
        self.carts_ms: list[int] = []  # since the last purchase
        self.spent: list[tuple[int, float]] = []
        self.previously_active: frozenset[str] = frozenset()
        self.last_raised_ms: dict[str, int] = {}

    def close_window(self, end_ms: int, arrived: list[ValidEvent]) -> Profile:
        """Returns the profile of a window and updates the state. `arrived`: in arrival order."""
        start_ms = end_ms - self.settings.window.length_ms
        # Events of one time are a set: what their ids are decides nothing.
        events = sorted(arrived, key=_by_content)
        window = [Token.from_event(event) for event in events]
        history = [token for earlier in self.history for token in earlier]
        purchases = [event for event in events if event.event_type == "purchase"]
        amount = sum((event.amount for event in purchases), 0.0)

        before = self.baselines.features(start_ms)
        numbers_before = self.baselines.model_input(start_ms, history)
        activity_before = self.baselines.activity()
        self.baselines.add(end_ms, events)
        after = self.baselines.features(end_ms)
        activity_after = self.baselines.activity()
        kept = window_tokens(arrived)
        self.memory.append((end_ms, kept))
        surprise = None
        if self.score is not None:
            numbers_after = self.baselines.model_input(end_ms, history + window)
            vectors = modality_inputs(events)
            numbers = (numbers_before, numbers_after)
            memory, days = long_history(self.memory), (end_ms - start_ms) / DAY_MS
            scores = self.score(history, window, *numbers, vectors, memory, days)
            surprise = scores["surprise"]
            for name in ("churn", "expected_spend"):
                before[name], after[name] = scores[f"{name}_before"], scores[f"{name}_after"]

        affinity_before = affinity(history, start_ms, self.tau_ms)
        affinity_after = affinity(history + window, end_ms, self.tau_ms)
        values, active = self._evaluate(before, len(purchases), amount, len(events), surprise)
        flags = self._raise_flags(end_ms, values, active)
        self.history.append(kept)
        del self.history[:-HISTORY_WINDOWS]
        return Profile(
            user_id=self.user_id,
            window_start_ms=start_ms,
            window_end_ms=end_ms,
            events=len(events),
            counts=dict(Counter(event.event_type for event in events)),
            amount=amount,
            return_amount=sum((e.amount for e in events if e.event_type == "return"), 0.0),
            items=_count_distinct(event.item for event in events),
            categories=_count_distinct(event.category for event in events),
            devices=_count_distinct(event.device for event in events),
            sessions=_count_distinct(event.session for event in events),
            before=before,
            after=after,
            activity_before=activity_before,
            activity_after=activity_after,
            affinity_before=largest(affinity_before, 10),
            affinity_after=largest(affinity_after, 10),
            moved_categories=_moved_categories(affinity_before, affinity_after),
            segments=_segments(after, history, events),
            surprise=surprise,
            digests=[
                digest(event.event_id)
                for event in sorted(arrived, key=lambda event: (event.time_ms, event.event_id))
            ],
            rule_values=values,
            active_rules=active,
            flags=flags,
            computed=self._computed(end_ms, events),
        )

    def _computed(self, end_ms: int, events: list[ValidEvent]) -> dict[str, float | None]:
        bought = [
            (event.time_ms, event.amount) for event in events if event.event_type == "purchase"
        ]
        last_ms = max((time_ms for time_ms, _ in bought), default=0)
        self.carts_ms += [event.time_ms for event in events if event.event_type == "cart"]
        self.carts_ms = [
            each for each in self.carts_ms if each > last_ms and _counts(each, end_ms, 720)
        ]
        self.spent = [each for each in self.spent + bought if _counts(each[0], end_ms, 720)]
        return {
            "open_carts_2h": sum(_counts(each, end_ms, 2) for each in self.carts_ms),
            "hours_since_cart": (end_ms - max(self.carts_ms)) / HOUR_MS if self.carts_ms else None,
            "spent_30d": math.fsum(amount for _, amount in self.spent),
        }

    def _evaluate(
        self, before: Features, purchases: int, amount: float, events: int, surprise: float | None
    ) -> tuple[dict[str, float], frozenset[str]]:
        """Returns the values of rules whose features are known, and the ids of true rules."""
        count_mean, count_std = before["purchase_count_mean"], before["purchase_count_std"]
        amount_mean, amount_std = before["purchase_amount_mean"], before["purchase_amount_std"]
        features = {name: math.nan if x is None else x for name, x in before.items()}
        features |= {f"{name}_before": before[name] for name in ("events", "purchases", "amount")}
        features |= {
            "events": events,
            "purchases": purchases,
            "amount": amount,
            "purchase_count_z": (purchases - count_mean) / max(count_std, 1.0),
            "purchase_amount_z": (amount - amount_mean) / max(amount_std, 0.1 * amount_mean, 1.0),
        }
        if surprise is not None:
            features["surprise"] = surprise
        values, active = {}, set()
        for rule in self.rules:
            if rule["value"] not in features:
                continue
            values[rule["id"]] = features[rule["value"]]
            if is_true(rule, features):
                active.add(rule["id"])
        return values, frozenset(active)

    def _raise_flags(
        self, end_ms: int, values: Mapping[str, float], active: frozenset[str]
    ) -> list[Flag]:
        flags = []
        for rule in self.rules:
            rule_id = rule["id"]
            last_ms = self.last_raised_ms.get(rule_id)
            cooling = last_ms is not None and end_ms - last_ms < rule["cool_down_hours"] * HOUR_MS
            if rule_id in active and rule_id not in self.previously_active and not cooling:
                self.last_raised_ms[rule_id] = end_ms
                own = (flag_id(self.user_id, rule_id, end_ms), rule_id, rule["reason"])
                flags.append(Flag(*own, values[rule_id], rule["threshold"]))
        self.previously_active = active
        return flags


def _counts(time_ms: int, now_ms: int, hours: int) -> bool:
    """Whether the tile of an event, a twentieth of the span, is not over."""
    tile_ms = hours * HOUR_MS // 20
    return time_ms - time_ms % tile_ms + tile_ms > now_ms - hours * HOUR_MS


def digest(event_id: str) -> bytes:
    return hashlib.blake2b(event_id.encode("utf-8"), digest_size=8).digest()


def _count_distinct(values: Iterable[str]) -> int:
    return len({value for value in values if value})


def _moved_categories(
    before: Mapping[str, float], after: Mapping[str, float]
) -> list[tuple[str, float, float]]:
    """Compares the shares of all categories, not only of the ten in the profile."""
    part = {
        name: divergence_part(before.get(name, 0.0), after.get(name, 0.0))
        for name in {*before, *after}
    }
    return [(name, before.get(name, 0.0), after.get(name, 0.0)) for name, _ in largest(part, 5)]


def divergence_part(before: float, after: float) -> float:
    """A category's part in the Jensen-Shannon divergence of the shares, in nats."""
    middle = (before + after) / 2
    return sum(share * math.log(share / middle) / 2 for share in (before, after) if share > 0)


def _segments(after: Features, history: list[Token], events: list[ValidEvent]) -> frozenset[str]:
    recency_days = math.nan if after["recency_days"] is None else after["recency_days"]
    segments = {
        "new": after["windows"] <= 3,
        "loyal": after["purchase_windows"] >= 10 and recency_days <= 30,
        "lapsing": after["purchase_windows"] >= 3 and recency_days > 30,
        "churn_risk": after.get("churn", 0.0) >= 0.5 and after["purchases"] > 0,
        "browser": after["events"] >= 20 and after["purchases"] == 0,
        "big_spender": after["purchase_windows"] >= 3 and after["purchase_amount_mean"] >= 100,
        "coupon_user": any(TYPES[token.type_index] == "coupon" for token in history)
        or any(
            event.event_type == "coupon" or (event.event_type == "purchase" and event.coupon != "")
            for event in events
        ),
    }
    return frozenset(name for name, holds in segments.items() if holds)
