"""Segment definitions: validation of files, records and sets."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from liveprofile.segments.evaluation import SegmentPreview, evaluate, preview
from liveprofile.segments.features import PROFILE_FEATURES, features_at
from liveprofile.segments.segments import SEGMENTS, SegmentsError, read_segments
from liveprofile.segments.stored_profiles import ProfilePage, profile_page
from liveprofile.units import DAY_MS
from liveprofile.value_curves import ValueCurves
from tests.support.memory.sweep_store import stored_profile
from tests.support.rows.segment_examples import (
    SEGMENTS_TOML,
    SHIPPED_SEGMENTS,
    segment,
    segment_inputs,
    segment_set,
    segments,
)
from tests.support.rows.value_curves import curve_document


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("purchases >=", "purchase >=", 5,
         "segment buyer: when, column 1: unknown name purchase; purchases?"),
        ("purchases >= 3", "intrest('A') > 0", 5,
         "segment buyer: when, column 1: only abs, min, max, interest, affinity, segment, attribute"
         " can be"),
        ("purchases >= 3", "segment('buyers')", 5,
         "segment buyer: when: unknown segment buyers; buyer?"),
        ("purchases >= 3", "not segment('buyer')", 5,
         "segment buyer: when: reads itself: buyer -> buyer"),
        ('owner = "marketing"', "", 3, "segment buyer: owner: Field required"),
        ("[[segments]]", "[[segment]]", None, "segments: must be tables [[segments]]"),
        ('version = "1"', 'version = "1"\nsweep = 3', None, "sweep: Extra inputs"),
    ],
)  # fmt: skip
def test_invalid_file_is_rejected_with_line_and_reason(
    tmp_path: Path, old: str, new: str, line: int | None, reason: str
) -> None:
    file = tmp_path / "segments.toml"
    file.write_text(SEGMENTS_TOML.replace(old, new, 1))
    with pytest.raises(SegmentsError) as error:
        read_segments(file)
    where = f"segments file {file}:{line}: " if line else f"segments file {file}: "
    assert str(error.value).startswith(where + reason)


def test_set_leaves_out_segments_with_invalid_references() -> None:
    found, faults = SEGMENTS.valid_set(
        [
            segment("good", "events > 1"),
            segment("paused", "events > 2", state="PAUSED"),
            segment("reads_paused", "segment('paused')"),
            segment("reads_broken", "segment('reads_paused')"),
        ]
    )
    assert [each.id for each in found.segments] == ["good", "paused"]
    assert [each.id for each in found.evaluated] == ["good"]
    assert [fault.name for fault in faults] == ["reads_paused", "reads_broken"]


def stored(user_id: str, recency_days: float | None, used_coupon: bool = True) -> object:
    interests = {"A": 0.5}
    return stored_profile(
        user_id, len(user_id), DAY_MS, interests, used_coupon, recency_days=recency_days
    )


def pages() -> list[ProfilePage]:
    return [
        profile_page([stored("a", 1.0), stored("bb", 20.0)]),
        profile_page([stored("ccc", None, used_coupon=False), stored("dddd", 40.0)]),
    ]


def test_preview_counts_who_enters_and_leaves() -> None:
    now = segments(gone="used_coupon == 1", recent="recency_days <= 10")
    then = segments(recent="recency_days <= 30", liked='interest("A") > 0.4')
    users, found = preview(pages(), now, then, DAY_MS, 30.0, examples=3)
    assert users == 4
    assert found == [
        SegmentPreview("gone", 3, 0, 0, 3, [], ["a", "bb", "dddd"]),
        SegmentPreview("liked", 0, 4, 4, 0, ["a", "bb", "ccc"], []),
        SegmentPreview("recent", 1, 2, 1, 0, ["bb"], []),
    ]


def shipped_by_hand(x: dict[str, float]) -> set[str]:
    """docs/data-contract.md, section 5, in plain Python."""
    holds = {
        "new": x["windows"] <= 3,
        "loyal": x["purchase_windows"] >= 10 and x["recency_days"] <= 30,
        "lapsing": x["purchase_windows"] >= 3 and x["recency_days"] > 30,
        "churn_risk": x["churn"] >= 0.5 and x["purchases"] > 0,
        "browser": x["events"] >= 20 and x["purchases"] == 0,
        "big_spender": x["purchase_windows"] >= 3 and x["purchase_amount_mean"] >= 100,
        "coupon_user": bool(x["used_coupon"]),
    }
    return {name for name, is_member in holds.items() if is_member}


def test_shipped_definitions_equal_the_contract_for_random_users() -> None:
    rng = np.random.default_rng(7)
    n = 5_000
    columns: dict[str, Any] = {
        "windows": rng.integers(1, 8, n),
        "events": rng.integers(1, 40, n),
        "purchases": rng.integers(0, 3, n),
        "purchase_windows": rng.integers(0, 14, n),
        "recency_days": rng.choice([0.0, 29.999999, 30.0, 30.000001, 90.0, math.nan], n),
        "purchase_amount_mean": rng.choice([0.0, 99.999999, 100.0, 250.0], n),
        "churn": rng.choice([0.0, 0.499999, 0.5, 1.0], n),
        "used_coupon": rng.integers(0, 2, n),
    }
    evaluation = evaluate(SHIPPED_SEGMENTS, segment_inputs(**columns))
    rows = [{name: column[i] for name, column in columns.items()} for i in range(n)]
    assert evaluation.names("ACTIVE") == [shipped_by_hand(row) for row in rows]
    assert {name for names in evaluation.names() for name in names} == {
        each.id for each in SHIPPED_SEGMENTS.segments
    }


def test_category_that_is_not_among_a_users_largest_counts_as_zero() -> None:
    found = segments(
        likes='interest("A") > 0.3', buys='affinity("B") >= 0.5', never="interest('A') == 0"
    )
    inputs = segment_inputs([{"A": 0.4}, {"B": 0.9}, {}], [{"B": 0.5}, {"A": 1.0}, {}])
    assert evaluate(found, inputs).names() == [{"likes", "buys"}, {"never"}, {"never"}]


def test_segment_reads_other_segments_but_paused_ones_are_not_evaluated() -> None:
    found = segment_set(
        segment("few", "not segment('many')"),
        segment("many", "events > 5"),
        segment("off", "events > 0", state="PAUSED"),
        segment("dark", "events > 0", state="SHADOW"),
    )
    evaluation = evaluate(found, segment_inputs(events=[6, 5]))
    assert evaluation.names() == [{"many", "dark"}, {"few", "dark"}]
    assert evaluation.names("ACTIVE") == [{"many"}, {"few"}]


def test_evidence_has_what_the_condition_read() -> None:
    found = segments(
        a='events > 5 and recency_days != 3 and interest("A") >= 0 and segment("b")', b="events > 5"
    )
    inputs = segment_inputs([{"A": 0.25}], events=[6.0])
    assert evaluate(found, inputs).evidence("a", 0) == {
        "events": 6,
        "recency_days": None,
        'interest("A")': 0.25,
        'segment("b")': True,
    }


def test_time_that_passes_changes_days_and_decayed_totals_only() -> None:
    profile = {name: np.array([2.0, np.nan]) for name in PROFILE_FEATURES}
    end_ms = np.array([DAY_MS, DAY_MS])
    at_end = features_at(profile, np.array([True, False]), end_ms, DAY_MS, 30.0)
    earlier = features_at(profile, np.array([True, False]), end_ms, 0, 30.0)
    later = features_at(profile, np.array([True, False]), end_ms, 31 * DAY_MS, 30.0)
    np.testing.assert_equal(at_end, earlier)
    assert at_end["idle_days"].tolist() == [0, 0] and at_end["used_coupon"].tolist() == [1, 0]
    changed = {"idle_days": 30, "recency_days": 32, "purchases_decayed": 2 / math.e}
    changed["amount_decayed"] = changed["purchases_decayed"]
    for name, values in later.items():
        assert values[0] == pytest.approx(changed.get(name, at_end[name][0]), abs=1e-6)
    assert np.isnan(later["recency_days"][1])


def test_values_of_the_model_follow_the_curves_of_the_users_who_have_one() -> None:
    profile = {name: np.array([0.5, 0.5]) for name in PROFILE_FEATURES}
    curves = ValueCurves.of([curve_document(), {}])
    ends_ms, coupons = np.array([DAY_MS, DAY_MS]), np.array([False, False])
    later = features_at(profile, coupons, ends_ms, 2 * DAY_MS, 30.0, curves)
    assert later["churn"].tolist() == [0.2, 0.5]
    assert later["expected_spend"].tolist() == [25.0, 0.5]
    at_end = features_at(profile, coupons, ends_ms, DAY_MS, 30.0, curves)
    assert at_end["churn"].tolist() == [0.5, 0.5]
