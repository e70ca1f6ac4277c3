"""What becomes of a user model's recommendations as the model gets older, and what a refit gives.

    python -m lab.user_model.aging ROWS [age] [unseen] [short] [--recipe NAME]

A model is trained and chosen on earlier windows than its recipe's, so that months without any part
in it lie before the recipe's test part, which is not read. By default it trains until 153 days
before the test part and validates until 92 days before it; the 92 days are measured.

- age: the model, the model after `train --refit validation`, and baseline models whose popularity
  and neighbours are those of the training or include validation ("refreshed"), by month.
- unseen: each half of the users trains a model. The user's own and the other half's rank the same
  windows.
- short: the same as age, by the number of a user's windows, and for users who begin after the
  training.

Baseline models are tuned once, on validation. Prints one line of JSON; differences of NDCG@10 have
95 % intervals over users.

Shape suffixes: W windows to predict, U users.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
import typer

from benchmarks.support.report import describe
from lab.baselines.next_basket import MODELS
from lab.baselines.tuning import rank_as_of
from liveprofile.errors import InputError, LiveprofileError
from liveprofile.units import DAY_MS
from models.profile import checkpoint
from models.profile.data import training_rows
from models.profile.data.prepared import (
    PreparedData,
    Split,
    iso_utc,
    prepare_refit,
    prepare_streams,
    split_by_time,
)
from models.profile.data.training_rows import Streams
from models.profile.evaluation.intervals import UserBootstrap
from models.profile.evaluation.next_basket import Kind, NextBaskets, basket_scores, next_baskets
from models.profile.evaluation.served import served_rankings
from models.profile.inference import ProfileModel
from models.profile.model_card import ModalityTrial
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe, recipe
from models.profile.training import fit_modalities, fit_ranker
from models.profile.training.train import fit
from models.profile.values import INPUTS, ValueCurveHead

Analysis = Literal["age", "unseen", "short"]
Scores = dict[str, np.ndarray]  # by model: (W,) NDCG@10
TRAIN_DAYS_BEFORE, VALIDATION_DAYS_BEFORE = 153, 92  # the test part: five and three months
MONTH_MS = 31 * DAY_MS
BASELINES = {name: MODELS[name] for name in ("own_counts", "tifu_knn", "boosted_ranker")}
NEIGHBOUR_MODELS = ("own_counts", "tifu_knn")  # those that know later windows without a training
HISTORIES = {"1": (1, 1), "2": (2, 2), "3-5": (3, 5), "6-10": (6, 10), "11+": (11, 1 << 30)}
DECIMALS = 4


class Trained(NamedTuple):
    """A model as `liveprofile model train` makes it, without what no ranking reads."""

    model: BehaviourTransformer
    data: PreparedData
    epochs: int
    modalities: list[ModalityTrial]
    ranker: dict[str, Any]


def train(settings: Recipe, data: PreparedData, chosen: Trained | None = None) -> Trained:
    """chosen: a model whose choices are repeated, as `liveprofile model train --refit` does."""
    trunk = fit(settings, data, epochs=chosen and chosen.epochs)
    model = trunk.model
    checkpoint.round_weights(model)
    modalities = fit_modalities.fit(
        model, data.corpus, data.split, settings, chosen=chosen and chosen.modalities
    )
    ranker = fit_ranker.fit(model, data, settings, chosen=chosen and chosen.ranker)
    model.value_curves = ValueCurveHead(len(INPUTS), 1, 1)  # no ranking reads it
    checkpoint.round_weights(model)
    return Trained(model, data, trunk.best_epoch, modalities, ranker)


class Measurement(NamedTuple):
    """The windows to predict, of validation and of the measured months."""

    settings: Recipe
    streams: Streams
    kind: Kind
    split: Split
    targets: NextBaskets

    def ndcg_of(self, trained: Trained) -> np.ndarray:
        """(W,) NDCG@10 of what the job would store with this model."""
        settings = self.settings
        card = {
            "version": settings.name,
            "revision": settings.revision,
            "decay_days": settings.decay_days,
            "ranked_items": settings.ranked_items,
        }
        served = ProfileModel(
            trained.model,
            trained.data.items,
            trained.data.categories,
            card,
            device=torch.device("cpu"),
            batch_rows=512,
            length_buckets=(8, 16, 32),
        )
        rankings = served_rankings(
            served, self.streams, self.targets.window_W, settings.history_windows
        )
        return basket_scores(self.targets, getattr(rankings, self.kind)).ndcg_at_10

    def baselines(self) -> tuple[Scores, dict[str, Any]]:
        """NDCG@10 of the baseline models, and their settings."""
        split = self.split
        known = np.union1d(split.train, split.validation)
        ranked = rank_as_of(
            self.streams,
            self.kind,
            split,
            self.targets,
            {"": split.train, "_refreshed": known},
            BASELINES,
        )
        scores = {
            model + when: basket_scores(self.targets, each.ranking_RK).ndcg_at_10
            for model, by_reference in ranked.items()
            for when, each in by_reference.items()
            if not when or model in NEIGHBOUR_MODELS
        }
        return scores, {model: each[""].settings for model, each in ranked.items()}

    def end_ms_W(self) -> np.ndarray:
        """The ends of the windows that are predicted."""
        return self.streams.end_ms_W[self.targets.window_W + 1]

    def is_measured_W(self) -> np.ndarray:
        """Whether the window has no part in training and validation."""
        return self.end_ms_W() > self.split.validation_until_ms

    def compare(
        self, scores: Mapping[str, np.ndarray], of: tuple[str, ...], chosen_W: np.ndarray
    ) -> dict[str, Any]:
        """Means of the chosen windows, and the models `of` minus each other one."""
        if not chosen_W.any():
            return {"windows": 0}
        user_W = self.targets.user_W[chosen_W]
        bootstrap = UserBootstrap(user_W)
        return {
            "windows": int(chosen_W.sum()),
            "users": len(np.unique(user_W)),
            "ndcg_at_10": {
                name: round(float(each_W[chosen_W].mean()), DECIMALS)
                for name, each_W in scores.items()
            },
            **{
                f"{first}_over": {
                    name: _rounded(bootstrap.mean(scores[first][chosen_W], each_W[chosen_W]))
                    for name, each_W in scores.items()
                    if name not in of[of.index(first) :]
                }
                for first in of
            },
        }


def by_age(measurement: Measurement, scores: Scores) -> dict[str, Any]:
    """scores: of `model`, `refit` and the baseline models."""
    measured_W, end_ms_W = measurement.is_measured_W(), measurement.end_ms_W()
    month_W = (end_ms_W - measurement.split.validation_until_ms - 1) // MONTH_MS
    before = {name: scores[name] for name in ("model", *BASELINES)}  # the others know validation
    return {
        "validation": measurement.compare(before, ("model",), ~measured_W),
        "measured": measurement.compare(scores, ("model", "refit"), measured_W),
        "months": [
            measurement.compare(scores, ("model", "refit"), measured_W & (month_W == month))
            for month in range(int(month_W.max()) + 1)
        ],
    }


def by_history(measurement: Measurement, scores: Scores) -> dict[str, Any]:
    """As `by_age`, by the windows that the user has had, and for users new since the training."""
    user_W, window_W = measurement.streams.user_W, measurement.targets.window_W
    first_W = np.searchsorted(user_W, user_W[window_W])
    had_W, measured_W = window_W - first_W + 1, measurement.is_measured_W()
    is_new_W = measurement.streams.end_ms_W[first_W] > measurement.split.train_until_ms
    groups = {name: (had_W >= low) & (had_W <= high) for name, (low, high) in HISTORIES.items()}
    groups |= {"new since the training": is_new_W, "known to the training": ~is_new_W}
    return {
        name: measurement.compare(scores, ("model", "refit"), measured_W & group_W)
        for name, group_W in groups.items()
    }


def by_membership(measurement: Measurement, scores: Scores) -> dict[str, Any]:
    """Models of one half of the users each, on windows of users with a part in the training."""
    streams, split, settings = measurement.streams, measurement.split, measurement.settings
    half_U = np.random.default_rng(settings.seed).permutation(streams.users) % 2
    of_half = []
    for half in range(2):
        train_W, validation_W = (
            windows[half_U[streams.user_W[windows]] == half]
            for windows in (split.train, split.validation)
        )
        data = prepare_streams(
            settings, streams, split._replace(train=train_W, validation=validation_W)
        )
        of_half.append(measurement.ndcg_of(train(settings, data)))
    own_half_W = half_U[measurement.targets.user_W]
    seen_W = np.where(own_half_W == 0, *of_half)
    unseen_W = np.where(own_half_W == 0, *reversed(of_half))
    trained = np.isin(measurement.targets.user_W, streams.user_W[split.train])
    others = {name: scores[name] for name in BASELINES}
    return measurement.compare(
        {"seen": seen_W, "unseen": unseen_W, **others},
        ("unseen", "seen"),
        measurement.is_measured_W() & trained,
    )


def aging(
    streams: Streams, settings: Recipe, kind: Kind, split: Split, analyses: tuple[Analysis, ...]
) -> dict[str, Any]:
    """The report of each analysis. The measured months are the test part of `split`."""
    torch.set_num_threads(1)
    windows = np.union1d(split.validation, split.test)
    measurement = Measurement(settings, streams, kind, split, next_baskets(streams, kind, windows))
    scores, tuned = measurement.baselines()
    report: dict[str, Any] = {"baselines_chosen": tuned}
    if "age" in analyses or "short" in analyses:
        model = train(settings, prepare_streams(settings, streams, split))
        more = prepare_refit(settings, model.data, "validation")
        models = {"model": model, "refit": train(settings, more, model)}
        ndcg = {name: measurement.ndcg_of(each) for name, each in models.items()} | scores
        report["chosen"] = {"epochs": model.epochs, "ranker": model.ranker}
        if "age" in analyses:
            report["age"] = by_age(measurement, ndcg)
        if "short" in analyses:
            report["short"] = by_history(measurement, ndcg)
    if "unseen" in analyses:
        report["unseen"] = by_membership(measurement, scores)
    return report


def earlier_split(
    settings: Recipe,
    end_ms_W: np.ndarray,
    train_until_ms: int | None,
    validation_until_ms: int | None,
    until_ms: int | None,
) -> Split:
    """A split before the recipe's test part. Raises InputError for a day in the test part."""
    test_from_ms = split_by_time(settings, end_ms_W).validation_until_ms
    until_ms = test_from_ms if until_ms is None else until_ms
    if until_ms > test_from_ms:
        raise InputError(
            f"--until {iso_utc(until_ms)}: the test part of recipe {settings.name} begins on"
            f" {iso_utc(test_from_ms)}"
        )
    if validation_until_ms is None:
        validation_until_ms = until_ms - VALIDATION_DAYS_BEFORE * DAY_MS
    if train_until_ms is None:
        train_until_ms = until_ms - TRAIN_DAYS_BEFORE * DAY_MS
    ends_ms = (0, train_until_ms, validation_until_ms, until_ms)
    parts = [
        np.flatnonzero((end_ms_W > after) & (end_ms_W <= last))
        for after, last in itertools.pairwise(ends_ms)
    ]
    if not all(map(len, parts)):
        days = ", ".join(iso_utc(each) for each in ends_ms[1:])
        raise InputError(f"the rows have no window before or between {days}")
    return Split(*parts, *ends_ms[1:])


def _rounded(interval: tuple[float, ...]) -> list[float]:
    return [round(value, DECIMALS) for value in interval]


def _ms(day: datetime | None) -> int | None:
    return day and int(day.replace(tzinfo=UTC).timestamp() * 1000)


def _day(text: str) -> Any:
    return typer.Option(formats=["%Y-%m-%d"], help=text, show_default=False)


def main(
    rows: Annotated[Path, typer.Argument(help="Rows of `liveprofile model backfill`.")],
    analyses: Annotated[
        list[str] | None, typer.Argument(help="age, unseen, short. Default: all.")
    ] = None,
    recipe_name: Annotated[str, typer.Option("--recipe")] = "online-retail",
    kind: Annotated[Literal["item", "category"], typer.Option()] = "item",
    train_until: Annotated[datetime | None, _day("End of the training.")] = None,
    validation_until: Annotated[datetime | None, _day("End of validation.")] = None,
    until: Annotated[datetime | None, _day("End of the measured months.")] = None,
) -> None:
    """Measure how a user model ages and what a refit gives, before the recipe's test part."""
    known: tuple[Analysis, ...] = ("age", "unseen", "short")
    chosen = tuple(analyses or known)
    if unknown := set(chosen) - set(known):
        raise typer.BadParameter(f"{unknown.pop()}: one of {', '.join(known)}")
    settings, streams = recipe(recipe_name), training_rows.read(rows)
    try:
        split = earlier_split(
            settings, streams.end_ms_W, _ms(train_until), _ms(validation_until), _ms(until)
        )
    except LiveprofileError as error:
        raise typer.BadParameter(str(error)) from None
    report = aging(streams, settings, kind, split, chosen)
    line = {
        "benchmark": "aging",
        **describe(),
        "recipe": settings.name,
        "rows": streams.fingerprint(),
        "kind": kind,
        "train_until": iso_utc(split.train_until_ms),
        "validation_until": iso_utc(split.validation_until_ms),
        "until": iso_utc(split.test_until_ms),
        "windows": {name: len(part) for name, part in zip(Split._fields[:3], split, strict=False)},
        **report,
    }
    typer.echo(json.dumps(line))


if __name__ == "__main__":
    typer.run(main)
