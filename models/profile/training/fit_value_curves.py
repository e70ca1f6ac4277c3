"""Fits the value curves (models/profile/values.py) behind the finished trunk.

An example is a user at a random moment: the label is what the user does in each horizon after it.
The inputs are those of the user's last window before the moment, in half of the examples at its
end, in the others at a random time until the moment, as serving does for the values before a
window. The losses are logistic for churn and absolute for spend and days, whose minimum is the
median.

The horizons of all examples end before the first horizon that a later part measures begins
(`moments.moment_ranges_ms`). Without a later part, and for the model's own horizon if the rows are
short, all known labels are used. A longer horizon than the data has no curve. One longer than the
model's is linked to it (models/profile/values.py).

Shape suffixes: M examples, H horizons, of which G are learned, B examples of a batch; others as in
the head.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from liveprofile.progress import Progress
from liveprofile.units import DAY_MS
from models.profile.data.examples import Corpus
from models.profile.data.moments import (
    HORIZONS_DAYS,
    Moments,
    inputs_at,
    moment_ranges_ms,
    outcomes,
)
from models.profile.data.prepared import Split
from models.profile.data.training_rows import Streams
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe
from models.profile.training.losses import train_epochs
from models.profile.values import SMALLEST, HorizonLinks, ValueCurveHead, knot_weights

MIN_SPEND = 1e-3  # currency; a smaller prediction says nothing about the ratio
AFTER_DAYS = (0, 1, 3, 7, 14, 30, 60, 120)
# Of the time of the examples: their users look new only because the rows begin. At most a horizon.
FIRST_SHARE = 0.25
MIN_MOMENTS = 100  # of a horizon besides the model's; fewer give no curve
MIN_STD = 0.01


class _Examples(NamedTuple):
    input_MX: Tensor
    weight_MK: Tensor
    known_MH: Tensor  # float: 1 where the label of the horizon may be used
    churned_MH: Tensor
    spend_MH: Tensor
    days_MH: Tensor


def fit(
    model: BehaviourTransformer,
    corpus: Corpus,
    split: Split,
    recipe: Recipe,
    on_progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Fits `model.value_curves`; returns its horizons and the number of examples.

    Returns an empty dict and leaves the curves as they are if no label of the model's horizon is
    known.
    """
    streams, own = corpus.streams, recipe.horizon_days
    until_ms = {
        days: last_moment_ms(streams, split, days) for days in dict.fromkeys((own, *HORIZONS_DAYS))
    }
    start_ms = int(streams.end_ms_W.min()) - 1
    if until_ms[own] - start_ms < own * DAY_MS:
        until_ms[own] = split.train_until_ms - own * DAY_MS
    last_ms = max(until_ms.values())
    if until_ms[own] <= start_ms:
        return {}
    start_ms += min(own * DAY_MS, int(FIRST_SHARE * (until_ms[own] - start_ms)))
    moments = Moments.draw(streams, start_ms, last_ms, recipe.curve_moments, recipe.seed)
    count = {days: int((moments.at_ms_M <= last).sum()) for days, last in until_ms.items()}
    horizons = [days for days in until_ms if days == own or count[days] >= MIN_MOMENTS]
    horizons.sort(key=lambda days: days > own)  # linked ones last
    examples = _examples(corpus, recipe, moments, {days: until_ms[days] for days in horizons})
    model.value_curves = _train(examples, horizons, recipe, on_progress)
    return {
        "horizons_days": horizons,
        "examples": {str(days): count[days] for days in horizons},
    }


def last_moment_ms(streams: Streams, split: Split, days: int) -> int:
    """The last moment whose label of a horizon may be used."""
    if len(split.validation) or len(split.test):
        return moment_ranges_ms(streams, split, days)[0][1]
    return max(split.train_until_ms - days * DAY_MS, int(streams.end_ms_W.min()) - 1)


def _examples(
    corpus: Corpus, recipe: Recipe, moments: Moments, until_ms: dict[int, int]
) -> _Examples:
    random = np.random.default_rng(recipe.seed)
    window_M, at_ms_M = moments
    end_ms_M = corpus.streams.end_ms_W[window_M]
    share_M = random.random(len(window_M)) * (random.random(len(window_M)) < 0.5)
    read_ms_M = end_ms_M + (share_M * (at_ms_M - end_ms_M)).astype(np.int64)
    labels = [outcomes(corpus.streams, moments, days) for days in until_ms]
    columns = (
        inputs_at(corpus, recipe, window_M, read_ms_M),
        knot_weights((at_ms_M - read_ms_M) / DAY_MS, np.array(AFTER_DAYS)),
        np.column_stack([at_ms_M <= last for last in until_ms.values()]),
        np.column_stack([each.churned_M for each in labels]),
        np.column_stack([each.spend_M for each in labels]),
        np.column_stack([each.days_M for each in labels]),
    )
    return _Examples(*(torch.from_numpy(column.astype(np.float32)) for column in columns))


def _train(
    examples: _Examples, horizons: list[int], recipe: Recipe, on_progress: Progress
) -> ValueCurveHead:
    torch.manual_seed(recipe.seed)
    count, inputs = examples.input_MX.shape
    learned = sum(days <= recipe.horizon_days for days in horizons)
    head = ValueCurveHead(inputs, learned, len(AFTER_DAYS), len(horizons) - learned)
    known_G = examples.known_MH[:, :learned].sum(0).clamp(min=1)
    with torch.no_grad():
        head.mean.copy_(examples.input_MX.mean(0))
        head.std.copy_(examples.input_MX.std(0).clamp(min=MIN_STD))
        head.after_days.copy_(torch.tensor(AFTER_DAYS))
        head.horizon_days.copy_(torch.tensor(horizons))
        for unit, label_MH in (
            (head.spend_unit, examples.spend_MH),
            (head.days_unit, examples.days_MH),
        ):
            total_G = (label_MH * examples.known_MH)[:, :learned].sum(0)
            unit.copy_((total_G / known_G).clamp(min=0.01))
        for buffer in head.buffers():  # as they are stored
            buffer.copy_(buffer.half().float())
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=recipe.curve_weight_decay)
    batches = max(count // recipe.curve_batch_rows, 1)
    for epoch in train_epochs(
        optimizer,
        recipe.curve_learning_rate,
        recipe,
        recipe.curve_epochs,
        lambda: torch.randperm(count).tensor_split(batches),
        lambda batch: _loss(head, _Examples(*(column[batch] for column in examples))),
    ):
        on_progress("value curves", epoch, recipe.curve_epochs)
    _fit_links(head.eval(), examples)
    return head


def _loss(head: ValueCurveHead, batch: _Examples) -> Tensor:
    """The sum of the learned horizons' mean losses, spend and days in their units."""
    value_BG3 = (head.learned(batch.input_MX) * batch.weight_MK[:, None, None]).sum(3)
    churn_BG, spend_BG, days_BG = value_BG3.unbind(2)
    learned = churn_BG.shape[1]
    churned_BG, label_spend_BG, label_days_BG, known_BG = (
        column_BH[:, :learned]
        for column_BH in (batch.churned_MH, batch.spend_MH, batch.days_MH, batch.known_MH)
    )
    loss_BG = (
        F.binary_cross_entropy(churn_BG.clamp(0.0, 1.0), churned_BG, reduction="none")
        + (spend_BG - label_spend_BG).abs() / head.spend_unit
        + (days_BG - label_days_BG).abs() / head.days_unit
    )
    return ((loss_BG * known_BG).sum(0) / known_BG.sum(0).clamp(min=1)).sum()


def _fit_links(head: ValueCurveHead, examples: _Examples) -> None:
    """Fits each linked horizon to the examples whose label it knows."""
    if head.links is None:
        return
    with torch.no_grad():
        first_M3 = (head.learned(examples.input_MX)[:, 0] * examples.weight_MK[:, None]).sum(2)
    learned = len(head.spend_unit)
    for link in range(len(head.links.slope)):
        known_M = examples.known_MH[:, learned + link] > 0
        fit_link(
            head.links,
            link,
            first_M3[known_M, :2].numpy(),
            examples.churned_MH[known_M, learned + link].numpy(),
            examples.spend_MH[known_M, learned + link].numpy(),
        )
    for buffer in head.links.buffers():  # as they are stored
        buffer.copy_(buffer.half().float())


def fit_link(
    links: HorizonLinks,
    link: int,
    first_M2: np.ndarray,
    churned_M: np.ndarray,
    spend_M: np.ndarray,
) -> None:
    """Fits one link to the first horizon's churn and spend and the outcomes of its own.

    If all users churned or none did, churn stays that of the first horizon.
    """
    if np.ptp(churned_M):
        logit_M = logit(np.clip(first_M2[:, 0].astype(float), SMALLEST, 1 - SMALLEST))
        found = LogisticRegression().fit(logit_M[:, None], churned_M)
        links.intercept[link] = float(found.intercept_[0])
        links.slope[link] = max(float(found.coef_[0, 0]), 0.0)
    links.spend_ratio[link] = _ratio(first_M2[:, 1].astype(float), spend_M.astype(float))


def _ratio(first_M: np.ndarray, spend_M: np.ndarray) -> float:
    """The ratio with the least absolute error: the median of spend / first, weighted by first."""
    first_M, spend_M = first_M[first_M > MIN_SPEND], spend_M[first_M > MIN_SPEND]
    if not len(first_M):
        return 1.0
    order_M = np.argsort(spend_M / first_M)
    total_M = np.cumsum(first_M[order_M])
    middle = order_M[np.searchsorted(total_M, total_M[-1] / 2)]
    return float(spend_M[middle] / first_M[middle])
