"""The sequence model of single events beside an LSTM of its size, each alone, on validation parts.

    python -m benchmarks.models.event_sequences [FILE]

Of generated shops as `liveprofile train event-risk` has them; with FILE of the Fraud Handbook's
week, as `liveprofile train event-risk-handbook` has it in docs/risk.md. One line of JSON each.
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

from models.fraud.card_transactions.data import Period, read, split
from models.fraud.datasets.part import sampled
from models.fraud.datasets.simulated import joined, see
from models.fraud.sequence.fit import SequenceRecipe, fit, in_parts
from models.fraud.sequence.network import Net, Shape
from models.fraud.sequence.tokens import Tokens
from models.fraud.training import train_handbook
from models.fraud.training.train_simulated import Recipe

WEEK = Period.of(date(2018, 7, 25), date(2018, 7, 31), 7, date(2018, 8, 8), date(2018, 8, 14))
HIDDEN = 40  # gives about as many parameters as a block of width 32

Labelled = tuple[Tokens, np.ndarray]  # n sequences, (n,) bool


class Lstm(nn.Module):
    """In the place of the Transformer's trunk (Hochreiter and Schmidhuber 1997)."""

    def __init__(self, shape: Shape, dropout: float):
        super().__init__()
        self.table = nn.Parameter(Net(shape).table.detach().clone())
        self.lstm = nn.LSTM(shape.dim, HIDDEN, batch_first=True)
        self.drop, self.head = nn.Dropout(dropout), nn.Linear(HIDDEN, 1)

    def forward(self, row_PF: Tensor, place_n: Tensor, length: int) -> Tensor:
        """As Net."""
        x_PD = nn.functional.embedding_bag(row_PF, self.table, mode="sum")
        states_nLH, _ = self.lstm(x_PD.view(len(place_n), length, -1))
        return self.head(self.drop(states_nLH.flatten(0, 1)[place_n])).squeeze(1)


def of_generated(recipe: Recipe, shape: Shape) -> Iterator[Labelled]:
    """The training's, then the validation's."""
    training = recipe.training_configs()
    validation = [recipe.config(seed) for seed in recipe.validation_seeds]
    for configs, first_day, legitimate, looks in (
        (training, 0, recipe.legitimate_rows, (False, True)),
        (validation, recipe.warm_up_days, None, (False,)),
    ):
        seen = joined(
            [
                see(
                    config, [], recipe.delay_days, first_day, legitimate, shape.sources,
                    hidden=hidden,
                )
                for hidden, config in product(looks, configs)
            ]
        )  # fmt: skip
        yield seen.tokens, seen.part.fraud_N


def of_handbook(file: Path, shape: Shape) -> Iterator[Labelled]:
    """The training's, then the validation's."""
    data = read(file)
    lists = train_handbook.history(data, WEEK.delay_days)
    learnt, validation = split(data, WEEK.earlier())
    for rows in (learnt[sampled(data.fraud_N[learnt])[0]], validation):
        yield lists.tokens(rows, shape.sources), data.fraud_N[rows]


def main(file: Path | None) -> None:
    torch.set_num_threads(1)
    recipe = train_handbook.SEQUENCE if file else SequenceRecipe(Shape(), Recipe().sequence_epochs)
    parts = of_handbook(file, recipe.shape) if file else of_generated(Recipe(), recipe.shape)
    (learnt, learnt_fraud), (held, held_fraud) = parts
    for name, make in (("transformer", Net), ("lstm", Lstm)):
        net = fit(learnt, learnt_fraud, recipe, make)
        found = {
            "net": name,
            "parameters": sum(one.numel() for one in net.net.parameters()),
            "sequences": {"training": len(learnt_fraud), "validation": len(held_fraud)},
            "average_precision": float(average_precision_score(held_fraud, in_parts(net, held))),
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
