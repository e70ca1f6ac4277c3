"""Plans: who is chosen, who is left out and why, and the control group."""

import csv
import json
from typing import Any

import numpy as np
import pytest

from liveprofile.errors import InputError
from liveprofile.storage.queries import StoredProfile, WindowChange
from liveprofile.units import DAY_MS
from services.campaigns.plan import (
    CONTROL,
    TREATMENT,
    Campaign,
    Cap,
    Contact,
    Target,
    Wish,
    candidates,
    choose,
    condition_of,
    is_at_cap,
    is_control,
)
from services.campaigns.report import (
    Outcome,
    mean_difference,
    outcomes,
    rate_difference,
    uplift_by_segment,
)
from services.campaigns.store import messages, write_csv
from tests.support.rows.stored_rows import stored_profile

SPRING = Campaign(name="spring", start_ms=1_700_000_000_000, control_share=0.0, cost=0.0)
FREE = Wish(SPRING)


def profile(user_id: str, *segments: str, **changes: Any) -> StoredProfile:
    features = {"windows": 5.0, "purchases": changes.pop("purchases", 2.0)}
    return stored_profile(
        user_id=user_id,
        window_end_ms=1,
        churn=0.25,
        expected_spend=40.0,
        recency_days=12.0,
        amount_decayed=20.0,
        segments=list(segments),
        profile={"features": features} | changes.pop("document", {}),
    )._replace(**changes)


def candidate(user_id: str, gain: float) -> Target:
    return Target(user_id, "", ("loyal",), 0.5, 10.0, gain, 0)


def test_candidates_fit_condition_and_one_of_the_segments() -> None:
    profiles = [
        profile("fits", "loyal", "new"),
        profile("other segment", "browser"),
        profile("unknown recency", "loyal", recency_days=None),
        profile("too few purchases", "loyal", purchases=0.0),
    ]
    condition = condition_of("recency_days < 30 and purchases >= 1")
    wish = FREE._replace(condition=condition, segments=frozenset(["loyal", "lapsing"]))
    found = list(candidates(profiles, wish))
    assert [each.user_id for each in found] == ["fits"]
    assert found[0].expected_gain == pytest.approx(0.75 * 40)
    assert len(list(candidates(profiles, FREE))) == 4
    assert list(candidates([], wish)) == []


@pytest.mark.parametrize("text", ["chrun < 1", "churn", "churn <", "segment == 'new'"])
def test_wrong_condition_is_an_input_error_with_its_position(text: str) -> None:
    with pytest.raises(InputError, match="--when, character"):
        condition_of(text)


def test_gain_is_margin_spend_and_response_less_the_cost() -> None:
    campaign = SPRING._replace(cost=0.5)
    [found] = candidates([profile("u")], Wish(campaign, margin=0.2, response=0.1))
    assert found.expected_gain == pytest.approx(0.2 * 40 * 0.1 - 0.5)


def test_budget_goes_to_the_largest_gains_and_control_costs_nothing() -> None:
    found = [candidate(f"u{n:04}", n + 1) for n in range(1_000)]
    campaign = SPRING._replace(cost=2.0, control_share=0.2)
    plan = choose(found, Wish(campaign, budget=401.0))
    treated = [target for target in plan.targets if target.group == TREATMENT]
    assert len(treated) == 200
    gains = [target.expected_gain for target in plan.targets]
    assert gains == sorted(gains, reverse=True) and min(gains) > 1_000 - 300
    assert plan.left_out == {"budget": 1_000 - len(plan.targets)}
    assert all(
        is_control("spring", each.user_id, 0.2) == (each.group == CONTROL) for each in plan.targets
    )


def test_reasons_to_leave_out_a_user_are_counted() -> None:
    found = [candidate(user, gain) for user, gain in zip("abcde", (5, 4, 3, -1, 1), strict=True)]
    excluded = {"open fraud case": {"b", "a"}, "frequency cap": {"c"}}
    found += [candidate("f", 9)]
    plan = choose(found, FREE._replace(opted_out={"a"}), excluded, lambda user: user != "f")
    assert [target.user_id for target in plan.targets] == ["e"]
    assert plan.left_out == {
        "no marketing consent": 1,
        "excluded by file": 1,
        "open fraud case": 1,
        "frequency cap": 1,
        "no expected gain": 1,
    }


def test_control_groups_are_stable_independent_and_of_the_share() -> None:
    users = [f"user-{n}" for n in range(20_000)]
    first, again, other = (
        {user for user in users if is_control(name, user, 0.1)} for name in ("a", "a", "b")
    )
    assert first == again
    assert 0.09 < len(first) / len(users) < 0.11
    assert 0.06 < len(first & other) / len(first) < 0.14
    # A larger share keeps who is in the smaller one.
    assert first < {user for user in users if is_control("a", user, 0.2)}
    assert not any(is_control("a", user, 0.0) for user in users)


TARGETS = [
    Target("u1", TREATMENT, ("loyal", "new"), 0.5, 10.0, 4.0, 0),
    Target('u,"2', CONTROL, (), 0.25, 5.0, 3.5, 0),
]


def test_csv_has_a_line_for_each_user_and_no_formulas(tmp_path) -> None:
    formula = TARGETS[0]._replace(user_id='=HYPERLINK("http://x")')
    write_csv(tmp_path / "plan.csv", SPRING, [*TARGETS, formula])
    with (tmp_path / "plan.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["user_id"] for row in rows] == ["u1", 'u,"2', "'" + formula.user_id]
    assert rows[0]["segments"] == "loyal new" and rows[1]["group"] == CONTROL


def test_messages_have_ids_that_stay() -> None:
    [(key, value, headers)] = messages(SPRING, TARGETS[:1])
    assert (key, headers["content-type"]) == (b"u1", "application/cloudevents+json")
    event = json.loads(value)
    assert event["id"] == "spring/u1" and event["data"]["segments"] == ["loyal", "new"]
    assert list(messages(SPRING, TARGETS[:1])) == [(key, value, headers)]


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
    return Target(user, group, segments, 0.5, 1.0, 1.0, 0)


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


START_MS = 1_700_000_000_000
OWN = Contact(START_MS, "spring")


def contact(campaign: str, days: float) -> Contact:
    return Contact(START_MS + round(days * DAY_MS), campaign)


@pytest.mark.parametrize(
    ("contacts", "most", "expected"),
    [
        ([], 1, False),
        ([contact("a", -1)], 1, True),
        ([contact("a", -1)], 2, False),
        ([contact("a", -30)], 1, True),
        ([contact("a", -30.01)], 1, False),
        ([contact("a", -1), contact("a", -2)], 2, True),
        ([contact("spring", -1)], 1, False),  # the same campaign, planned for another time
        ([contact("a", 5)], 1, True),  # planned for later
        ([contact("a", 5), OWN], 1, False),  # this one was first
        ([contact("a", -5), OWN], 1, True),
        ([contact("a", 0), OWN], 1, True),
        ([contact("z", 0), OWN], 1, False),
    ],
)
def test_contacts_of_other_campaigns_count(
    contacts: list[Contact], most: int, expected: bool
) -> None:
    assert is_at_cap(iter(contacts), OWN, Cap(contacts=most, days=30)) is expected
