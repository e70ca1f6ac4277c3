"""Preview of changed definitions from stored profiles."""

from __future__ import annotations

from types import SimpleNamespace

import orjson

from liveprofile.segments.features import PROFILE_FEATURES
from liveprofile.segments.preview import SegmentPreview, preview
from liveprofile.segments.stored_profiles import ProfilePage, profile_page
from liveprofile.units import DAY_MS
from tests.support.rows.segment_examples import segments
from tests.support.rows.value_curves import curve_document


def stored(user_id: str, recency_days: float | None, **more: object) -> SimpleNamespace:
    features = dict.fromkeys(PROFILE_FEATURES, 1.0) | {"recency_days": recency_days}
    profile = {"features": features, "interests": {"A": 0.5}, "category_affinity": {}} | more
    return SimpleNamespace(
        user_id=user_id,
        user_token=len(user_id),
        window_end_ms=DAY_MS,
        write_time_us=1,
        profile=orjson.dumps(profile).decode(),
        segments=["coupon_user"],
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


def test_preview_at_a_later_time_reads_the_curves() -> None:
    found = segments(leaving="churn > 0.5 and churn < 0.9")
    page = profile_page([stored("a", 1.0, **curve_document()), stored("bb", 20.0)])
    _, [preview_] = preview([page], found, found, 8 * DAY_MS, 30.0)
    assert preview_.users_then == 1


def test_preview_at_a_later_time_counts_the_days_since_the_window() -> None:
    found = segments(recent="recency_days <= 30")
    users_at = [
        preview(pages(), found, found, time_ms, 30.0)[1][0].users_then
        for time_ms in (DAY_MS, 11 * DAY_MS, 12 * DAY_MS, 40 * DAY_MS)
    ]
    assert users_at == [2, 2, 1, 0]
