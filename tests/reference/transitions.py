"""The Markov model of a user's last events in plain Python, with dicts and one event at a time.

Shares no code with models.fraud.transitions, which it checks.
"""

import itertools
import math
from collections import defaultdict

Event = tuple[str, float]  # type, time in seconds
State = tuple[str, int] | None  # None: no event

TYPES = ("purchase", "return", "login", "coupon", "follow", "share")
EDGES_S = (3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
STATES: list[State] = [None, *((name, bucket) for name in TYPES for bucket in range(9))]


def states(past: list[Event]) -> list[State]:
    """The states of the last eight events, the newest first. past: oldest first."""
    found: list[State] = []
    for place in range(len(past) - 1, len(past) - 9, -1):
        if place < 0:
            found.append(None)
            continue
        gap_s = past[place][1] - past[place - 1][1] if place else math.inf
        found.append((past[place][0], sum(gap_s >= edge for edge in EDGES_S)))
    return found


def log_ratios(pasts: list[list[Event]], frauds: list[bool]) -> dict[tuple[State, State], float]:
    """By earlier and later state."""
    counts: dict[bool, dict] = {True: defaultdict(int), False: defaultdict(int)}
    for past, fraud in zip(pasts, frauds, strict=True):
        newest_first = states(past)
        for later, earlier in itertools.pairwise(newest_first):
            counts[fraud][earlier, later] += 1
    ratios = {}
    for earlier in STATES:
        total = sum(counts[False][earlier, later] + 0.5 for later in STATES)
        fraud_total = sum(counts[True][earlier, later] for later in STATES) + 5
        for later in STATES:
            legitimate = (counts[False][earlier, later] + 0.5) / total
            fraud = (counts[True][earlier, later] + 5 * legitimate) / fraud_total
            ratios[earlier, later] = math.log(fraud / legitimate)
    return ratios


def columns(past: list[Event], ratios: dict[tuple[State, State], float]) -> list[float]:
    """The log-ratios of the last seven transitions, newest first, then their running sums."""
    newest_first = states(past)
    values = [ratios[earlier, later] for later, earlier in itertools.pairwise(newest_first)]
    return values + [sum(values[: place + 1]) for place in range(7)]
