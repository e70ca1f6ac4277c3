"""Compares the fraud sequence model with an LSTM of the same size, without the other features.

    python -m benchmarks.models.event_sequences [FILE]

Both are trained on the training part and measured on the validation part: of the simulated shops
of `liveprofile train event-risk`, or with FILE, of the Fraud Handbook's week of `liveprofile train
event-risk-handbook` in docs/risk.md. Prints a line of JSON per model.

Shapes: n sequences, L events per sequence, P = n * L positions, F tokens per event, D embedding
width, H hidden width, N transactions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import date
from itertools import product
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from models.fraud.card_transactions.data import TrainTestPeriod, read_transactions, train_test_rows
from models.fraud.datasets.event_dataset import concatenate
from models.fraud.datasets.labelled_features import downsample_legitimate
from models.fraud.datasets.simulated import simulate_dataset
from models.fraud.sequence.fit import SequenceRecipe, fit_sequence_model, log_odds_in_chunks
from models.fraud.sequence.network import SequenceNet, SequenceShape
from models.fraud.sequence.tokens import TokenSequences
from models.fraud.training import train_handbook
from models.fraud.training.train_simulated import FraudRecipe

WEEK = TrainTestPeriod.from_dates(
    date(2018, 7, 25), date(2018, 7, 31), 7, date(2018, 8, 8), date(2018, 8, 14)
)
HIDDEN = 40  # gives about as many parameters as a block of width 32

LabelledSequences = tuple[TokenSequences, np.ndarray]  # n sequences, (n,) bool


class Lstm(nn.Module):
    """Replaces the Transformer trunk by an LSTM (Hochreiter and Schmidhuber 1997)."""

    def __init__(self, shape: SequenceShape, dropout: float):
        super().__init__()
        self.table = nn.Parameter(SequenceNet(shape).table.detach().clone())
        self.lstm = nn.LSTM(shape.dim, HIDDEN, batch_first=True)
        self.drop, self.head = nn.Dropout(dropout), nn.Linear(HIDDEN, 1)

    def forward(self, token_PF: Tensor, last_n: Tensor, length: int) -> Tensor:
        """Has the arguments and the result of SequenceNet.forward."""
        x_PD = nn.functional.embedding_bag(token_PF, self.table, mode="sum")
        states_nLH, _ = self.lstm(x_PD.view(len(last_n), length, -1))
        return self.head(self.drop(states_nLH.flatten(0, 1)[last_n])).squeeze(1)


def simulated_parts(recipe: FraudRecipe, shape: SequenceShape) -> Iterator[LabelledSequences]:
    """Yields the training part, then the validation part."""
    training = recipe.training_configs()
    validation = [recipe.config(seed) for seed in recipe.validation_seeds]
    for configs, first_day, legitimate, hidden_values in (
        (training, 0, recipe.legitimate_rows, (False, True)),
        (validation, recipe.warm_up_days, None, (False,)),
    ):
        dataset = concatenate(
            [
                simulate_dataset(
                    config,
                    [],
                    recipe.delay_days,
                    first_day,
                    legitimate,
                    shape.sources,
                    hide_entity_ids=hidden,
                )
                for hidden, config in product(hidden_values, configs)
            ]
        )
        yield dataset.tokens, dataset.labelled.fraud_N


def handbook_parts(file: Path, shape: SequenceShape) -> Iterator[LabelledSequences]:
    """Yields the training part, then the validation part."""
    data = read_transactions(file)
    lists = train_handbook.build_history(data, WEEK.delay_days)
    train_rows, validation = train_test_rows(data, WEEK.validation_period())
    for rows in (train_rows[downsample_legitimate(data.fraud_N[train_rows])[0]], validation):
        yield lists.tokens(rows, shape.sources), data.fraud_N[rows]


def main(file: Path | None) -> None:
    torch.set_num_threads(1)
    recipe = (
        train_handbook.SEQUENCE_RECIPE
        if file
        else SequenceRecipe(SequenceShape(), FraudRecipe().sequence_epochs)
    )
    parts = (
        handbook_parts(file, recipe.shape) if file else simulated_parts(FraudRecipe(), recipe.shape)
    )
    (train_rows, train_fraud), (validation, validation_fraud) = parts
    for name, make in (("transformer", SequenceNet), ("lstm", Lstm)):
        network = fit_sequence_model(train_rows, train_fraud, recipe, make)
        result = {
            "net": name,
            "parameters": sum(parameter.numel() for parameter in network.network.parameters()),
            "sequences": {"training": len(train_fraud), "validation": len(validation_fraud)},
            "average_precision": float(
                average_precision_score(validation_fraud, log_odds_in_chunks(network, validation))
            ),
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
