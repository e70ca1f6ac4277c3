"""Candidates of the ranker, and what its logits do not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from liveprofile.units import DAY_MS
from liveprofile.wire.histories import MemoryToken, of_windows
from models.profile.ranker.memory import MemoryReader
from models.profile.ranker.network import Ranker, item_candidates, memory_pairs

CATEGORIES, ITEMS, DIM = 3, 6, 8
ROWS = [
    [(0, [MemoryToken(3, "i4", "c1"), MemoryToken(3, "new", "c2")])],
    [],
    [
        (0, [MemoryToken(3, "i4", "c1"), MemoryToken(3, "i1", "other")]),
        (9 * DAY_MS, [MemoryToken(3, "i4", "c0")]),
    ],
]


@pytest.fixture
def ranker() -> Ranker:
    torch.manual_seed(2)
    ranker = Ranker(DIM, CATEGORIES, ITEMS, biased_items=4).eval().requires_grad_(False)
    for weight in ranker.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return ranker


def read(rows: list) -> tuple:
    reader = MemoryReader([f"i{n}" for n in range(ITEMS)], [f"c{n}" for n in range(CATEGORIES)])
    tokens = reader.read(of_windows(rows))
    return tokens, *memory_pairs(tokens)


def test_candidates_are_the_memory_and_the_new_ones_of_the_trunk() -> None:
    _, item, category = read(ROWS)
    trunk_BK = np.array([[4, 0], [5, 2], [1, 3]])
    found = item_candidates(item, category, trunk_BK, np.array([1, 1, 1, 3, 1, 0]))
    candidates = [
        (row, code, memory >= 0, category, pair >= 0)
        for row, code, memory, category, pair in zip(*(c.tolist() for c in found), strict=True)
    ]
    # Row 1 has no memory; i4 of row 2 was last in c0.
    assert candidates == [
        (0, 1, False, 1, False),
        (0, 5, True, 2, True),
        (0, 7, True, 3, True),
        (1, 3, False, 1, False),
        (1, 6, False, 0, False),
        (2, 2, True, 4, True),
        (2, 4, False, 3, False),
        (2, 5, True, 1, True),
    ]


@pytest.mark.slow
def test_category_logits_are_those_of_each_row_alone(ranker: Ranker) -> None:
    h_BD, trunk_BC = torch.randn(3, DIM), torch.randn(3, CATEGORIES)
    tokens, _, category = read(ROWS)
    together = ranker.category_logits(ranker.states(h_BD, tokens, category), category, trunk_BC)
    assert together.row_M.tolist() == [2] and together.code_M.tolist() == [CATEGORIES + 1]
    for row in range(3):
        tokens, _, category = read(ROWS[row : row + 1])
        state_BZ = ranker.states(h_BD[row : row + 1], tokens, category)
        alone = ranker.category_logits(state_BZ, category, trunk_BC[row : row + 1])
        torch.testing.assert_close(alone.named_BC[0], together.named_BC[row])
        if len(alone.row_M):
            torch.testing.assert_close(alone.further_M, together.further_M)


def test_category_that_was_had_differs_from_the_others_by_its_pair_only(ranker: Ranker) -> None:
    tokens, _, category = read([ROWS[0]])
    state_BZ = ranker.states(torch.zeros(1, DIM), tokens, category)
    logits = ranker.category_logits(state_BZ, category, torch.zeros(1, CATEGORIES)).named_BC[0]
    none = category._replace(**{name: value[:0] for name, value in category._asdict().items()})
    absent = ranker.category_logits(state_BZ, none, torch.zeros(1, CATEGORIES)).named_BC[0]
    assert (logits != absent).tolist() == [False, True, True]
