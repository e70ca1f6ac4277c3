"""What the ranker reads of a memory, its candidates, and what its logits do not depend on."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from liveprofile.units import DAY_MS
from liveprofile.wire.histories import MemoryToken, of_windows
from liveprofile.wire.tokens import TYPE_INDEX
from models.profile.ranker import memory
from models.profile.ranker.memory import PAIR_FEATURES, ROW_FEATURES, MemoryReader, pairs
from models.profile.ranker.network import Ranker, item_candidates, memory_pairs

PURCHASE, RETURN = TYPE_INDEX["purchase"], TYPE_INDEX["return"]
Rows = list[list[tuple[int, list[MemoryToken]]]]


def token(item: str, category: str = "c", kind: int = PURCHASE) -> MemoryToken:
    return MemoryToken(kind, item, category)


def read(rows: Rows) -> memory.MemoryTokens:
    return MemoryReader(["a", "b"], ["c", "d"]).read(of_windows(rows))


def features_of(rows: Rows, row: int, code: int) -> dict[str, float]:
    tokens = read(rows)
    found = pairs(tokens, tokens.item_T)
    [index] = np.flatnonzero((found.row_M == row) & (found.code_M == code))
    return dict(zip(PAIR_FEATURES, found.features_MF[index].tolist(), strict=True))


def test_counts_recency_and_gaps_of_an_item() -> None:
    rows = [
        [(9 * DAY_MS, [token("b")])],
        [
            (0, [token("a")]),
            (10 * DAY_MS, [token("a"), token("a"), token("b")]),
            (30 * DAY_MS, [token("b")]),
        ],
    ]
    expected = {
        "windows_7_days": math.log1p(2 ** (-30 / 7) + 2 ** (-20 / 7)),
        "windows_30_days": math.log1p(2**-1 + 2 ** (-20 / 30)),
        "windows_90_days": math.log1p(2 ** (-30 / 90) + 2 ** (-20 / 90)),
        "windows_10_windows": math.log1p(2 ** (-2 / 10) + 2 ** (-1 / 10)),
        "windows_30_windows": math.log1p(2 ** (-2 / 30) + 2 ** (-1 / 30)),
        "events_30_days": math.log1p(2**-1 + 2 * 2 ** (-20 / 30)),
        "windows": math.log1p(2),
        "share_of_windows": 2 / 3,
        "last_days": math.log1p(20),
        "last_windows": math.log1p(1),
        "in_last_window": 0.0,
        "gap_days": math.log1p(10),
        "last_over_gap": math.log(21 / 11),
        "once": 0.0,
        "first_days": math.log1p(30),
    }
    assert features_of(rows, row=1, code=1) == pytest.approx(expected, rel=1e-5)
    once = features_of(rows, row=0, code=2)
    assert once["once"] == once["in_last_window"] == 1 and once["last_over_gap"] == 0


def test_row_features_describe_windows_of_each_row() -> None:
    tokens = read([[], [(0, [token("a")]), (10 * DAY_MS, [token("a"), token("b"), token("b")])]])
    expected = np.log1p([2, 10, 2, 3, 5, 10])
    assert ROW_FEATURES[:2] == ("windows", "days")
    assert tokens.row_features_BU[0].tolist() == [0] * len(ROW_FEATURES)
    np.testing.assert_allclose(tokens.row_features_BU[1], expected, 1e-6)


def test_order_of_events_in_a_window_changes_nothing() -> None:
    rng = random.Random(3)
    rows: Rows = [
        [
            (day * DAY_MS, [token(rng.choice("abxy"), rng.choice("cd")) for _ in range(6)])
            for day in range(5)
        ]
        for _ in range(4)
    ]
    shuffled = [[(end, rng.sample(tokens, len(tokens))) for end, tokens in row] for row in rows]
    # One reader, since the codes of further ids follow the order in which it meets them.
    reader = MemoryReader(["a", "b"], ["c", "d"])
    first, second = (reader.read(of_windows(each)) for each in (rows, shuffled))
    for code in ("item_T", "category_T"):
        for one, other in zip(
            pairs(first, getattr(first, code)), pairs(second, getattr(second, code)), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_returns_and_missing_ids_count_as_no_id() -> None:
    tokens = read([[(0, [token("a", kind=RETURN), token("", ""), token("b")])]])
    assert tokens.item_T.tolist() == [0, 0, 2] and tokens.category_T.tolist() == [0, 0, 1]
    assert pairs(tokens, tokens.item_T).code_M.tolist() == [2]


def test_names_of_further_ids_follow_those_of_the_model() -> None:
    reader = MemoryReader(["a", "b"], ["c"])
    tokens = reader.read(of_windows([[(0, [token("new"), token("b", "other")])]]))
    assert [reader.items.names[code - 1] for code in tokens.item_T] == ["new", "b"]
    assert reader.categories.names == ["c", "other"]


def test_tie_breaks_depend_on_names_only() -> None:
    values = []
    for order in (["x", "y"], ["y", "x"]):
        reader = MemoryReader(["a"], [])
        reader.read(of_windows([[(0, [token(name, "") for name in order])]]))
        codes = np.array([reader.items[name] for name in ("a", "x", "y")])
        values.append(reader.item_tie_breaks(codes).tolist())
    assert values[0] == values[1]
    assert values[0][0] == 0 and values[0][1] != values[0][2]


def test_reader_forgets_ids_beyond_its_limit() -> None:
    reader = MemoryReader(["a"], [], max_windows=9)
    reader.read(of_windows([[(n, [token(str(n), "")]) for n in range(10)]]))
    reader.make_room()
    assert reader.items.names == ["a"]
    tokens = reader.read(of_windows([[(0, [token("5", ""), token("a", "")])]]))
    assert [reader.items.names[code - 1] for code in tokens.item_T] == ["5", "a"]


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


def read_of_network(rows: list) -> tuple:
    reader = MemoryReader([f"i{n}" for n in range(ITEMS)], [f"c{n}" for n in range(CATEGORIES)])
    tokens = reader.read(of_windows(rows))
    return tokens, *memory_pairs(tokens)


def test_candidates_are_the_memory_and_the_new_ones_of_the_trunk() -> None:
    _, item, category = read_of_network(ROWS)
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
    tokens, _, category = read_of_network(ROWS)
    together = ranker.category_logits(ranker.states(h_BD, tokens, category), category, trunk_BC)
    assert together.row_M.tolist() == [2] and together.code_M.tolist() == [CATEGORIES + 1]
    for row in range(3):
        tokens, _, category = read_of_network(ROWS[row : row + 1])
        state_BZ = ranker.states(h_BD[row : row + 1], tokens, category)
        alone = ranker.category_logits(state_BZ, category, trunk_BC[row : row + 1])
        torch.testing.assert_close(alone.named_BC[0], together.named_BC[row])
        if len(alone.row_M):
            torch.testing.assert_close(alone.further_M, together.further_M)


def test_category_that_was_had_differs_from_the_others_by_its_pair_only(ranker: Ranker) -> None:
    tokens, _, category = read_of_network([ROWS[0]])
    state_BZ = ranker.states(torch.zeros(1, DIM), tokens, category)
    logits = ranker.category_logits(state_BZ, category, torch.zeros(1, CATEGORIES)).named_BC[0]
    none = category._replace(**{name: value[:0] for name, value in category._asdict().items()})
    absent = ranker.category_logits(state_BZ, none, torch.zeros(1, CATEGORIES)).named_BC[0]
    assert (logits != absent).tolist() == [False, True, True]
