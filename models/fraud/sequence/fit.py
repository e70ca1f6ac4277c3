"""Trains the sequence model of single events, and its log-odds as an input of the trees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from liveprofile.progress import Progress
from models.fraud.sequence.network import EventSequence, Net, Shape, padded
from models.fraud.sequence.tokens import Tokens

SEED = 20180801
FOLDS = 3
_SEQUENCES_AT_ONCE = 1_000


@dataclass(frozen=True)
class SequenceRecipe:
    shape: Shape
    epochs: int = 8
    legitimate: int = 15_000  # of an epoch, drawn anew for each
    batch: int = 256
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    dropout: float = 0.1


def fit(
    tokens: Tokens,
    fraud_n: np.ndarray,
    recipe: SequenceRecipe,
    make: Callable[[Shape, float], nn.Module] = Net,
) -> EventSequence:
    """The net by n sequences.

    An epoch has every fraud and as many others as the recipe says, which shifts the log-odds by a
    constant: the trees don't mind. AdamW (arXiv:1711.05101), the learning rate in one cycle
    (arXiv:1708.07120).
    """
    random = np.random.default_rng(SEED)
    frauds, others = np.flatnonzero(fraud_n), np.flatnonzero(~fraud_n)
    drawn = min(recipe.legitimate, len(others))
    steps = -(-(len(frauds) + drawn) // recipe.batch) * recipe.epochs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        net = make(recipe.shape, recipe.dropout).train()
        optimizer = torch.optim.AdamW(net.parameters(), weight_decay=recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.learning_rate, total_steps=steps
        )
        for _ in range(recipe.epochs):
            rows = np.concatenate([frauds, random.choice(others, drawn, replace=False)])
            random.shuffle(rows)
            for start in range(0, len(rows), recipe.batch):
                chosen = rows[start : start + recipe.batch]
                row_PF, place_n, length = padded(tokens.take(chosen))
                log_odds_n = net(torch.from_numpy(row_PF), torch.from_numpy(place_n), length)
                target_n = torch.from_numpy(fraud_n[chosen].astype(np.float32))
                optimizer.zero_grad()
                F.binary_cross_entropy_with_logits(log_odds_n, target_n).backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                schedule.step()
    return EventSequence(net, recipe.shape)


def out_of_fold(
    tokens: Tokens,
    fraud_n: np.ndarray,
    group_n: np.ndarray,
    recipe: SequenceRecipe,
    on_progress: Progress = lambda stage, done, total: None,
) -> np.ndarray:
    """(n,) log-odds of each sequence by a net that has not seen its group, of two groups or more.

    Of what a net was trained on it is too sure, and trees that learnt from that would trust it too
    much. group_n: any numbers, such as of users or shops.
    """
    groups, group_n = np.unique(group_n, return_inverse=True)
    folds = min(FOLDS, len(groups))
    log_odds_n = np.empty(len(fraud_n), np.float32)
    for fold in range(folds):
        held_n = group_n % folds == fold
        learnt = np.flatnonzero(~held_n)
        net = fit(tokens.take(learnt), fraud_n[learnt], recipe)
        log_odds_n[held_n] = in_parts(net, tokens.take(np.flatnonzero(held_n)))
        on_progress("folds", fold + 1, folds)
    return log_odds_n


def in_parts(sequence: EventSequence, tokens: Tokens) -> np.ndarray:
    """(n,) log-odds, by so many sequences at a time that a processor's cache holds them."""
    count = len(tokens.starts) - 1
    parts = [
        sequence.of_tokens(tokens.take(np.arange(start, min(start + _SEQUENCES_AT_ONCE, count))))
        for start in range(0, count, _SEQUENCES_AT_ONCE)
    ]
    return np.concatenate(parts)
