"""Shops whose frauds show in the order and the timing of events alone.

A shop draws its own fraud scripts: a random walk over event types on a sparse random Markov chain,
and a range of seconds for each gap. A fraud is a run of a script; its last event is the labelled
one. An honest session is a run of a script, too, but its events before the last one, its gaps or
both are shuffled, so that it no longer fits the script. Frauds and honest sessions thus have the
same bags of types, numbers of events, durations, sets of gaps, amounts, devices, places, shops,
coupons, users and times, and no feature is designed for a script: nobody knows the scripts before
they are drawn.

Shape suffixes: N events of a shop, S sessions, E events of a session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lab.simulated.entity_history import EntityHistory, EventColumns, LabelColumns
from liveprofile.features.entity import SCORED_TYPES
from liveprofile.units import DAY_MS, HOUR_MS, SECOND_MS
from liveprofile.wire.tokens import TYPE_INDEX, TYPE_LETTERS

START_MS = 19_723 * DAY_MS  # 2024-01-01
MIN_EVENTS, MAX_EVENTS = 4, 8  # of a script
NEXT_TYPES = 2  # that may follow a type in a script's chain
MIN_GAP_S, MAX_GAP_S = 5.0, 1_800.0  # lower ends of a gap's range
GAP_RANGE = 3.0  # upper over lower end
LATEST_START_MS = 12 * HOUR_MS  # after midnight: a session ends on its day
SHUFFLES = 50  # attempts until a shuffled run does not fit its script


@dataclass(frozen=True)
class OrderShopConfig:
    seed: int
    users: int = 1_000
    days: int = 90
    scripts: int = 4
    frauds: int = 800
    honest_per_fraud: int = 20  # sessions
    extra_events: float = 0.2  # mean number of events of any type at any place of a run
    label_delay_days: float = 7.0
    shops: int = 20
    coupons: int = 20


class Script(NamedTuple):
    """E event types and E - 1 ranges of gaps."""

    type_E: np.ndarray  # index into SCORED_TYPES
    low_s: np.ndarray  # (E - 1,) seconds
    high_s: np.ndarray

    def fits(self, type_E: np.ndarray, gap_s: np.ndarray) -> bool:
        """Whether events are a run of the script."""
        return bool(
            len(type_E) == len(self.type_E)
            and (type_E == self.type_E).all()
            and ((self.low_s <= gap_s) & (gap_s <= self.high_s)).all()
        )


class OrderShop(NamedTuple):
    """N scored events of a shop, in order of time."""

    history: EntityHistory
    time_ms_N: np.ndarray
    user_N: np.ndarray
    fraud_N: np.ndarray  # bool
    scripts: list[Script]

    @property
    def day_N(self) -> np.ndarray:
        """Days since the shop's first."""
        return (self.time_ms_N - START_MS) // DAY_MS


def draw_script(rng: np.random.Generator) -> Script:
    """Draws a script with three types or more: with fewer, most shuffles change nothing."""
    count = int(rng.integers(MIN_EVENTS, MAX_EVENTS + 1))
    chain = [rng.choice(len(SCORED_TYPES), NEXT_TYPES, replace=False) for _ in SCORED_TYPES]
    while True:
        types = [int(rng.integers(len(SCORED_TYPES)))]
        while len(types) < count:
            types.append(int(rng.choice(chain[types[-1]])))
        if len(set(types)) >= 3:
            break
        chain = [rng.choice(len(SCORED_TYPES), NEXT_TYPES, replace=False) for _ in SCORED_TYPES]
    low_s = np.exp(rng.uniform(np.log(MIN_GAP_S), np.log(MAX_GAP_S), count - 1))
    return Script(np.array(types), low_s, low_s * GAP_RANGE)


def draw_run(script: Script, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns (E,) types and (E - 1,) gaps in seconds of a run, without any extra event."""
    return script.type_E, np.exp(rng.uniform(np.log(script.low_s), np.log(script.high_s)))


def shuffled(
    script: Script, type_E: np.ndarray, gap_s: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Shuffles the types before the last one, the gaps or both until the run does not fit."""
    what = rng.integers(3)
    for _ in range(SHUFFLES):
        types, gaps = type_E.copy(), gap_s
        if what != 0:
            types[:-1] = rng.permutation(type_E[:-1])
        if what != 1:
            gaps = rng.permutation(gap_s)
        if not script.fits(types, gaps):
            return types, gaps
        what = 2
    raise ValueError("every order of these events and gaps fits the script")


def with_extra_event(
    type_E: np.ndarray, gap_s: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Adds an event of a random type that divides a random gap."""
    gap = int(rng.integers(len(gap_s)))
    first_s = gap_s[gap] * rng.random()
    types = np.insert(type_E, gap + 1, rng.integers(len(SCORED_TYPES)))
    return types, np.concatenate([gap_s[:gap], [first_s, gap_s[gap] - first_s], gap_s[gap + 1 :]])


def draw_shop(config: OrderShopConfig) -> OrderShop:
    """Draws the shop of a seed: scripts, then sessions, each on a day of its own of a user."""
    rng = np.random.default_rng(config.seed)
    scripts = [draw_script(rng) for _ in range(config.scripts)]
    sessions = config.frauds * (1 + config.honest_per_fraud)
    slot_S = rng.choice(config.users * config.days, sessions, replace=False)
    script_S = rng.integers(config.scripts, size=sessions)
    fraud_S = np.arange(sessions) < config.frauds
    runs = []
    for script, fraud in zip(script_S, fraud_S, strict=True):
        type_E, gap_s = draw_run(scripts[script], rng)
        if not fraud:
            type_E, gap_s = shuffled(scripts[script], type_E, gap_s, rng)
        for _ in range(rng.poisson(config.extra_events)):
            type_E, gap_s = with_extra_event(type_E, gap_s, rng)
        runs.append((type_E, gap_s))
    size_S = np.array([len(type_E) for type_E, _ in runs])
    user_S, day_S = slot_S // config.days, slot_S % config.days
    start_S = START_MS + day_S * DAY_MS + rng.integers(LATEST_START_MS, size=sessions)
    time_ms_N = np.concatenate(
        [
            start + np.rint(np.cumsum([0.0, *gap_s]) * SECOND_MS).astype(np.int64)
            for start, (_, gap_s) in zip(start_S, runs, strict=True)
        ]
    )
    fraud_N = np.zeros(len(time_ms_N), bool)
    fraud_N[(np.cumsum(size_S) - 1)[fraud_S]] = True
    order = np.argsort(time_ms_N, kind="stable")
    type_N = np.concatenate([type_E for type_E, _ in runs])[order]
    user_N = np.repeat(user_S, size_S)[order]
    return _shop(config, scripts, time_ms_N[order], type_N, user_N, fraud_N[order], rng)


def _shop(
    config: OrderShopConfig,
    scripts: list[Script],
    time_ms_N: np.ndarray,
    type_N: np.ndarray,
    user_N: np.ndarray,
    fraud_N: np.ndarray,
    rng: np.random.Generator,
) -> OrderShop:
    """Adds amounts and entities, which do not depend on frauds."""
    count = len(time_ms_N)
    letters = np.array([ord(TYPE_LETTERS[TYPE_INDEX[name]]) for name in SCORED_TYPES], np.uint8)
    has_amount_N = np.isin(type_N, [SCORED_TYPES.index(name) for name in ("purchase", "return")])
    is_coupon_N = type_N == SCORED_TYPES.index("coupon")
    events = EventColumns(
        time_ms_N,
        letters[type_N],
        np.where(has_amount_N, np.round(rng.lognormal(3.0, 0.8, count), 2), 0.0),
        np.arange(1, count + 1, dtype=np.int32),
        (user_N + 1).astype(np.int32),
        {
            "device": (user_N + 1).astype(np.int32),
            "place": (user_N // 4 + 1).astype(np.int32),
            "shop": rng.integers(1, config.shops + 1, count, dtype=np.int32),
            "coupon": np.where(is_coupon_N, rng.integers(1, config.coupons + 1, count), 0).astype(
                np.int32
            ),
        },
    )
    row_L = np.flatnonzero(fraud_N)
    known_ms_L = time_ms_N[row_L] + round(config.label_delay_days * DAY_MS)
    labels = LabelColumns(row_L, np.ones(len(row_L), bool), known_ms_L)
    return OrderShop(EntityHistory(events, labels), time_ms_N, user_N, fraud_N, scripts)
