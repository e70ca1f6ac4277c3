"""Shops whose frauds show in order and timing alone, and what reads the order."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from lab.orders.order_shops import (
    OrderShop,
    OrderShopConfig,
    draw_run,
    draw_script,
    draw_shop,
    shuffled,
)
from lab.orders.order_transformer import fit_transformer, last_events, out_of_fold
from liveprofile.features.entity import SCORED_TYPES, type_letter

SMALL = OrderShopConfig(5, users=60, days=30, scripts=2, frauds=60, honest_per_fraud=4)


@pytest.fixture(scope="module")
def shop() -> OrderShop:
    return draw_shop(SMALL)


def sessions(shop: OrderShop) -> list[tuple[tuple[int, ...], tuple[float, ...], bool]]:
    """Types, gaps in seconds and label of each user and day, which is a session."""
    numbers = {type_letter(name): number for number, name in enumerate(SCORED_TYPES)}
    rows: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(shop.user_N.tolist(), shop.day_N.tolist(), strict=True)):
        rows.setdefault(key, []).append(row)
    found = []
    for session in rows.values():
        types = tuple(numbers[int(letter)] for letter in shop.history.events.letter[session])
        gaps = tuple((np.diff(shop.time_ms_N[session]) / 1_000).tolist())
        assert not shop.fraud_N[session[:-1]].any()
        found.append((types, gaps, bool(shop.fraud_N[session[-1]])))
    return found


def test_frauds_and_honest_sessions_have_the_same_bags_and_last_types(shop: OrderShop) -> None:
    plain = draw_shop(replace(SMALL, extra_events=0.0))
    bags = {True: set(), False: set()}
    for types, _, fraud in sessions(plain):
        bags[fraud].add((tuple(sorted(types)), types[-1]))
    assert bags[True] == bags[False]
    assert len(bags[True]) == SMALL.scripts
    counts = Counter(fraud for _, _, fraud in sessions(shop))
    assert counts[True] == SMALL.frauds
    assert counts[False] == SMALL.frauds * SMALL.honest_per_fraud


def test_only_frauds_fit_a_script() -> None:
    plain = draw_shop(replace(SMALL, extra_events=0.0))
    for types, gaps, fraud in sessions(plain):
        rounded = 0.001  # times are whole milliseconds
        fits = any(
            types == tuple(script.type_E)
            and all(
                low - rounded <= gap <= high + rounded
                for low, gap, high in zip(script.low_s, gaps, script.high_s, strict=True)
            )
            for script in plain.scripts
        )
        assert fits == fraud


def test_shuffled_run_keeps_its_events_gaps_and_last_event() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        script = draw_script(rng)
        type_E, gap_s = draw_run(script, rng)
        assert script.fits(type_E, gap_s)
        types, gaps = shuffled(script, type_E, gap_s, rng)
        assert not script.fits(types, gaps)
        assert sorted(types) == sorted(type_E) and types[-1] == type_E[-1]
        assert sorted(gaps) == sorted(gap_s)


def test_same_seed_draws_the_same_shop_and_another_seed_other_scripts(shop: OrderShop) -> None:
    again, other = draw_shop(SMALL), draw_shop(OrderShopConfig(6, users=60, days=30, frauds=20))
    assert (again.time_ms_N == shop.time_ms_N).all() and (again.fraud_N == shop.fraud_N).all()
    assert [s.type_E.tolist() for s in other.scripts] != [s.type_E.tolist() for s in shop.scripts]


def test_last_events_are_those_of_the_user_newest_first(shop: OrderShop) -> None:
    rows = np.arange(0, len(shop.time_ms_N), 37)
    found = last_events(shop.history.rows(rows), length=4)
    for place, row in enumerate(rows):
        own = [r for r in range(row + 1) if shop.user_N[r] == shop.user_N[row]][::-1]
        for back in range(4):
            if back >= len(own):
                assert found.type_nL[place, back] == 0
                continue
            letter = int(shop.history.events.letter[own[back]])
            assert found.type_nL[place, back] == letter - ord("a") + 1
            assert found.amount_nL[place, back] == shop.history.events.amount[own[back]]
            gap_s = found.gap_nL[place, back]
            if back + 1 < len(own):
                apart_ms = shop.time_ms_N[own[back]] - shop.time_ms_N[own[back + 1]]
                assert gap_s == pytest.approx(apart_ms / 1_000)
            else:
                assert np.isnan(gap_s)


def test_out_of_fold_log_odds_of_an_event_do_not_depend_on_labels_of_its_user() -> None:
    shop = draw_shop(OrderShopConfig(5, users=12, days=30, frauds=12, honest_per_fraud=4))
    events = last_events(shop.history.rows(np.arange(len(shop.time_ms_N))))
    fit = partial(fit_transformer, epochs=1)
    log_odds_n = out_of_fold(fit, events, shop.fraud_N, shop.user_N)
    of_user = shop.user_N == 4
    flipped_n = np.where(of_user, ~shop.fraud_N, shop.fraud_N)
    changed_n = out_of_fold(fit, events, flipped_n, shop.user_N)
    np.testing.assert_array_equal(log_odds_n[of_user], changed_n[of_user])
    others = shop.user_N % 3 != 4 % 3
    assert (log_odds_n[others] != changed_n[others]).any()
