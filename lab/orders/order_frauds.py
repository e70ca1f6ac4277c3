"""Does a sequence model earn a place beside the trees, or is the order of events in columns enough?

    python -m lab.orders.order_frauds shops [--seeds 21 22 23] [--extra-events 0.2 1.5]
    python -m lab.orders.order_frauds simulated
    python -m lab.orders.order_frauds handbook FILE

`shops`: shops whose frauds show in order and timing alone (lab.orders.order_shops). Each is
trained on its own labels: 40 days train, 15 later days test. Prints a line of JSON for each shop
and for each share of extra events.
`simulated`, `handbook`: the trees without and with order on the validation split of `liveprofile
model train event-risk` and `event-risk-handbook`, with one setting of the trees.

Shape suffixes: N events, C columns.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import average_precision_score

from benchmarks.support.report import describe
from intake.simulator import ShopConfig
from lab.card_transactions import train_handbook
from lab.card_transactions.data import TrainTestPeriod, read_transactions, train_test_rows
from lab.card_transactions.span_sets import SPAN_SETS, names_within
from lab.orders.order_shops import OrderShop, OrderShopConfig, draw_shop
from lab.orders.order_transformer import (
    LENGTH,
    LastEvents,
    fit_transformer,
    last_events,
    out_of_fold,
)
from lab.simulated.shops import concatenate, simulate_dataset
from lab.simulated.train import FraudRecipe
from liveprofile.features.entity import ORDER_FEATURES
from models.fraud.datasets.event_dataset import (
    EventDataset,
    LabelledFeatures,
    downsample_legitimate,
)
from models.fraud.model import trees_log_odds
from models.fraud.training.fit import FEATURES, choose_order, fit_trees
from models.fraud.transitions import COLUMNS, TransitionModel, append_out_of_fold
from models.profile.evaluation.intervals import UserBootstrap

SETTING = {"max_depth": 5, "rounds": 200, "eta": 0.07}  # that of the shipped model, as the spans
SPANS = SPAN_SETS["fine"]
NAMES = names_within(FEATURES, SPANS)
TRANSFORMER = "transformer"
PRODUCT = "trees + order features + transitions"  # the choice of a training with order
TRAIN_DAYS, TEST_DAYS = (10, 50), (75, 90)  # lists fill first; labels come after 7 days
LEGITIMATE_ROWS = 15_000  # of training
DELAY_DAYS = 7.0
_CHUNK_ROWS = 2_000
VALIDATION_WEEK = TrainTestPeriod.from_dates(
    date(2018, 7, 25), date(2018, 7, 31), 7, date(2018, 8, 8), date(2018, 8, 14)
).validation_period()
SHOP_USERS = 1 << 32  # users of different shops have different numbers


class Split(NamedTuple):
    """N events of a part of a shop."""

    x_NF: np.ndarray  # NAMES, then ORDER_FEATURES
    fraud_N: np.ndarray
    user_N: np.ndarray
    events: LastEvents
    weight: float


def split_of(shop: OrderShop, days: tuple[int, int], legitimate: int | None) -> Split:
    rows, weight = np.flatnonzero((shop.day_N >= days[0]) & (shop.day_N < days[1])), 1.0
    if legitimate is not None:
        kept, weight = downsample_legitimate(shop.fraud_N[rows], legitimate)
        rows = rows[kept]
    chunks = np.array_split(rows, -(-len(rows) // _CHUNK_ROWS))
    events = [last_events(shop.history.rows(chunk), LENGTH) for chunk in chunks]
    return Split(
        shop.history.features(rows, [*NAMES, *ORDER_FEATURES], DELAY_DAYS),
        shop.fraud_N[rows],
        shop.user_N[rows],
        LastEvents(*map(np.concatenate, zip(*events, strict=True))),
        weight,
    )


def log_odds_by_model(train: Split, test: Split) -> dict[str, np.ndarray]:
    """Returns (N,) log-odds of the test events by each model."""
    names, plain, order = [*NAMES, *ORDER_FEATURES], len(NAMES), len(NAMES) + len(ORDER_FEATURES)
    x_train = append_out_of_fold(train.x_NF, names, train.fraud_N, train.user_N)
    x_test = TransitionModel.fit(train.x_NF, names, train.fraud_N).append(test.x_NF, names)
    inputs = [*names, *COLUMNS, TRANSFORMER]
    held_out_N = out_of_fold(fit_transformer, train.events, train.fraud_N, train.user_N)
    transformer_N = fit_transformer(train.events, train.fraud_N)(test.events)
    x_train = np.column_stack([x_train, held_out_N])
    x_test = np.column_stack([x_test, transformer_N])
    features, order_features = list(range(plain)), list(range(plain, order))
    transitions, transformer = list(range(order, len(inputs) - 1)), [len(inputs) - 1]

    def trees(columns: list[int]) -> np.ndarray:
        labelled = LabelledFeatures(x_train[:, columns], train.fraud_N)
        chosen = [inputs[column] for column in columns]
        return trees_log_odds(
            fit_trees(labelled, train.weight, chosen, SETTING), x_test[:, columns]
        )

    return {
        "trees": trees(features),
        "transformer alone": transformer_N,
        "trees + transformer": trees(features + transformer),
        "trees + order features": trees(features + order_features),
        "trees + transitions": trees(features + transitions),
        PRODUCT: trees(features + order_features + transitions),
        f"{PRODUCT} + transformer": trees(features + order_features + transitions + transformer),
    }


def measure_shops(seeds: list[int], extra_events: float) -> dict[str, Any]:
    """Returns average precision by model over all shops, with gains over the trees."""
    scores, frauds, users = [], [], []
    for number, seed in enumerate(seeds):
        shop = draw_shop(OrderShopConfig(seed, extra_events=extra_events))
        train, test = split_of(shop, TRAIN_DAYS, LEGITIMATE_ROWS), split_of(shop, TEST_DAYS, None)
        scores.append(log_odds_by_model(train, test))
        frauds.append(test.fraud_N)
        users.append(test.user_N + number * SHOP_USERS)
        report = {
            "seed": seed,
            "extra_events": extra_events,
            "training": [len(train.fraud_N), int(train.fraud_N.sum())],
            "test": [len(test.fraud_N), int(test.fraud_N.sum())],
            "average_precision": {
                name: round(float(average_precision_score(test.fraud_N, score_N)), 4)
                for name, score_N in scores[-1].items()
            },
        }
        print(json.dumps(report), flush=True)
    pooled = {name: np.concatenate([each[name] for each in scores]) for name in scores[0]}
    fraud_N, bootstrap = np.concatenate(frauds), UserBootstrap(np.concatenate(users))
    never_N = np.zeros(len(fraud_N))
    base = float(fraud_N.mean())

    def interval(first_N: np.ndarray, second_N: np.ndarray, plus: float = 0.0) -> list[float]:
        return [
            round(plus + each, 4)
            for each in bootstrap.average_precision(first_N, second_N, fraud_N)
        ]

    return {
        "seeds": seeds,
        "extra_events": extra_events,
        "events": len(fraud_N),
        "frauds": int(fraud_N.sum()),
        "share_of_frauds": round(base, 5),
        # Equal scores have an average precision of the share of frauds, nearly so on resamples.
        "average_precision_95": {n: interval(s_N, never_N, base) for n, s_N in pooled.items()},
        "gain_95": {
            f"{name} - {other}": interval(pooled[name], pooled[other])
            for name, other in (
                *((name, "trees") for name in pooled if name != "trees"),
                (PRODUCT, "trees + transformer"),
                (PRODUCT, "trees + order features"),
                (PRODUCT, "trees + transitions"),
                (f"{PRODUCT} + transformer", PRODUCT),
            )
        },
    }


def measure_simulated() -> dict[str, Any]:
    """Trees without and with order on the validation shops of the shipped model.

    Of its training shops, the young ones and the copies with hidden entities are left out.
    """
    recipe = FraudRecipe()

    def simulate(configs: list[ShopConfig], first_day: int, rows: int | None) -> EventDataset:
        return concatenate(
            [
                simulate_dataset(
                    config, [*NAMES, *ORDER_FEATURES], recipe.delay_days, first_day, rows
                )
                for config in configs
            ]
        ).events

    shops = [recipe.config(seed) for seed in recipe.validation_seeds]
    settled = recipe.training_configs()[: len(recipe.train_seeds)]
    train = simulate(settled, 0, recipe.legitimate_rows)
    validation = simulate(shops, recipe.warm_up_days, None)
    return choose_order(
        train.labelled,
        train.user_M,
        train.weight,
        validation.labelled,
        validation.user_M,
        NAMES,
        SETTING,
    )[1]


def measure_handbook(file: Path) -> dict[str, Any]:
    """Trees without and with order on the validation week of the Handbook."""
    data = read_transactions(file)
    features = train_handbook.JobFeatures(data, VALIDATION_WEEK.delay_days)
    names = names_within(train_handbook.FEATURES, SPANS)
    train_rows, rows_N = train_test_rows(data, VALIDATION_WEEK)
    train, weight, card_N = features.training(train_rows, [*names, *ORDER_FEATURES])
    validation = features.labelled(rows_N, [*names, *ORDER_FEATURES])
    return choose_order(train, card_N, weight, validation, data.card_N[rows_N], names, SETTING)[1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.orders.order_frauds")
    commands = parser.add_subparsers(dest="command", required=True)
    shops = commands.add_parser("shops")
    shops.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23])
    shops.add_argument("--extra-events", type=float, nargs="+", default=[0.2, 1.5])
    commands.add_parser("simulated")
    commands.add_parser("handbook").add_argument("file", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "shops":
        for extra_events in arguments.extra_events:
            report = measure_shops(arguments.seeds, extra_events)
            print(json.dumps({**describe(), **report}), flush=True)
        return
    if arguments.command == "simulated":
        report = measure_simulated()
    else:
        report = measure_handbook(arguments.file)
    print(json.dumps({**describe(), **report}))


if __name__ == "__main__":
    main()
