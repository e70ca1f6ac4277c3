"""Numbers of users: exact up to a limit, then an estimate with a known error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.trends import distinct_users
from liveprofile.trends.recent_events import RecentEvents

EXACT = distinct_users.EXACT_USERS


def hashes(first: int, end: int) -> list[int]:
    return [distinct_users.user_hash(f"user-{number}") for number in range(first, end)]


@pytest.mark.parametrize("users", [0, 1, EXACT - 1, EXACT])
def test_count_is_exact_up_to_the_limit(users: int) -> None:
    kept = distinct_users.smallest(hashes(0, users) * 2, EXACT)
    assert distinct_users.count(kept, EXACT) == users
    kept = distinct_users.from_bytes(distinct_users.to_bytes(kept))
    assert distinct_users.count(kept, EXACT) == users


@pytest.mark.parametrize(("exact", "error"), [(EXACT, 0.044), (4_096, 0.016)])
def test_estimate_beyond_the_limit_has_the_published_error(exact: int, error: float) -> None:
    rng = np.random.default_rng(3)
    estimates = [
        distinct_users.count(
            distinct_users.smallest(rng.integers(0, 2**64, 20_000, np.uint64), exact), exact
        )
        for _ in range(60)
    ]
    assert abs(np.mean(estimates) / 20_000 - 1) < 3 * error / 60**0.5
    assert 0.7 * error < np.std(estimates) / 20_000 < 1.3 * error


def test_union_is_the_same_as_counting_all_at_once() -> None:
    one, other, both = (
        distinct_users.smallest(hashes(*span), EXACT)
        for span in ((0, 3_000), (2_000, 5_000), (0, 5_000))
    )
    assert np.array_equal(distinct_users.union(one, other, EXACT), both)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=200),
    st.integers(1, 20),
    st.integers(1, 10),
)
def test_event_is_first_unless_seen_within_the_time(steps, ttl_ms: int, batch: int) -> None:
    recent, last, now_ms, records = RecentEvents(ttl_ms), {}, 0, []
    for key, gap_ms in steps:
        now_ms += gap_ms
        expected = key not in last or now_ms - last[key] > ttl_ms
        last[key] = now_ms
        records.append((key, now_ms, expected))
    actual = []
    for start in range(0, len(records), batch):
        keys, times_ms, _ = zip(*records[start : start + batch], strict=True)
        actual += recent.add(np.array(keys, np.uint64), np.array(times_ms)).tolist()
    assert actual == [expected for _, _, expected in records]
    assert len(recent) <= 6 * 8
