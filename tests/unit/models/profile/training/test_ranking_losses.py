"""The ranker's losses, and the table and figure of the training curves."""

from __future__ import annotations

import csv
import math
import struct

import numpy as np
import pytest
import torch

from models.profile.evaluation.next_basket import NextBaskets, basket_scores
from models.profile.training import curves
from models.profile.training.fit_ranker import ndcg_at_10, ndcg_loss, set_loss


def test_set_loss_is_the_cross_entropy_with_all_positives() -> None:
    logit = torch.tensor([1.0, 2.0, 0.5, 0.1, -1.0])
    row, positive = np.array([0, 0, 0, 1, 1]), np.array([True, False, True, False, False])
    total = math.log(sum(math.exp(value) for value in (1.0, 2.0, 0.5)))
    expected = ((total - 1.0) + (total - 0.5)) / 2 / 2  # the second row has no positive
    assert set_loss(logit, row, positive, rows=2).item() == pytest.approx(expected, rel=1e-6)


def discount(place: int) -> float:
    return 1 / math.log2(place + 1)


def test_ndcg_loss_weighs_each_pair_by_the_ndcg_that_a_swap_changes() -> None:
    # Row 0 ranks negative, positive, negative; row 1 has a single candidate.
    logit = torch.tensor([0.5, -1.0, 2.0, 0.3])
    row, positive = np.array([0, 0, 0, 1]), np.array([True, False, False, True])
    loss = ndcg_loss(logit, row, positive, np.array([1, 2]))
    first_pair = (discount(1) - discount(2)) * math.log1p(math.exp(2.0 - 0.5))
    second_pair = (discount(2) - discount(3)) * math.log1p(math.exp(-1.0 - 0.5))
    assert loss.item() == pytest.approx((first_pair + second_pair) / 2, rel=1e-6)


def test_ndcg_is_that_of_the_evaluation() -> None:
    random, rows, codes = np.random.default_rng(5), 20, 60
    logit_RC = random.normal(size=(rows, codes)).astype(np.float32)
    member_RC = random.random((rows, codes)) < random.uniform(0.02, 0.5, (rows, 1))
    member_RC[:, 0] = True
    row_M, code_M = np.nonzero(member_RC)
    baskets = NextBaskets(
        np.arange(rows), np.arange(rows), row_M, code_M, np.ones(len(row_M), bool), codes
    )
    expected = basket_scores(baskets, np.argsort(-logit_RC, axis=1)[:, :10]).ndcg_at_10
    order = random.permutation(rows * codes)  # candidates may come in any order
    row = np.repeat(np.arange(rows), codes)[order]
    sizes = member_RC.sum(1)
    actual = ndcg_at_10(
        torch.from_numpy(logit_RC.ravel()[order]), row, member_RC.ravel()[order], sizes
    )
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5)


EPOCHS = [
    {"epoch": epoch, "seconds": 1.5, "loss": 9 - epoch, "type": 0.1, "validation_loss": 9.1234567}
    for epoch in range(1, 4)
]


def test_table_has_a_row_per_epoch(tmp_path):
    curves.write(tmp_path, EPOCHS, 2)
    with (tmp_path / "curves.csv").open(newline="") as lines:
        rows = [*csv.DictReader(lines)]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert rows[2] == {
        "epoch": "3",
        "seconds": "1.5",
        "loss": "6",
        "type": "0.1",
        "validation_loss": "9.12346",
    }


def test_figure_has_a_panel_per_loss_and_metric(tmp_path):
    figure = curves.figure(EPOCHS, 2)
    panels = {panel.get_title(): panel for panel in figure.axes if panel.get_title()}
    assert list(panels) == ["loss", "type", "seconds"]
    lines = {line.get_label(): line for line in panels["loss"].get_lines()}
    assert list(lines) == ["training", "validation", "best epoch (2)"]
    assert lines["training"].get_ydata().tolist() == [8, 7, 6]
    assert [*lines["best epoch (2)"].get_xdata()] == [2, 2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(lines)
    assert len(panels["type"].get_lines()) == 2  # it has no validation curve
    curves.write(tmp_path, EPOCHS, 2)
    head = (tmp_path / "curves.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:]) == (680, 600)
