"""Counts drift alerts on simulated weeks with and without a known distribution shift.

    python -m benchmarks.drift [--users N] [--change NAME] [SEED ...]

Expected: no alert without a shift, and one soon after a shift. The drift monitor of one worker gets
the events in order of event time, as fast as possible, and its clock shows the event time. Prints a
line of JSON per seed and shift.

Shapes: N events of a shop, R monitored events, F features.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.support.inline_executor import InlineExecutor
from benchmarks.support.memory_drift_store import MemoryDriftStore
from liveprofile.resources import product_path
from liveprofile.settings import Settings
from liveprofile.units import DAY_MS, HOUR_MS
from models.fraud.datasets.entity_history import EntityHistory, EventColumns
from models.fraud.datasets.event_dataset import concatenate
from models.fraud.datasets.simulated import simulate_dataset
from models.fraud.datasets.simulated_shop import SimulatedShop, simulate_shop
from models.fraud.model import FraudModel, probability
from models.fraud.training.drift_reference import drift_reference_of_dataset
from models.fraud.training.train_simulated import FraudRecipe
from udfs.scoring.drift_monitor import CHECK_EVERY_S, DriftMonitor

# Seeds 401 to 408 were used to choose the rules of liveprofile.drift.
SEEDS = tuple(range(421, 429))
FIRST_DAY = 35  # first monitored day of a shop: the longest feature spans are 30 days
UNSHIFTED_DAYS = 7
SHIFT_FROM_MS, SHIFT_MS = (FIRST_DAY + 1) * DAY_MS + 10 * HOUR_MS, 6 * HOUR_MS
SHIFTED_DAYS = 4

# (events, (N,) bool: shifted events) -> events with the shift applied
Shift = Callable[[EventColumns, np.ndarray], EventColumns]


def scale_amounts(factor: float) -> Shift:
    def shift(events: EventColumns, shifted_N: np.ndarray) -> EventColumns:
        return events._replace(amount=np.where(shifted_N, factor * events.amount, events.amount))

    return shift


def remove_entity(entity: str) -> Shift:
    """Shifted events have no such entity."""

    def shift(events: EventColumns, shifted_N: np.ndarray) -> EventColumns:
        return _with_entity_codes(events, entity, np.where(shifted_N, 0, events.entities[entity]))

    return shift


def replace_entity(entity: str) -> Shift:
    """Shifted events have entities that have not occurred before."""

    def shift(events: EventColumns, shifted_N: np.ndarray) -> EventColumns:
        codes_N = events.entities[entity]
        new_N = shifted_N & (codes_N > 0)
        return _with_entity_codes(events, entity, np.where(new_N, codes_N + codes_N.max(), codes_N))

    return shift


def _with_entity_codes(events: EventColumns, entity: str, codes_N: np.ndarray) -> EventColumns:
    return events._replace(entities=events.entities | {entity: codes_N.astype(np.int32)})


SHIFTS: dict[str, Shift | None] = {
    "none": None,
    "amounts x 3": scale_amounts(3.0),
    "amounts x 2": scale_amounts(2.0),
    "amounts x 1/2": scale_amounts(0.5),
    "devices missing": remove_entity("device"),
    "places missing": remove_entity("place"),
    "addresses missing": remove_entity("address"),
    "shops new": replace_entity("shop"),
}


def monitor_shop(
    model: FraudModel, shop: SimulatedShop, start_ms: int, shift_name: str
) -> tuple[list[dict[str, Any]], MemoryDriftStore]:
    """Monitors the events of a shop; returns the data of its drift alerts and the drift store.

    start_ms: the first midnight of the shop, epoch.
    """
    history, time_in_shop_ms_N = shop.history, shop.time_ms_N - start_ms
    days, shift = UNSHIFTED_DAYS, SHIFTS[shift_name]
    if shift is not None:
        days = SHIFTED_DAYS
        shifted_N = (time_in_shop_ms_N >= SHIFT_FROM_MS) & (
            time_in_shop_ms_N < SHIFT_FROM_MS + SHIFT_MS
        )
        history = EntityHistory(shift(history.events, shifted_N), history.labels)
    rows = np.flatnonzero(
        (time_in_shop_ms_N >= FIRST_DAY * DAY_MS)
        & (time_in_shop_ms_N < (FIRST_DAY + days) * DAY_MS)
    )
    x_RF = history.features(rows, model.names, model.delay_days)
    score_R, event_ms_R = probability(model.log_odds(x_RF)), shop.time_ms_N[rows]
    user_R = shop.user_N[rows]
    store, now_s = MemoryDriftStore(), [event_ms_R[0] / 1_000]
    monitor = DriftMonitor(
        model.reference,
        model.version,
        model.names,
        store,
        after_days=0,
        clock=lambda: now_s[0],
        executor=InlineExecutor(),
    )
    alerts = []
    for part in _split_by_check(event_ms_R):
        now_s[0] = event_ms_R[part[-1]] / 1_000
        sent = monitor.observe(
            x_RF[part], score_R[part], event_ms_R[part], user_R[part], range(len(part))
        )
        alerts += [json.loads(alert)["data"] for alert in sent]
    return alerts, store


def _split_by_check(event_ms_R: np.ndarray) -> Iterator[np.ndarray]:
    minute_R = event_ms_R // round(CHECK_EVERY_S * 1_000)
    yield from np.split(np.arange(len(minute_R)), np.flatnonzero(np.diff(minute_R)) + 1)


def with_resized_reference(model: FraudModel, recipe: FraudRecipe) -> FraudModel:
    """The model with the drift reference of shops of the recipe's size."""
    datasets = [
        simulate_dataset(config, model.names, model.delay_days, recipe.days // 2, None)
        for config in map(recipe.config, recipe.validation_seeds)
    ]
    reference = drift_reference_of_dataset(
        model, concatenate(datasets), model.reference.alert_score
    )
    return replace(model, reference=reference)


def main(seeds: list[int], users: int | None, shift_names: list[str]) -> None:
    model = FraudModel.load(product_path(Settings().scoring.checkpoint))
    recipe = FraudRecipe()
    if users is not None:
        recipe = recipe.sized(users, recipe.days)
        model = with_resized_reference(model, recipe)
    for seed in seeds:
        config = recipe.config(seed)
        shop = simulate_shop(config)
        for shift_name in shift_names:
            alerts, store = monitor_shop(model, shop, config.start_ms, shift_name)
            print(
                json.dumps({"seed": seed, "change": shift_name} | _summarize(alerts, store)),
                flush=True,
            )


def _summarize(alerts: list[dict[str, Any]], store: MemoryDriftStore) -> dict[str, Any]:
    decided = {scope.split("/")[1]: len(store.decisions(scope, 1_000)) for scope in store.states}
    return {
        "decided": decided,
        "alerts": [
            {name: alert[name] for name in ("period", "state", "period_start", "period_end")}
            | {"drifted": [reason["name"] for reason in alert["reasons"]]}
            for alert in alerts
        ],
    }


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.drift")
    arguments.add_argument("seeds", type=int, nargs="*", default=SEEDS)
    arguments.add_argument(
        "--users", type=int, help="users per shop; default: those of the model's own shops"
    )
    arguments.add_argument(
        "--change", choices=SHIFTS, action="append", help="shift, repeatable; default: all"
    )
    chosen = arguments.parse_args()
    main(chosen.seeds, chosen.users, chosen.shift_name or list(SHIFTS))
