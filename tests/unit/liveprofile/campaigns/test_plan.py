"""Plans: who is chosen, who is left out and why, and the control group."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest

from liveprofile.campaigns.contacts import messages
from liveprofile.campaigns.control_group import detectable_effect, is_control, users_needed
from liveprofile.campaigns.frequency_cap import Cap
from liveprofile.campaigns.plan import (
    CONTROL,
    TREATMENT,
    Candidate,
    Economics,
    Target,
    candidates,
    choose,
    condition_of,
    exclusion,
)
from liveprofile.campaigns.plan_file import Campaign, PlanFile, read_plan, write_csv, write_plan
from liveprofile.errors import InputError
from liveprofile.storage.queries import StoredProfile
from liveprofile.units import DAY_MS
from tests.support.rows.value_curves import curve_document

FREE = Economics(cost=0.0, margin=1.0, response=None, budget=None)


def profile(user_id: str, *segments: str, **changes: Any) -> StoredProfile:
    features = {"windows": 5.0, "purchases": changes.pop("purchases", 2.0)}
    return StoredProfile(
        user_id,
        0,
        1,
        "m",
        1,
        0.25,
        40.0,
        12.0,
        1.0,
        20.0,
        7,
        list(segments),
        {"features": features} | changes.pop("document", {}),
        [],
    )._replace(**changes)


def nobody(user_id: str) -> None:
    return None


def candidate(user_id: str, gain: float) -> Candidate:
    return Candidate(user_id, ("loyal",), 0.5, 10.0, gain)


def test_candidates_fit_condition_and_one_of_the_segments() -> None:
    profiles = [
        profile("fits", "loyal", "new"),
        profile("other segment", "browser"),
        profile("unknown recency", "loyal", recency_days=None),
        profile("too few purchases", "loyal", purchases=0.0),
    ]
    condition = condition_of("recency_days < 30 and purchases >= 1")
    found = candidates(profiles, condition, frozenset(["loyal", "lapsing"]), FREE)
    assert [each.user_id for each in found] == ["fits"]
    assert found[0].expected_gain == pytest.approx(0.75 * 40)
    assert len(candidates(profiles, None, frozenset(), FREE)) == 4
    assert candidates([], condition, frozenset(), FREE) == []


def test_many_profiles_are_evaluated_in_batches() -> None:
    profiles = [profile(f"u{n}", churn=n / 5_000) for n in range(5_000)]
    assert len(candidates(profiles, condition_of("churn < 0.5"), frozenset(), FREE)) == 2_500


@pytest.mark.parametrize("text", ["chrun < 1", "churn", "churn <", "segment == 'new'"])
def test_wrong_condition_is_an_input_error_with_its_position(text: str) -> None:
    with pytest.raises(InputError, match="--when, character"):
        condition_of(text)


def test_gain_is_margin_spend_and_response_less_the_cost() -> None:
    economics = Economics(cost=0.5, margin=0.2, response=0.1, budget=None)
    [found] = candidates([profile("u")], None, frozenset(), economics)
    assert found.expected_gain == pytest.approx(0.2 * 40 * 0.1 - 0.5)


def test_budget_goes_to_the_largest_gains_and_control_costs_nothing() -> None:
    found = [candidate(f"u{n:04}", n + 1) for n in range(1_000)]
    economics = Economics(2.0, 1.0, None, budget=401.0)
    plan = choose(found, "spring", 0.2, economics, nobody)
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
    plan = choose(found, "spring", 0.0, FREE, exclusion({"a"}, {"b", "a"}, {"c"}))
    assert [target.user_id for target in plan.targets] == ["e"]
    assert plan.left_out == {
        "excluded by file": 1,
        "open fraud case": 1,
        "frequency cap": 1,
        "no expected gain": 1,
    }


def test_users_without_marketing_consent_are_left_out() -> None:
    found = [Candidate(user, (), 0.1, 40.0, 5.0) for user in "abc"]
    allows = exclusion({"a"}, set(), set(), lambda user: user == "c")
    plan = choose(found, "spring", 0.0, FREE, allows)
    assert [target.user_id for target in plan.targets] == ["c"]
    assert plan.left_out == {"no marketing consent": 2}


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


def test_sample_size_is_that_of_the_literature() -> None:
    # Fleiss, Levin and Paik 2003, table A.4 without correction: 0.6 against 0.7, equal groups.
    assert users_needed(0.6, 0.1, 0.5) == pytest.approx(2 * 356, rel=0.005)
    assert users_needed(0.05, 0.01, 0.1) > users_needed(0.05, 0.01, 0.5)
    with pytest.raises(ValueError, match="not possible"):
        users_needed(0.95, 0.1, 0.5)


def test_detectable_effect_inverts_the_sample_size() -> None:
    effect = detectable_effect(0.1, 20_000, 0.2)
    assert users_needed(0.1, effect, 0.2) == pytest.approx(20_000, rel=0.01)
    assert detectable_effect(0.1, 20_000, 0.0) is None
    assert detectable_effect(0.1, 3, 0.5) is None


PLAN = PlanFile(
    Campaign(name="spring", start_ms=1_700_000_000_000, control_share=0.5, cost=0.1),
    [
        Target("u1", TREATMENT, ("loyal", "new"), 0.5, 10.0, 4.0),
        Target('u,"2', CONTROL, (), 0.25, 5.0, 3.5),
    ],
)


def test_plan_file_is_read_as_written(tmp_path) -> None:
    capped = PLAN.campaign.model_copy(update={"cap": Cap(contacts=2, span_ms=DAY_MS)})
    for plan in PLAN, PlanFile(PLAN.campaign, []), PlanFile(capped, PLAN.targets):
        write_plan(tmp_path / "plan.parquet", plan)
        assert read_plan(tmp_path / "plan.parquet") == plan


def test_csv_has_a_line_for_each_user(tmp_path) -> None:
    write_csv(tmp_path / "plan.csv", PLAN)
    with (tmp_path / "plan.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["user_id"] for row in rows] == ["u1", 'u,"2']
    assert rows[0]["segments"] == "loyal new" and rows[1]["group"] == CONTROL


def test_other_files_are_no_plan(tmp_path) -> None:
    file = tmp_path / "plan.parquet"
    with pytest.raises(InputError, match="no file at"):
        read_plan(file)
    file.write_text("user_id\n")
    with pytest.raises(InputError, match="is no plan"):
        read_plan(file)


def test_only_the_treatment_group_is_sent_with_ids_that_stay() -> None:
    [(key, value, headers)] = messages(PLAN)
    assert (key, headers["content-type"]) == (b"u1", "application/cloudevents+json")
    event = json.loads(value)
    assert event["id"] == "spring/u1" and event["data"]["segments"] == ["loyal", "new"]
    assert list(messages(PLAN)) == [(key, value, headers)]


def test_profile_at_a_time_has_the_values_of_its_curve() -> None:
    aged = profile("u", document=curve_document()).at(1 + DAY_MS)
    assert (aged.churn, aged.expected_spend, aged.recency_days) == (0.2, 25.0, 12.0)
    assert profile("u").at(1 + DAY_MS) == profile("u")
