"""Drift alerts over generated weeks: none without a change, one soon after a planted one.

    python -m benchmarks.drift [--users N] [--change NAME] [SEED ...]

The monitor of one worker is driven in order of event time, as fast as it goes, with its clock at
the time of the events. Prints a line of JSON for each seed and change.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.support.memory_drift_store import MemoryDriftStore
from liveprofile.config import Settings
from liveprofile.resources import product_path
from liveprofile.units import DAY_MS, HOUR_MS
from models.fraud.datasets.entity_history import Events, History
from models.fraud.datasets.simulated import joined, see
from models.fraud.datasets.simulated_rows import Generated, generated
from models.fraud.model import EventModel, probability
from models.fraud.training.drift_reference import of_seen
from models.fraud.training.train_simulated import Recipe
from udfs.scoring.drift_monitor import CHECK_EVERY_S, DriftMonitor

SEEDS = tuple(range(421, 429))  # 401 to 408 served to choose the rules of liveprofile.drift
FIRST_DAY = 35  # of the shop: 30 days fill the longest spans
QUIET_DAYS = 7
SHIFT_FROM_MS, SHIFT_MS = (FIRST_DAY + 1) * DAY_MS + 10 * HOUR_MS, 6 * HOUR_MS
SHIFTED_DAYS = 4


Change = Callable[[Events, np.ndarray], Events]


def amounts_times(factor: float) -> Change:
    def changed(events: Events, shifted_N: np.ndarray) -> Events:
        return events._replace(amount=np.where(shifted_N, factor * events.amount, events.amount))

    return changed


def missing(entity: str) -> Change:
    """No event names it."""

    def changed(events: Events, shifted_N: np.ndarray) -> Events:
        return _with_codes(events, entity, np.where(shifted_N, 0, events.entities[entity]))

    return changed


def new(entity: str) -> Change:
    """All that are named are others than before."""

    def changed(events: Events, shifted_N: np.ndarray) -> Events:
        codes_N = events.entities[entity]
        new_N = shifted_N & (codes_N > 0)
        return _with_codes(events, entity, np.where(new_N, codes_N + codes_N.max(), codes_N))

    return changed


def _with_codes(events: Events, entity: str, codes_N: np.ndarray) -> Events:
    return events._replace(entities=events.entities | {entity: codes_N.astype(np.int32)})


CHANGES: dict[str, Change | None] = {
    "none": None,
    "amounts x 3": amounts_times(3.0),
    "amounts x 2": amounts_times(2.0),
    "amounts x 1/2": amounts_times(0.5),
    "devices missing": missing("device"),
    "places missing": missing("place"),
    "addresses missing": missing("address"),
    "shops new": new("shop"),
}


def watched_week(
    model: EventModel, shop: Generated, start_ms: int, change: str
) -> tuple[list[dict[str, Any]], MemoryDriftStore]:
    """The alerts' data, and the store with every decision. start_ms: the shop's first midnight."""
    history, since_ms = shop.history, shop.time_ms_N - start_ms
    days, changed = QUIET_DAYS, CHANGES[change]
    if changed is not None:
        days = SHIFTED_DAYS
        shifted_N = (since_ms >= SHIFT_FROM_MS) & (since_ms < SHIFT_FROM_MS + SHIFT_MS)
        history = History(changed(history.events, shifted_N), history.labels)
    rows = np.flatnonzero(
        (since_ms >= FIRST_DAY * DAY_MS) & (since_ms < (FIRST_DAY + days) * DAY_MS)
    )
    x_RF = history.features(rows, model.names, model.delay_days, sequence=model.sequence)
    score_R, event_ms_R = probability(model.log_odds(x_RF)), shop.time_ms_N[rows]
    user_R = shop.user_N[rows]
    store, now_s = MemoryDriftStore(), [event_ms_R[0] / 1_000]
    monitor = DriftMonitor(
        model.reference, model.version, model.names, store, after_days=0, clock=lambda: now_s[0]
    )
    alerts = []
    for part in _minutes(event_ms_R):
        now_s[0] = event_ms_R[part[-1]] / 1_000
        told = monitor.observe(
            x_RF[part], score_R[part], event_ms_R[part], user_R[part], range(len(part))
        )
        alerts += [json.loads(one)["data"] for one in told]
    return alerts, store


def _minutes(event_ms_R: np.ndarray) -> Iterator[np.ndarray]:
    minute_R = event_ms_R // round(CHECK_EVERY_S * 1_000)
    yield from np.split(np.arange(len(minute_R)), np.flatnonzero(np.diff(minute_R)) + 1)


def of_size(model: EventModel, recipe: Recipe) -> EventModel:
    """The model with the reference that it would have if its shops had been of the recipe's."""
    parts = [
        see(config, model.names, model.delay_days, recipe.days // 2, None, sequence=model.sequence)
        for config in map(recipe.config, recipe.validation_seeds)
    ]
    reference = of_seen(model, joined(parts), model.reference.alert_score)
    return replace(model, reference=reference)


def main(seeds: list[int], users: int | None, changes: list[str]) -> None:
    model = EventModel.load(product_path(Settings().scoring.checkpoint))
    recipe = Recipe()
    if users is not None:
        recipe = recipe.sized(users, recipe.days)
        model = of_size(model, recipe)
    for seed in seeds:
        config = recipe.config(seed)
        shop = generated(config)
        for change in changes:
            alerts, store = watched_week(model, shop, config.start_ms, change)
            print(json.dumps({"seed": seed, "change": change} | _told(alerts, store)), flush=True)


def _told(alerts: list[dict[str, Any]], store: MemoryDriftStore) -> dict[str, Any]:
    decided = {scope.split("/")[1]: len(store.decisions(scope, 1_000)) for scope in store.states}
    return {
        "decided": decided,
        "alerts": [
            {name: one[name] for name in ("period", "state", "period_start", "period_end")}
            | {"drifted": [reason["name"] for reason in one["reasons"]]}
            for one in alerts
        ],
    }


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.drift")
    arguments.add_argument("seeds", type=int, nargs="*", default=SEEDS)
    arguments.add_argument("--users", type=int, help="other than the model's shops have")
    arguments.add_argument(
        "--change", choices=CHANGES, action="append", help="one of these, or more; else all"
    )
    chosen = arguments.parse_args()
    main(chosen.seeds, chosen.users, chosen.change or list(CHANGES))
