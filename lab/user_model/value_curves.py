"""Compares churn, spend and time to the next purchase as stored curves of the time that passes.

    python -m lab.user_model.value_curves ROWS [--recipe NAME] [--days 30]

A value that is computed when a window closes ages until a reader asks for it. Here a head computes,
from the inputs at the window's end, the values at the KNOTS_DAYS after it. A reader interpolates
between them, linearly in log(1 + days), and needs no model. The head is trained on random moments
through the same interpolation, so what is trained is what is read.

Prints one line of JSON for each horizon: the metrics of the curve and of every other model on the
validation moments, with 95 % intervals over users of the curve minus that model. The test part is
not read.

Shape suffixes: M moments, X inputs, K knots, 3 targets: churn, spend, days.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn
from xgboost import XGBClassifier, XGBRegressor

from benchmarks.support.report import describe
from lab.baselines.values import fit_all
from lab.baselines.values.data import BaselineData, Predictions
from lab.user_model.value_inputs import value_inputs
from liveprofile.units import DAY_MS
from models.profile.data import training_rows
from models.profile.data.moments import Moments, Outcomes, outcomes
from models.profile.data.prepared import Split, split_by_time
from models.profile.data.training_rows import Streams
from models.profile.evaluation.any_time import (
    HORIZONS_DAYS,
    compare_values,
    moment_ranges_ms,
    split_moments,
)
from models.profile.recipes import Recipe, recipe
from models.profile.training.losses import learning_rate_schedule
from models.profile.values import knot_weights

KNOTS_DAYS = (0, 1, 2, 4, 7, 14, 30, 60, 120, 240)
TRAINING_MOMENTS_PER_USER = 48
SEED = 20170930
WIDTH, DROPOUT = 96, 0.1
EPOCHS, BATCH_ROWS, LEARNING_RATE, WEIGHT_DECAY = 4, 1024, 2e-3, 0.02
MEMBERS = 3  # heads whose curves are averaged; an ablation has one
# Fixed settings, as those of the head: only the baseline models are tuned on validation.
BOOSTED = {
    "n_estimators": 250,
    "max_depth": 5,
    "min_child_weight": 10,
    "learning_rate": 0.05,
    "subsample": 0.8,
    "colsample_bytree": 0.4,
    "tree_method": "hist",
    "n_jobs": 1,
    "random_state": SEED,
}


class Part(NamedTuple):
    """M moments with what is known and what happens."""

    stored_MX: np.ndarray  # inputs at the end of the moment's window
    read_MX: np.ndarray  # inputs at the moment
    elapsed_days_M: np.ndarray
    truth: Outcomes

    @classmethod
    def of(cls, streams: Streams, moments: Moments, days: int, settings: Recipe) -> Part:
        end_ms_M = streams.end_ms_W[moments.window_M]
        sizes = (settings.history_windows, settings.decay_days)
        return cls(
            value_inputs(streams, Moments(moments.window_M, end_ms_M), *sizes),
            value_inputs(streams, moments, *sizes),
            (moments.at_ms_M - end_ms_M) / DAY_MS,
            outcomes(streams, moments, days),
        )


class CurveHead(nn.Module):
    """(M, 3, K) raw values at the knots: a linear and a deep model of the inputs."""

    def __init__(self, mean_X: Tensor, std_X: Tensor, knots: int):
        super().__init__()
        inputs, self.knots = len(mean_X), knots
        self.register_buffer("mean", mean_X)
        self.register_buffer("std", std_X)
        self.first, self.second = nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, 3 * knots)
        self.linear = nn.Linear(inputs, 3 * knots, bias=False)
        for weight in (self.out.weight, self.out.bias, self.linear.weight):
            nn.init.zeros_(weight)

    def forward(self, input_MX: Tensor) -> Tensor:
        scaled_MX = ((input_MX - self.mean) / self.std).clamp(-5, 5)
        hidden = F.dropout(torch.relu(self.first(scaled_MX)), DROPOUT, self.training)
        hidden = F.dropout(torch.relu(self.second(hidden)), DROPOUT, self.training)
        return (self.out(hidden) + self.linear(scaled_MX)).view(-1, 3, self.knots)


class Units(NamedTuple):
    """What raw values are multiples of."""

    spend: float  # currency
    days: float
    horizon_days: float

    def read(self, raw_M3K: Tensor, weight_MK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(M,) each: churn logit, median spend, median days to the next purchase."""
        raw_M3 = (raw_M3K * weight_MK[:, None]).sum(2)
        days_M = (self.days * F.softplus(raw_M3[:, 2])).clamp(max=self.horizon_days)
        return raw_M3[:, 0], self.spend * F.softplus(raw_M3[:, 1]), days_M


def fit_curves(
    input_MX: np.ndarray,
    train: Part,
    days: int,
    knots_days: tuple[float, ...] = KNOTS_DAYS,
    members: int = 1,
) -> tuple[list[CurveHead], Units]:
    """Trains heads on moments. input_MX: `train.stored_MX`, or `train.read_MX` for one knot.

    The losses are logistic for churn and absolute for spend and days, whose minimum is the median.
    """
    x, weight = (
        torch.from_numpy(input_MX),
        torch.from_numpy(knot_weights(train.elapsed_days_M, knots_days)),
    )
    churned, spend, wait = (
        torch.from_numpy(np.asarray(column, np.float32)) for column in train.truth
    )
    units = Units(float(spend.mean()), float(wait.mean()), float(days))
    mean_X, std_X = x.mean(0), x.std(0).clamp(min=0.01)
    steps_per_epoch = max(len(x) // BATCH_ROWS, 1)
    steps, heads = EPOCHS * steps_per_epoch, []
    for member in range(members):
        torch.manual_seed(SEED + member)
        head = CurveHead(mean_X, std_X, len(knots_days))
        optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        for step in range(steps):
            if step % steps_per_epoch == 0:
                batches = torch.randperm(len(x)).tensor_split(steps_per_epoch)
            batch = batches[step % steps_per_epoch]
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * learning_rate_schedule(step, steps, 0.05)
            logit_M, spend_M, days_M = units.read(head(x[batch]), weight[batch])
            loss = (
                F.binary_cross_entropy_with_logits(logit_M, churned[batch])
                + (spend_M - spend[batch]).abs().mean() / units.spend
                + (days_M - wait[batch]).abs().mean() / units.days
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
        heads.append(head.eval())
    return heads, units


def read_curves(
    heads: list[CurveHead],
    units: Units,
    input_MX: np.ndarray,
    elapsed_days_M: np.ndarray,
    knots_days: tuple[float, ...] = KNOTS_DAYS,
) -> Predictions:
    """The values at moments, from the mean of the heads' curves."""
    weight_MK = torch.from_numpy(knot_weights(elapsed_days_M, knots_days))
    with torch.inference_mode():
        raw_M3K = torch.stack([head(torch.from_numpy(input_MX)) for head in heads]).mean(0)
        logit_M, spend_M, days_M = units.read(raw_M3K, weight_MK)
    return Predictions(logit_M.sigmoid().numpy(), spend_M.numpy(), days_M.numpy())


def boosted(train: Part, validation: Part, days: int) -> Predictions:
    """XGBoost on the same inputs as the curve, but computed at the moment."""
    churn = XGBClassifier(**BOOSTED).fit(train.read_MX, train.truth.churned_M)
    spend, wait = (
        XGBRegressor(objective="reg:absoluteerror", **BOOSTED).fit(train.read_MX, label_M)
        for label_M in (train.truth.spend_M, train.truth.days_M)
    )
    return Predictions(
        churn.predict_proba(validation.read_MX)[:, 1],
        np.maximum(spend.predict(validation.read_MX), 0),
        np.clip(wait.predict(validation.read_MX), 0, days),
    )


def compare(
    streams: Streams,
    split: Split,
    settings: Recipe,
    days: int,
    baselines: dict[str, Predictions],
) -> dict[str, Any]:
    """`compare_values` of the curve with its ablations and the baselines on validation."""
    torch.set_num_threads(1)
    training_ms = moment_ranges_ms(streams, split, days)[0]
    more = Moments.draw(streams, *training_ms, TRAINING_MOMENTS_PER_USER, SEED)
    moments = split_moments(streams, split, days)[1]
    train, validation = (Part.of(streams, each, days, settings) for each in (more, moments))

    def variant(knots_days: tuple[float, ...], at_reading: bool, members: int) -> Predictions:
        inputs = [part.read_MX if at_reading else part.stored_MX for part in (train, validation)]
        heads, units = fit_curves(inputs[0], train, days, knots_days, members)
        return read_curves(heads, units, inputs[1], validation.elapsed_days_M, knots_days)

    others = {
        "one curve": variant(KNOTS_DAYS, False, 1),
        "constant": variant((0.0,), False, 1),
        "network at the moment": variant((0.0,), True, 1),
        "boosted, same inputs": boosted(train, validation, days),
    }
    user_M = streams.user_W[moments.window_M]
    curve = variant(KNOTS_DAYS, False, MEMBERS)
    return compare_values(user_M, validation.truth, curve, others | baselines)


def main(
    rows: Annotated[Path, typer.Argument(help="Rows of `liveprofile model backfill`.")],
    recipe_name: Annotated[str, typer.Option("--recipe")] = "complete-journey-served",
    days: Annotated[
        list[int] | None, typer.Option(min=1, help="Horizons. Default: 7, 30, 90.")
    ] = None,
) -> None:
    """Compare values stored as curves with values at the moment and with every baseline model."""
    settings, streams = recipe(recipe_name), training_rows.read(rows)
    split = split_by_time(settings, streams.end_ms_W)
    for horizon in days or HORIZONS_DAYS:
        labels_known_ms = moment_ranges_ms(streams, split, horizon)[1][0]
        data = BaselineData.from_moments(
            streams, *split_moments(streams, split, horizon), labels_known_ms, horizon
        )
        fitted = fit_all(data)
        baselines = {name: each.validation for name, each in fitted.items()}
        report = compare(streams, split, settings, horizon, baselines)
        line = {"benchmark": "value-curves", "days": horizon, **describe(), **report}
        typer.echo(json.dumps(line))


if __name__ == "__main__":
    typer.run(main)
