"""Fits the value curves (models/profile/values/head.py) behind the finished trunk.

An example is a user at a random moment: the label is what the user does in each horizon after it.
The inputs are those of the user's last window before the moment, in half of the examples at its
end, in the others at a random time until the moment, as serving does for the values before a
window. The losses are logistic for churn and absolute for spend and days, whose minimum is the
median.

The horizons of all examples end before the first horizon that a later part measures begins
(`any_time.moment_ranges_ms`); without a later part, all known labels are used. A horizon longer
than the data has no examples and no curve. One longer than the model's is linked to it
(models/profile/values/head.py).

Shape suffixes: M examples, H horizons, of which G are learned, B examples of a batch; others as in
the head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveprofile.progress import Progress
from liveprofile.units import DAY_MS
from liveprofile.wire.histories import MEMORY_WINDOWS
from models.profile.data.churn_spend_samples import user_features_at
from models.profile.data.examples import PURCHASE, Corpus
from models.profile.evaluation.any_time import HORIZONS_DAYS, moment_ranges_ms
from models.profile.evaluation.moments import Moments, outcomes
from models.profile.recipes import Recipe
from models.profile.training.losses import learning_rate_schedule
from models.profile.values.head import ValueCurveHead, knot_weights
from models.profile.values.inputs import PurchaseWindows, curve_inputs

if TYPE_CHECKING:
    from models.profile.data.prepared import Split
    from models.profile.data.training_rows import Streams
    from models.profile.network import BehaviourTransformer


from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from models.profile.values.head import SMALLEST, HorizonLinks

MIN_SPEND = 1e-3  # currency; a smaller prediction says nothing about the ratio


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


AFTER_DAYS = (0, 1, 3, 7, 14, 30, 60, 120)
# Of the time of the examples: their users look new only because the rows begin. At most a horizon.
FIRST_SHARE = 0.25
MIN_MOMENTS = 100  # of a horizon; fewer give no curve
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
    """Fits `model.value_curves`; returns its horizons, links and the number of examples.

    Returns an empty dict, and the model has no curves, if there are too few moments for the
    model's horizon, or if the model has no ranker and so reads no memory.
    """
    model.value_curves = None
    until_ms = {
        days: _last_moment_ms(corpus.streams, split, days)
        for days in dict.fromkeys((recipe.horizon_days, *HORIZONS_DAYS))
    }
    start_ms, last_ms = int(corpus.streams.end_ms_W.min()) - 1, max(until_ms.values())
    if model.ranker is None or not last_ms > start_ms:
        return {}
    start_ms += min(recipe.horizon_days * DAY_MS, int(FIRST_SHARE * (last_ms - start_ms)))
    moments = Moments.draw(corpus.streams, start_ms, last_ms, recipe.curve_moments, recipe.seed)
    count = {days: int((moments.at_ms_M <= last).sum()) for days, last in until_ms.items()}
    horizons = [days for days in until_ms if count[days] >= MIN_MOMENTS]
    if recipe.horizon_days not in horizons:
        return {}
    horizons.sort(key=lambda days: days > recipe.horizon_days)  # linked ones last
    examples = _examples(corpus, recipe, moments, {days: until_ms[days] for days in horizons})
    model.value_curves = _train(examples, horizons, recipe, on_progress)
    return {
        "horizons_days": horizons,
        "examples": {str(days): count[days] for days in horizons},
        "links": _links(model.value_curves),
    }


def _last_moment_ms(streams: Streams, split: Split, days: int) -> int:
    """The last moment whose label may be used."""
    if len(split.validation) or len(split.test):
        return moment_ranges_ms(streams, split, days)[0][1]
    return max(split.train_until_ms - days * DAY_MS, int(streams.end_ms_W.min()) - 1)


def inputs_at(corpus: Corpus, recipe: Recipe, windows: np.ndarray, at_ms: np.ndarray) -> np.ndarray:
    """(M, X) inputs of the windows' users at times from the windows' ends on."""
    streams = corpus.streams
    bought_N = (streams.type_N == PURCHASE).astype(np.int64)
    purchases_W = np.add.reduceat(bought_N, streams.first_W)
    bought, before_W = PurchaseWindows.of(streams.user_W, streams.end_ms_W, purchases_W)
    first = windows - np.minimum(corpus.position_W[windows], MEMORY_WINDOWS - 1)
    return curve_inputs(
        user_features_at(corpus, recipe, windows, at_ms),
        bought,
        streams.user_W[windows],
        before_W[first],
        before_W[windows + 1],
        at_ms,
    )


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
    known_G = examples.known_MH[:, :learned].sum(0)
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
    optimizer = torch.optim.AdamW(
        head.parameters(), recipe.curve_learning_rate, weight_decay=recipe.curve_weight_decay
    )
    steps_per_epoch = max(count // recipe.curve_batch_rows, 1)
    steps = recipe.curve_epochs * steps_per_epoch
    for step in range(steps):
        if step % steps_per_epoch == 0:
            batches = torch.randperm(count).tensor_split(steps_per_epoch)
            on_progress("value curves", step // steps_per_epoch, recipe.curve_epochs)
        batch = batches[step % steps_per_epoch]
        for group in optimizer.param_groups:
            group["lr"] = recipe.curve_learning_rate * learning_rate_schedule(
                step, steps, recipe.warm_up_share
            )
        loss = _loss(head, _Examples(*(column[batch] for column in examples)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), recipe.clip_norm)
        optimizer.step()
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


def _links(head: ValueCurveHead) -> dict[str, dict[str, float]]:
    """By horizon: what HorizonLinks learned."""
    if head.links is None:
        return {}
    columns = {name: buffer.tolist() for name, buffer in head.links.named_buffers()}
    linked_days = head.horizon_days[len(head.spend_unit) :].int().tolist()
    return {
        str(days): {name: round(column[link], 4) for name, column in columns.items()}
        for link, days in enumerate(linked_days)
    }
