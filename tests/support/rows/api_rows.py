"""Rows that the read API answers with."""

from liveprofile.storage.queries import StoredFlag, StoredScore
from serve.store.statements import RawDelta, RawProfile
from services.alerts.case_store import AlertCase
from tests.support.memory.api import MINUTE_MS, NOW_MS, MemoryApi
from tests.support.rows.profile_rows import flag
from tests.support.rows.stored_rows import profile_fields

WINDOW_MS = 5 * MINUTE_MS
USERS = ("42", "Zoë/ü", "a b%2F?&")


def raw_profile(user_id: str = "42", end_ms: int = NOW_MS) -> RawProfile:
    values = dict(
        user_id=user_id,
        window_start_ms=end_ms - WINDOW_MS,
        window_end_ms=end_ms,
        model_version="m1",
        feature_version=1,
        churn=0.25,
        expected_spend=12.5,
        recency_days=None,
        purchases_decayed=1.5,
        amount_decayed=20.25,
        events_total=7,
        segments=("new", "loyal"),
        profile='{"features":{"churn":0.25,"recency_days":null},"interests":{"café":0.5,"tea":0.25},'
        '"category_affinity":{"café":1.0},"next_items":["b","a","c"],"used_coupon":false}',
        embedding=[1.0, 0.0],
    )
    return RawProfile(**profile_fields() | values)


def raw_delta(window: int, user_id: str = "42") -> RawDelta:
    """The delta of the window number `window` before NOW_MS."""
    end_ms = NOW_MS - window * WINDOW_MS
    churn = window / 10
    return RawDelta(
        user_id,
        end_ms - WINDOW_MS,
        end_ms,
        "m1",
        2,
        20.25,
        0.125,
        3.5,
        None,
        f'{{"before":{{"churn":0.5}},"after":{{"churn":{churn},"expected_spend":2.5}}}}',
    )


def stored_score(number: int, time_ms: int = NOW_MS) -> StoredScore:
    return StoredScore(
        "42", time_ms, f"e{number:03d}", "purchase", 5.0, 0.5, "m1", "r1", ["rule"], *(None,) * 5
    )


def stored_flag_of(number: int, user_id: str = "42", event_id: str = "") -> StoredFlag:
    values = flag(f"rule{number:03d}", flag_id=f"{number:032x}", event_id=event_id)._asdict()
    del values["rule_state"]
    values |= dict(user_id=user_id, model_version="m1", reasons=[])
    return StoredFlag(window_start_ms=NOW_MS - WINDOW_MS, window_end_ms=NOW_MS, **values)


def alert_case(number: int, user_id: str = "42") -> AlertCase:
    flag_id = f"{number:032x}"
    return AlertCase(
        user_id, "rule", number, number > 1, NOW_MS, "high", "a", "m", {flag_id: NOW_MS}
    )


def fill(api: MemoryApi) -> MemoryApi:
    """Stores a few rows of everything but counts."""
    api.put(*map(raw_profile, USERS), *map(raw_delta, range(6)), *map(stored_score, range(7)))
    for number in range(8):
        event_id = "e" if number > 3 else ""
        api.put(stored_flag_of(number, USERS[number % 2], event_id=event_id))
    api.put(*map(alert_case, range(1, 4)))
    api.put_members("loyal", *USERS)
    size = {"segment": "loyal", "time": NOW_MS, "members": 3, "users": 3}
    api.session.put("segment_size", size)
    return api
