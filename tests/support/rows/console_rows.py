"""Rows of a user about whom much is known, for the pages of the console."""

import orjson

from liveprofile.units import HOUR_MS
from serve.store.statements import RawDelta, RawProfile
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.support.rows.api_rows import fill, raw_profile, stored_flag_of

KNOWN_USER = "anna<b>"
FEATURES = {
    "windows": 14.0,
    "events": 320.0,
    "purchases": 23.0,
    "amount": 1_037.5,
    "purchase_windows": 12.0,
    "recency_days": 3.25,
    "purchases_decayed": 4.5,
    "amount_decayed": 210.0,
    "purchase_count_mean": 1.9,
    "purchase_count_std": 0.4,
    "purchase_amount_mean": 45.1,
    "purchase_amount_std": 9.0,
    "churn": 0.23,
    "expected_spend": 60.0,
}
AFFINITY = {"coffee": 0.5, "tea": 0.3, "cups": 0.15, "<script>alert(1)</script>": 0.05}
WINDOWS = 12


def known_profile(user_id: str = KNOWN_USER, end_ms: int = NOW_MS) -> RawProfile:
    hours = [0.0] * 24
    hours[18], hours[19], hours[9] = 0.5, 0.3, 0.2
    profile = {
        "features": FEATURES,
        "used_coupon": True,
        "activity_hour": hours,
        "activity_weekday": [0.1, 0.0, 0.0, 0.1, 0.2, 0.6, 0.0],
        "category_affinity": AFFINITY,
        "interests": {"coffee": 0.4},
        "next_items": ["espresso", "mug", "filter"],
    }
    return raw_profile(user_id, end_ms)._replace(
        window_start_ms=end_ms - HOUR_MS,
        model_version="m2",
        events_total=320,
        segments=("loyal", "coupon_user"),
        profile=orjson.dumps(profile).decode(),
        **{name: FEATURES[name] for name in FEATURES.keys() & set(RawProfile._fields)},
    )


def known_delta(hours_ago: int, user_id: str = KNOWN_USER) -> RawDelta:
    """The delta of the window of an hour that ended so many hours before NOW_MS."""
    end_ms = NOW_MS - hours_ago * HOUR_MS
    churn = round(0.23 + 0.05 * hours_ago, 2)
    delta = {
        "before": FEATURES | {"churn": round(churn + 0.05, 2)},
        "after": FEATURES | {"churn": churn},
        "moved_categories": [["tea", 0.2, 0.3]],
        "window": {"events": 3, "counts": {"view": 2, "purchase": 1}, "amount": 20.25},
    }
    text = orjson.dumps(delta).decode()
    return RawDelta(
        user_id, end_ms - HOUR_MS, end_ms, "m2", 3, 20.25, 0.125, 3.5, ("late_night",), text
    )


def fill_console(api: MemoryApi) -> MemoryApi:
    """`fill`, with the known user."""
    fill(api).put(known_profile(), *map(known_delta, range(WINDOWS)))
    api.put_members("loyal", KNOWN_USER)
    size = {"segment": "loyal", "time": NOW_MS, "members": 4, "users": 4}
    api.session.put("segment_size", size)
    api.put(
        stored_flag_of(0, KNOWN_USER)._replace(
            window_end_ms=NOW_MS - 2 * HOUR_MS,
            window_start_ms=NOW_MS - 3 * HOUR_MS,
            rule_id="spend_spike",
            flag_id="f" * 32,
            message="spent <i>207.12</i> in a day",
            evidence={"amount": 207.12, "usual_amount": 11.3},
            reasons=[
                {"code": "AMOUNT", "sentence": "unusual amount", "value": 207.12, "usual": 11.3},
                {"code": "NEW_DEVICE", "sentence": "", "value": None, "usual": None},
            ],
        )
    )
    return api
