"""The whole of docs/data-contract.md in plain Python: what the job is judged against.

`run()` takes the records of the input topic in arrival order and says what each one is (rejected,
heartbeat, duplicate, late, used) and what every window of every user must hold. Clarity comes
before speed. It forgets nothing: `state.dedup_ttl_ms` and `state.user_ttl_ms`, which run by the
job's own clock, are not played.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from tests.reference.user_history import Baselines, Token, affinity, beside, kept, largest
from tests.reference.validation import TYPES, Heartbeat, Rejected, Valid, check, clock_ms

HOUR_MS = 3_600_000
DAY_MS = 86_400_000

Position = tuple[int, int]  # partition, offset
Features = dict[str, float | None]


class Record(NamedTuple):
    """One record of the input topic."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


class Score(Protocol):
    """What a model says of one window: churn_before, churn_after, expected_spend_before,
    expected_spend_after and surprise. History and window come whole, as tokens in their order;
    beside them what is known of the user before and after (Baselines.known), and what the window
    brings (reference_user.beside)."""

    def __call__(
        self,
        history: list[Token],
        window: list[Token],
        known_before: Mapping[str, float],
        known_after: Mapping[str, float],
        brought: Mapping[tuple[str, int], Sequence[float]],
        /,
    ) -> Mapping[str, float]: ...


class Flag(NamedTuple):
    flag_id: str
    rule_id: str
    reason: str
    value: float
    threshold: float


@dataclass(frozen=True)
class Profile:
    """One window of one user. What needs a model is missing without one."""

    user_id: str
    window_start_ms: int
    window_end_ms: int
    events: int
    counts: dict[str, int]  # by type; none that is 0
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
    digests: list[bytes]  # in the window's order
    rule_values: dict[str, float]  # of the rules that could be computed
    active_rules: frozenset[str]
    flags: list[Flag]


@dataclass
class Result:
    """Where every record went, and every window; a window is in the job's output once it closed."""

    rejected: dict[Position, Rejected] = field(default_factory=dict)
    heartbeats: set[Position] = field(default_factory=set)
    duplicates: set[Position] = field(default_factory=set)
    late: set[Position] = field(default_factory=set)
    used: set[Position] = field(default_factory=set)
    profiles: dict[tuple[str, int], Profile] = field(default_factory=dict)  # (user, window end)
    watermark_ms: int | None = None

    def closed(self) -> dict[tuple[str, int], Profile]:
        """The windows that the final watermark has passed."""
        reached = -1 if self.watermark_ms is None else self.watermark_ms
        return {key: profile for key, profile in self.profiles.items() if key[1] - 1 <= reached}


def run(
    records: Iterable[Record],
    settings: Any,
    late: Set[Position] | None = None,
    score: Score | None = None,
    rules: Sequence[Mapping[str, Any]] = (),
) -> Result:
    """Plays the contract over `records`, which come in arrival order.

    `settings`: anything with the window, state and limits sections of liveprofile.config.Settings.
    `late`: what the job put in its late topic, since which event is late depends on how partitions
    interleave; None computes it as if `records` were the one global order and each event moved its
    partition's watermark (partitions without an event so far don't hold it back).
    `rules`: the tables of rules.toml; those of single events are left out.
    """
    result = Result()
    used = _classify(records, settings, late, result)
    windows: dict[str, dict[int, list[Valid]]] = defaultdict(lambda: defaultdict(list))
    for event in used:
        end_ms = window_end_ms(event.user_id, event.time_ms, settings.window)
        windows[event.user_id][end_ms].append(event)
    for user_id, of_user in windows.items():
        user = _User(user_id, settings, score, rules)
        for end_ms in sorted(of_user):
            result.profiles[user_id, end_ms] = user.close(end_ms, of_user[end_ms])
    return result


def window_end_ms(user_id: str, time_ms: int, window: Any) -> int:
    """Of the user's window that the time lies in: the contract's section 3."""
    shift_ms = 0
    if window.stagger_ms:
        number = int.from_bytes(hashlib.md5(user_id.encode("utf-8")).digest()[:2], "big") // 16
        shift_ms = number % (window.length_ms // window.stagger_ms) * window.stagger_ms
    return ((time_ms - shift_ms) // window.length_ms + 1) * window.length_ms + shift_ms


def _classify(
    records: Iterable[Record], settings: Any, late: Set[Position] | None, result: Result
) -> list[Valid]:
    """Fills everything of `result` but the profiles; returns the used events as they arrived."""
    used: list[Valid] = []
    seen: set[str] = set()
    largest_ms: dict[int, int] = {}  # by partition
    for partition, offset, timestamp_ms, _key, value in records:
        position = (partition, offset)
        event = check(value, timestamp_ms, settings.limits)
        if isinstance(event, Rejected):
            result.rejected[position] = event
            time_ms = clock_ms(value, timestamp_ms, settings.limits)
        else:
            time_ms = event.time_ms
        if isinstance(event, Heartbeat):
            result.heartbeats.add(position)
        elif isinstance(event, Valid) and event.event_id in seen:
            result.duplicates.add(position)
        elif isinstance(event, Valid):
            seen.add(event.event_id)
            if late is None:
                last_ms = window_end_ms(event.user_id, time_ms, settings.window) - 1
                is_late = result.watermark_ms is not None and last_ms <= result.watermark_ms
            else:
                is_late = position in late
            if is_late:
                result.late.add(position)
            else:
                result.used.add(position)
                used.append(event)
        if time_ms is not None and time_ms > largest_ms.get(partition, -1):
            largest_ms[partition] = time_ms
            result.watermark_ms = min(largest_ms.values()) - settings.window.out_of_orderness_ms
    return used


class _User:
    """What is remembered of one user from window to window."""

    def __init__(
        self, user_id: str, settings: Any, score: Score | None, rules: Sequence[Mapping[str, Any]]
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
        self.history: list[list[Token]] = []  # of the last K windows
        self.baselines = Baselines(self.tau_ms)
        self.was_active: frozenset[str] = frozenset()
        self.last_raised_ms: dict[str, int] = {}

    def close(self, end_ms: int, arrived: list[Valid]) -> Profile:
        """The profile of the window, whose events come in arrival order; then remembers it."""
        start_ms = end_ms - self.settings.window.length_ms
        events = sorted(arrived, key=lambda event: (event.time_ms, event.event_id))
        window = [Token.of(event) for event in events]
        history = [token for past in self.history for token in past]
        purchases = [event for event in events if event.event_type == "purchase"]
        amount = sum((event.amount for event in purchases), 0.0)

        before = self.baselines.features(start_ms)
        known_before = self.baselines.known(start_ms, history)
        activity_before = self.baselines.activity()
        self.baselines.add(end_ms, events)
        after = self.baselines.features(end_ms)
        activity_after = self.baselines.activity()
        surprise = None
        if self.score is not None:
            known_after = self.baselines.known(end_ms, history + window)
            brought = beside(events)
            scores = self.score(history, window, known_before, known_after, brought)
            surprise = scores["surprise"]
            for name in ("churn", "expected_spend"):
                before[name], after[name] = scores[f"{name}_before"], scores[f"{name}_after"]

        affinity_before = affinity(history, start_ms, self.tau_ms)
        affinity_after = affinity(history + window, end_ms, self.tau_ms)
        values, active = self._evaluate(before, len(purchases), amount, len(events), surprise)
        flags = self._raise_flags(end_ms, values, active)
        self.history.append(kept(arrived))
        del self.history[: -self.settings.window.history]
        return Profile(
            user_id=self.user_id,
            window_start_ms=start_ms,
            window_end_ms=end_ms,
            events=len(events),
            counts=dict(Counter(event.event_type for event in events)),
            amount=amount,
            return_amount=sum((e.amount for e in events if e.event_type == "return"), 0.0),
            items=_distinct(event.item for event in events),
            categories=_distinct(event.category for event in events),
            devices=_distinct(event.device for event in events),
            sessions=_distinct(event.session for event in events),
            before=before,
            after=after,
            activity_before=activity_before,
            activity_after=activity_after,
            affinity_before=largest(affinity_before, 10),
            affinity_after=largest(affinity_after, 10),
            moved_categories=_moved(affinity_before, affinity_after),
            segments=_segments(after, history, events),
            surprise=surprise,
            digests=[digest(event.event_id) for event in events],
            rule_values=values,
            active_rules=active,
            flags=flags,
        )

    def _evaluate(
        self, before: Features, purchases: int, amount: float, events: int, surprise: float | None
    ) -> tuple[dict[str, float], frozenset[str]]:
        """The value of every rule that has one, and the ids of the rules that are true."""
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
            if _holds(rule, features):
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
            if rule_id in active and rule_id not in self.was_active and not cooling:
                self.last_raised_ms[rule_id] = end_ms
                flags.append(
                    Flag(
                        flag_id(self.user_id, rule_id, end_ms),
                        rule_id,
                        rule["reason"],
                        values[rule_id],
                        rule["threshold"],
                    )
                )
        self.was_active = active
        return flags


def _holds(rule: Mapping[str, Any], features: Mapping[str, float]) -> bool:
    """A condition is a Python expression, so Python itself judges what the job makes of it."""
    names = {**features, "threshold": rule["threshold"], "abs": abs, "min": min, "max": max}
    return bool(eval(f"({rule['when']}\n)", {"__builtins__": {}}, names))


def flag_id(user_id: str, rule_id: str, window_end_ms: int) -> str:
    text = "\x1f".join((user_id, rule_id, str(window_end_ms)))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def digest(event_id: str) -> bytes:
    return hashlib.blake2b(event_id.encode("utf-8"), digest_size=8).digest()


def _distinct(values: Iterable[str]) -> int:
    return len({value for value in values if value})


def _moved(
    before: Mapping[str, float], after: Mapping[str, float]
) -> list[tuple[str, float, float]]:
    """Shares of all categories count, not only of the ten that are kept."""
    change = {name: abs(after.get(name, 0.0) - before.get(name, 0.0)) for name in {*before, *after}}
    return [(name, before.get(name, 0.0), after.get(name, 0.0)) for name, _ in largest(change, 5)]


def _segments(after: Features, history: list[Token], events: list[Valid]) -> frozenset[str]:
    recency_days = math.nan if after["recency_days"] is None else after["recency_days"]
    rules = {
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
    return frozenset(name for name, holds in rules.items() if holds)
