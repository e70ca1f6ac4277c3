"""Logits, losses and metrics of next events, and the loop that fits what is behind the trunk.

The loss is a sum weighted by the recipe: next category and next type (cross-entropy), and next item
(sampled softmax with the logQ correction: Bengio and Senecal 2008, IEEE TNN 19(4); Yi et al. 2019,
RecSys, doi:10.1145/3298689.3346996).

Shape suffixes: N target events, M of them with a named item, B sequences, P flat positions, C
categories, Y event types, I named items, K sampled negatives, J = I or 1 + K, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.profile.encoding import Groups
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe

LOSS_TERMS = ("category", "type", "item")
DISTILLED = "taught_"  # prefix of the terms that compare with a teacher
# Finite, because a teacher's probability of 0 times an infinite logit is NaN.
MASKED_LOGIT = -1e9


class ItemTargets(NamedTuple):
    """M next items (0-based), their sequences' repeat counts and the sampled negatives."""

    item_M: Tensor
    repeat_count_BI: Tensor
    row_M: Tensor  # sequence of each target
    negatives_K: Tensor | None  # None: compare with all items
    log_q_I: Tensor  # log probability that a negative is this item

    def target_index(self) -> Tensor:
        """(M,) column of the true item in the result of `item_logits`."""
        return self.item_M if self.negatives_K is None else torch.zeros_like(self.item_M)


class PredictionTargets(NamedTuple):
    """The model's inputs for N target events."""

    embedding_rows_P7: Tensor
    groups: Groups
    flat_position_N: Tensor  # the position before each event
    repeat_count_NC: Tensor
    named_M: Tensor  # indices of the targets with a named item
    items: ItemTargets


def target_logits(model: BehaviourTransformer, targets: PredictionTargets) -> tuple[Tensor, ...]:
    """(N, C), (N, Y) and (M, J) logits for each target, in the order of LOSS_TERMS."""
    h_ND = model.trunk(targets.embedding_rows_P7, targets.groups)[targets.flat_position_N]
    return (
        model.category_logits(h_ND, targets.repeat_count_NC),
        model.type_logits(h_ND),
        item_logits(model, h_ND[targets.named_M], targets.items),
    )


def item_logits(model: BehaviourTransformer, h_MD: Tensor, items: ItemTargets) -> Tensor:
    """(M, I) over all items, or (M, 1 + K) of the true item and the negatives."""
    item_M, repeat_count_BI, row_M, negatives_K, log_q_I = items
    repeat_M1 = model.repeat_weights(h_MD)[1]
    if negatives_K is None:
        return torch.addcmul(model.item_logits(h_MD), repeat_M1, repeat_count_BI[row_M])
    # Subtracting the log of an item's sampling frequency makes the partition function of the
    # sample an estimate of the full one.
    correction_I = log_q_I + math.log(len(negatives_K))
    negative_MK = model.item_logits(h_MD, negatives_K) - correction_I[negatives_K]
    negative_MK = torch.addcmul(negative_MK, repeat_M1, repeat_count_BI[:, negatives_K][row_M])
    negative_MK = negative_MK.masked_fill(negatives_K[None, :] == item_M[:, None], MASKED_LOGIT)
    true_M = model.paired_item_logits(h_MD, item_M) - correction_I[item_M]
    true_M = true_M + repeat_M1.squeeze(1) * repeat_count_BI[row_M, item_M]
    return torch.cat([true_M[:, None], negative_MK], 1)


def weighted_loss(recipe: Recipe, terms: dict[str, Any]) -> Any:
    """The loss to minimise. With a teacher, its terms have a weight of `recipe.taught_share`."""

    weights = {
        "category": recipe.weight_category,
        "type": recipe.weight_type,
        "item": recipe.weight_item,
    }

    def total(prefix: str) -> Any:
        return sum(weights[name] * terms[prefix + name] for name in LOSS_TERMS)

    if DISTILLED + LOSS_TERMS[0] not in terms:
        return total("")
    return (1 - recipe.taught_share) * total("") + recipe.taught_share * total(DISTILLED)


def ranks(logits_NC: Tensor, target_N: Tensor) -> Tensor:
    """(N,) number of classes above the true one, and half of those that tie: bfloat16 has many."""
    truth_N1 = logits_NC.gather(1, target_N[:, None])
    ties_N = (logits_NC == truth_N1).sum(1) - 1
    return (logits_NC > truth_N1).sum(1) + ties_N // 2


def ndcg_at_10(rank_N: Tensor) -> Tensor:
    """(N,) NDCG@10 with one relevant class (Jarvelin and Kekalainen 2002). Rank 0 is the best."""
    return torch.where(rank_N < 10, 1 / torch.log2(rank_N.clamp(max=10) + 2.0), 0.0)


def learning_rate_schedule(step: int, steps: int, warm_up_share: float) -> float:
    """Factor of the learning rate: linear warm-up, then cosine decay to 0.05 (arXiv:1608.03983)."""
    warm_up = max(1, round(warm_up_share * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))


def train_epochs(
    optimizer: torch.optim.Optimizer,
    learning_rate: float,
    recipe: Recipe,
    epochs: int,
    draw_batches: Callable[[], Sequence[Any]],
    loss: Callable[[Any], Tensor],
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[int]:
    """Minimises the loss of batches, drawn anew for each epoch; yields its number after it.

    The caller may stop after any epoch.
    """
    step, weights = 0, [weight for group in optimizer.param_groups for weight in group["params"]]
    for epoch in range(1, epochs + 1):
        batches = draw_batches()
        steps = epochs * len(batches)
        for batch in batches:
            rate = learning_rate * learning_rate_schedule(step, steps, recipe.warm_up_share)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            loss(batch).backward()
            torch.nn.utils.clip_grad_norm_(weights, recipe.clip_norm)
            optimizer.step()
            step += 1
            on_step(step, steps)
        yield epoch
