"""Trains and tests the fraud model and its baselines week by week over a file of transactions.

    python -m lab.card_transactions.walk_forward FILE [--weeks N]

Each test week has the protocol of lab.card_transactions.data: a week of training, a week
until its labels are known, the week of the test. Spans, settings and hyperparameters are chosen
once, on the period before the first test week. Prints one line of JSON: the metrics of each week,
and for each baseline the differences over all weeks with their 95 % intervals over cards.

Shapes: M transactions of a test week.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.support import runs
from benchmarks.support.report import describe
from lab.card_transactions.baselines import BASELINES, choose_settings, make_split
from lab.card_transactions.data import (
    TrainTestPeriod,
    Transactions,
    ranking_metrics,
    read_transactions,
)
from lab.card_transactions.features import handbook_features
from lab.card_transactions.train_handbook import JobFeatures, choose_trees, fit_chosen
from models.fraud.model import trees_log_odds
from models.profile.evaluation.intervals import UserBootstrap

WEEK, DELAY_DAYS = 7, 7
HISTORY_DAYS = 30  # before the first training: the longest feature of the Handbook
MODEL = "fraud model"


def test_periods(data: Transactions) -> list[TrainTestPeriod]:
    """All weeks of the file, from the first whose validation period has a history, oldest first."""
    days = data.day_N
    last, first = int(days.max()), int(days.min()) + HISTORY_DAYS
    periods = []
    while (start := last - WEEK + 1) - 2 * (WEEK + DELAY_DAYS) >= first:
        train_end = start - DELAY_DAYS - 1
        periods.append(TrainTestPeriod(train_end - WEEK + 1, train_end, DELAY_DAYS, start, last))
        last -= WEEK
    return periods[::-1]


def weekly_scores(
    data: Transactions, periods: list[TrainTestPeriod]
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """The rows of each test week, and the (M,) scores of each model by name."""
    x_NF = handbook_features(data, DELAY_DAYS)
    job_features = JobFeatures(data, DELAY_DAYS)
    features_of = {"Handbook": lambda rows: x_NF[rows], "job": job_features}
    validation = periods[0].validation_period()
    trees = choose_trees(data, job_features, validation)
    runs.log_progress(
        f"spans: {trees.spans}; order: {trees.order}; settings: {trees.tuned.setting}"
    )
    settings = {}
    for source, of_rows in features_of.items():
        split = make_split(data, validation, of_rows)
        for name, baseline in BASELINES.items():
            settings[source, name] = choose_settings(data, baseline, split)[0]
            runs.log_progress(f"{name}, {source} features: {settings[source, name]}")
    for number, period in enumerate(periods, 1):
        scores = {}
        for source, of_rows in features_of.items():
            split = make_split(data, period, of_rows)
            for name, baseline in BASELINES.items():
                chosen = settings[source, name]
                scores[f"{name}, {source} features"] = split.scores(baseline, chosen)
        train_rows = np.flatnonzero(
            (data.day_N >= period.train_start) & (data.day_N <= period.train_end)
        )
        inputs, booster = fit_chosen(job_features, train_rows, trees)
        test = inputs.of(job_features.labelled(split.rows_M, inputs.names))
        scores[MODEL] = trees_log_odds(booster, test.x_NF)
        runs.log_progress(f"week {number} of {len(periods)}")
        yield split.rows_M, scores


def walk_forward(data: Transactions, periods: list[TrainTestPeriod]) -> dict[str, Any]:
    """Metrics by week, their means, and the model minus each baseline over all weeks."""
    weeks, rows, scores = [], [], []
    for rows_M, of_week in weekly_scores(data, periods):
        weeks.append(
            {
                "from": str(np.datetime64(int(data.day_N[rows_M].min()), "D")),
                "transactions": len(rows_M),
                "frauds": int(data.fraud_N[rows_M].sum()),
                **{
                    name: ranking_metrics(data, rows_M, score_M)._asdict()
                    for name, score_M in of_week.items()
                },
            }
        )
        rows.append(rows_M)
        scores.append(of_week)
    return {"weeks": weeks, "models": _summary(data, weeks, np.concatenate(rows), scores)}


def _summary(
    data: Transactions,
    weeks: list[dict[str, Any]],
    rows: np.ndarray,
    scores: list[dict[str, np.ndarray]],
) -> dict[str, Any]:
    """Over all weeks, scores are ranked within their week: models of two weeks differ in scale."""
    bootstrap = UserBootstrap(data.card_N[rows])
    ranks = {
        name: np.concatenate([_share_below(of_week[name]) for of_week in scores])
        for name in scores[0]
    }
    summary = {}
    for name in ranks:
        metrics = {
            metric: round(float(np.mean([week[name][metric] for week in weeks])), 4)
            for metric in ("roc_auc", "average_precision", "card_precision_at_100")
        }
        if name != MODEL:
            gain = bootstrap.average_precision(ranks[MODEL], ranks[name], data.fraud_N[rows])
            metrics["model_minus_this"] = [round(value, 4) for value in gain]
            better = [
                week[MODEL]["average_precision"] > week[name]["average_precision"] for week in weeks
            ]
            metrics["weeks_model_is_better"] = sum(better)
        summary[name] = metrics
    return summary


def _share_below(score_M: np.ndarray) -> np.ndarray:
    """(M,) share of the week's scores that are lower, so equal scores stay equal."""
    return np.searchsorted(np.sort(score_M), score_M) / len(score_M)


def main(
    file: Annotated[Path, typer.Argument(help="Transactions of the Handbook (Parquet).")],
    weeks: Annotated[
        int | None, typer.Option(min=1, help="Only the last so many test weeks. Default: all.")
    ] = None,
) -> None:
    """Compare the fraud model with its baselines on every week of the file."""
    data = read_transactions(file)
    periods = test_periods(data)
    report = walk_forward(data, periods[-weeks:] if weeks else periods)
    typer.echo(json.dumps({"benchmark": "card-walk-forward", **describe(), **report}))


if __name__ == "__main__":
    typer.run(main)
