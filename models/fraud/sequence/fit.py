"""Trains the sequence model, and computes its log-odds as an input of the trees.

Shape suffixes as in models.fraud.sequence.tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from liveprofile.progress import Progress
from models.fraud.sequence.network import SequenceModel, SequenceNet, SequenceShape, pad
from models.fraud.sequence.tokens import TokenSequences

SEED = 20180801
FOLDS = 3
_CHUNK_SEQUENCES = 1_000


@dataclass(frozen=True)
class SequenceRecipe:
    shape: SequenceShape
    epochs: int = 8
    legitimate: int = 15_000  # legitimate events of an epoch, a new random sample for each
    batch: int = 256
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    dropout: float = 0.1


def fit_sequence_model(
    tokens: TokenSequences,
    fraud_n: np.ndarray,
    recipe: SequenceRecipe,
    make_network: Callable[[SequenceShape, float], nn.Module] = SequenceNet,
) -> SequenceModel:
    """Trains a network on n sequences.

    An epoch has every fraud and `recipe.legitimate` other events. That shifts the log-odds by a
    constant, which does not matter to trees. The optimizer is AdamW (arXiv:1711.05101) with a
    one-cycle learning rate (arXiv:1708.07120).
    """
    generator = np.random.default_rng(SEED)
    frauds, legitimate = np.flatnonzero(fraud_n), np.flatnonzero(~fraud_n)
    sampled = min(recipe.legitimate, len(legitimate))
    steps = -(-(len(frauds) + sampled) // recipe.batch) * recipe.epochs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = make_network(recipe.shape, recipe.dropout).train()
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.learning_rate, total_steps=steps
        )
        for _ in range(recipe.epochs):
            rows = np.concatenate([frauds, generator.choice(legitimate, sampled, replace=False)])
            generator.shuffle(rows)
            for start in range(0, len(rows), recipe.batch):
                batch_rows = rows[start : start + recipe.batch]
                token_PF, last_n, length = pad(tokens.take(batch_rows))
                log_odds_n = network(torch.from_numpy(token_PF), torch.from_numpy(last_n), length)
                target_n = torch.from_numpy(fraud_n[batch_rows].astype(np.float32))
                optimizer.zero_grad()
                F.binary_cross_entropy_with_logits(log_odds_n, target_n).backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
    return SequenceModel(network, recipe.shape)


def out_of_fold_log_odds(
    tokens: TokenSequences,
    fraud_n: np.ndarray,
    group_n: np.ndarray,
    recipe: SequenceRecipe,
    on_progress: Progress = lambda stage, done, total: None,
) -> np.ndarray:
    """Returns (n,) log-odds of each sequence from a network that was not trained on its group.

    A network is overconfident on its training data, and trees trained on such log-odds would rely
    on them too much. group_n: numbers of at least two groups, such as users or shops.
    """
    groups, group_n = np.unique(group_n, return_inverse=True)
    folds = min(FOLDS, len(groups))
    log_odds_n = np.empty(len(fraud_n), np.float32)
    for fold in range(folds):
        held_out_n = group_n % folds == fold
        train_rows = np.flatnonzero(~held_out_n)
        network = fit_sequence_model(tokens.take(train_rows), fraud_n[train_rows], recipe)
        log_odds_n[held_out_n] = log_odds_in_chunks(
            network, tokens.take(np.flatnonzero(held_out_n))
        )
        on_progress("folds", fold + 1, folds)
    return log_odds_n


def log_odds_in_chunks(sequence: SequenceModel, tokens: TokenSequences) -> np.ndarray:
    """Returns (n,) log-odds, computed in chunks that fit a processor's cache."""
    count = len(tokens.starts) - 1
    chunks = [
        sequence.log_odds_of_sequences(
            tokens.take(np.arange(start, min(start + _CHUNK_SEQUENCES, count)))
        )
        for start in range(0, count, _CHUNK_SEQUENCES)
    ]
    return np.concatenate(chunks)
