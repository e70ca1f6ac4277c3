"""The workers' cache of attributes: bounded, and read again after a while."""

from __future__ import annotations

from collections.abc import Iterable

from liveprofile.attributes.statements import SEGMENT_PURPOSES, Statement
from tests.support.rows.statements import stated
from udfs.attribute_reads import CachedAttributes

START_MS = 1_700_000_000_000


class Store:
    """Counts what is read."""

    def __init__(self, *statements: Statement):
        self.stored = {one.user_id: [one] for one in statements}
        self.reads: list[list[str]] = []

    def statements(self, user_ids: Iterable[str]) -> dict[str, list[Statement]]:
        self.reads.append(list(user_ids))
        return {user: self.stored.get(user, []) for user in self.reads[-1]}


def values(cache: CachedAttributes, *user_ids: str) -> list[dict[str, object]]:
    return cache.values(user_ids, [START_MS] * len(user_ids), SEGMENT_PURPOSES)


def test_user_is_read_once_until_the_entry_is_too_old() -> None:
    store, clock_s = Store(stated("u", START_MS, a=1)), [0.0]
    cache = CachedAttributes(store, max_age_s=30, clock_s=lambda: clock_s[0])
    assert cache.rule_columns([], ["u"], [START_MS]) == {} and store.reads == []
    assert values(cache, "u", "v", "u") == [{"a": 1}, {}, {"a": 1}]
    clock_s[0] = 30
    assert values(cache, "u") == [{"a": 1}]
    assert store.reads == [["u", "v"]]
    store.stored["u"] = [stated("u", START_MS, a=2)]
    clock_s[0] = 30.1
    assert values(cache, "u", "w") == [{"a": 2}, {}]
    assert store.reads == [["u", "v"], ["u", "w"]]


def test_full_cache_is_cleared() -> None:
    store = Store(stated("u", START_MS, a=1))
    cache = CachedAttributes(store, max_users=2)
    assert values(cache, "u") == [{"a": 1}]
    assert values(cache, "u", "v", "w") == [{"a": 1}, {}, {}]
    assert store.reads == [["u"], ["u", "v", "w"]]
    assert values(cache, "x") == [{}]
    assert store.reads[2:] == [["x"]]
