"""Uplift: known intervals, no control group, and coverage on simulated shops."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from liveprofile.campaigns.control_group import is_control
from liveprofile.campaigns.outcomes import outcomes
from liveprofile.campaigns.plan import CONTROL, TREATMENT, Target
from liveprofile.campaigns.uplift import (
    Outcome,
    mean_difference,
    rate_difference,
    uplift,
    uplift_by_segment,
)
from liveprofile.simulator import Shop, ShopConfig
from liveprofile.simulator.output import write_shop
from liveprofile.storage.queries import WindowChange


def test_interval_of_a_difference_of_rates_is_newcombes() -> None:
    # Newcombe 1998 (Statistics in Medicine 17, 873-890), table II, method 10.
    for case, expected in (
        ((56, 70, 48, 80), (0.2, 0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.6, 0.1705, 0.8090)),
        ((5, 56, 0, 29), (0.0893, -0.0381, 0.1926)),
    ):
        assert rate_difference(*case) == pytest.approx(expected, abs=1e-4)


def test_interval_of_a_difference_of_means_is_welchs() -> None:
    values, control = np.array([1.0, 2, 3, 4, 9]), np.array([2.0, 2, 3])
    found = mean_difference(values, control)
    # R: t.test(c(1, 2, 3, 4, 9), c(2, 2, 3))
    assert found == pytest.approx((1.4667, -2.3468, 5.2801), abs=0.02)
    assert mean_difference(np.zeros(3), np.zeros(3)) == (0, 0, 0)
    assert mean_difference(np.zeros(1), np.zeros(3)) is None


def target(user: str, group: str, *segments: str) -> Target:
    return Target(user, group, segments, 0.5, 1.0, 1.0)


def test_users_without_a_purchase_count_and_segments_are_those_of_the_plan() -> None:
    targets = [
        target("a", TREATMENT, "loyal"),
        target("b", TREATMENT),
        target("c", CONTROL, "loyal"),
        target("d", CONTROL),
    ]
    results = uplift_by_segment(targets, {"a": Outcome(True, 30.0), "x": Outcome(True, 9.0)})
    assert set(results) == {"all", "loyal"}
    assert results["all"].users == {TREATMENT: 2, CONTROL: 2}
    assert results["all"].purchase_rate == {TREATMENT: 0.5, CONTROL: 0.0}
    assert results["all"].spend_per_user == {TREATMENT: 15.0, CONTROL: 0.0}
    assert results["loyal"].rate_difference.value == 1.0
    assert results["loyal"].spend_difference is None  # one user each


def test_plan_without_control_has_no_uplift() -> None:
    result = uplift([Outcome(True, 10.0)], [])
    assert result.purchase_rate == {TREATMENT: 1.0, CONTROL: None}
    assert result.rate_difference is None and result.spend_difference is None


def test_outcomes_are_purchases_of_windows_that_start_in_the_time() -> None:
    def change(user: str, start: int, amount: float, *types: str) -> WindowChange:
        counts = dict.fromkeys(types, 1)
        return WindowChange(user, start, start + 5, amount, {"window": {"counts": counts}})

    changes = [
        change("a", 9, 100.0, "purchase"),
        change("a", 10, 1.0, "purchase", "view"),
        change("a", 19, 2.0, "purchase"),
        change("a", 20, 100.0, "purchase"),
        change("b", 12, 0.0, "view"),
        change("other", 12, 5.0, "purchase"),
    ]
    assert outcomes(changes, {"a", "b"}, 10, 20) == {"a": Outcome(True, 3.0)}


def shop_outcomes(tmp_path, seed: int) -> Iterator[Outcome]:
    """What each user of a generated shop buys in two weeks."""
    file = tmp_path / "events.jsonl"
    config = ShopConfig(users=600, days=14, seed=seed, takeovers=0, card_tests=0, rings=0)
    write_shop(Shop(config), file, None, lambda _: None)
    spend: dict[str, float] = {}
    users = set()
    for line in file.read_text().splitlines():
        event = json.loads(line)
        users.add(event["user_id"])
        if event["event_type"] == "purchase":
            amount = event.get("amount") or event["price"] * (event.get("quantity") or 1)
            spend[event["user_id"]] = spend.get(event["user_id"], 0.0) + amount
    for user in sorted(users):
        yield Outcome(user in spend, spend.get(user, 0.0))


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.0, 0.15])
def test_interval_covers_the_known_effect_in_95_percent_of_campaigns(
    tmp_path, effect: float
) -> None:
    rng = np.random.default_rng(4)
    alone = np.array(list(shop_outcomes(tmp_path, 1)))
    bought, spend = alone[:, 0].astype(bool), alone[:, 1]
    purchases = spend[bought]
    runs, covered = 400, {"rate": 0, "spend": 0}
    for run in range(runs):
        # Users of a large population, of whom the shop's are typical.
        chosen = rng.integers(0, len(alone), 1_500)
        responds = rng.random(len(chosen)) < effect
        extra = np.where(responds, rng.choice(purchases, len(chosen)), 0.0)
        groups = {True: [], False: []}
        for number, user in enumerate(chosen):
            control = is_control(f"campaign-{run}", f"user-{number}", 0.3)
            contacted = responds[number] and not control
            groups[control].append(
                Outcome(bool(bought[user] or contacted), spend[user] + extra[number] * contacted)
            )
        result = uplift(groups[False], groups[True])
        rate, money = result.rate_difference, result.spend_difference
        covered["rate"] += rate.low <= effect * (1 - bought.mean()) <= rate.high
        covered["spend"] += money.low <= effect * purchases.mean() <= money.high
    # 400 runs: a share of 95 % is between 92.5 % and 97.5 % in 98 of 100 cases.
    assert all(0.925 <= count / runs <= 0.98 for count in covered.values()), covered
