"""FlagStateCache: the state before a window, as written or read."""

from __future__ import annotations

from liveprofile.rules.flags import RowPosition
from tests.support.rows.profile_rows import flag, profile_row
from udfs.cassandra.flag_state_cache import CachedFlagState, FlagStateCache
from udfs.profile.row import ProfileRow


def row(user_id: str, window_end_ms: int, **changes: object) -> ProfileRow:
    return profile_row(user_id, window_end_ms=window_end_ms, **changes)


FLAGGED = row("u", 600_000, active_rules=["a"], flags=[flag("a")])


def test_written_row_is_the_state_before_later_windows_only():
    cache = FlagStateCache()
    cache.update([FLAGGED])
    assert cache.get("u", 900_000) == CachedFlagState(
        600_000, RowPosition(600_000), frozenset("a"), None
    )
    assert cache.get("u", 600_000) is None  # a replay reads Cassandra
    assert cache.get("other", 900_000) is None


def test_writes_update_a_state_that_was_read():
    cache = FlagStateCache()
    cache.put("u", CachedFlagState(599_999, None, frozenset(), {"a": 1, "b": 2}))
    cache.update([FLAGGED, row("u", 900_000, active_rules=[])])
    newest = CachedFlagState(900_000, RowPosition(900_000), frozenset(), {"a": 600_000, "b": 2})
    assert cache.get("u", 1_200_000) == newest
    cache.put(
        "u", CachedFlagState(599_999, None, frozenset("a"), {})
    )  # older than the cached state
    assert cache.get("u", 1_200_000) == newest


def test_out_of_order_row_evicts_its_user():
    cache = FlagStateCache()
    cache.update([row("u", 900_000), FLAGGED])
    assert cache.get("u", 1_200_000) is None
