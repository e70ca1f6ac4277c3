"""`liveprofile profile explain`: which records it reads, its checks, and its output."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.profile import cause_tables
from liveprofile.consent.changes import PURPOSES, ConsentChange, ConsentTable
from liveprofile.errors import InputError
from liveprofile.features import baselines
from liveprofile.kafka.partitioner import partition_of
from liveprofile.kafka.records import Record
from liveprofile.privacy.erasures import ErasureTable
from liveprofile.storage.queries import StoredDelta
from liveprofile.wire.window_events import InvalidEventError, WindowEvent, as_id, digest, join, load
from offline.explanation import (
    check_permission,
    check_values,
    has_stored_events,
    may_be_of_user,
    without_interests,
)
from offline.occlusion import EventEffect, ServedValues, WindowEffects

END_MS = 1_511_658_000_000
TEA = EventEffect(
    "e1", END_MS - 9, "purchase", "9", "tea", 12.5, -0.02, 3.0, 0.1, [("tea", 0.1, 0.2)]
)
MILK = EventEffect("e2", END_MS - 8, "view", "8", "milk", 0.0, 0.05, 0.0, 0.01, [])
FOUND = WindowEffects(2, ServedValues(0.3, 40.0, {"tea": 0.2}), [TEA, MILK])


def delta(churn: float = 0.3, spend: float = 40.0, events: int = 7) -> StoredDelta:
    after = {"churn": churn, "expected_spend": spend, "events": events, "windows": 3}
    digests = digest("e2") + digest("e1")
    return StoredDelta("u", 0, END_MS, "m", 2, 12.5, 0.1, 2.0, [], {"after": after}, digests)


def row(*event_ids: str, total: int = 7, end_ms: int = END_MS) -> dict[str, Any]:
    events = [
        WindowEvent(END_MS - 9, "a", "0", "1", f'{{"event_id": "{name}", "event_type": "view"}}')
        for name in event_ids
    ]
    sums = np.zeros(len(baselines.COLUMNS))
    sums[baselines.COLUMNS.index("events")] = total
    return {"window_end_ms": end_ms, "events": join(events), "sums": sums.tolist()}


def test_each_value_has_a_table_of_the_events_that_move_it_most() -> None:
    churn, spend, interests = cause_tables(FOUND, 3)
    assert str(churn.title) == "Churn: 30.0%"
    assert cells(churn, "event id") == ["e2", "e1"]
    assert cells(churn, "churn") == ["0.05", "-0.02"]
    assert cells(spend, "expected spend") == ["3.00"]  # the other event does not move it
    assert cells(interests, "moved interests")[0] == "tea, 0.1, 0.2"
    assert cells(next(iter(cause_tables(FOUND, 1))), "event id") == ["e2"]


def cells(table: Any, header: str) -> list[str]:
    [column] = [each for each in table.columns if str(each.header) == header]
    return list(column.cells)


def test_user_without_consent_to_recommendations_has_no_interests() -> None:
    found = without_interests(FOUND)
    assert len(list(cause_tables(found, 3))) == 2
    assert not found.served.interests and not any(each.interests for each in found.effects)
    assert [each.churn for each in found.effects] == [-0.02, 0.05]


def test_events_of_the_stored_window_are_accepted() -> None:
    assert has_stored_events(row("e1", "e2"), delta())


@pytest.mark.parametrize(
    "other",
    [
        None,
        row("e1"),
        row("e1", "e3"),
        row("e1", "e2", total=6),
        row("e1", "e2", end_ms=END_MS - 1),
    ],
)
def test_other_events_than_the_stored_ones_are_refused(other: Any) -> None:
    assert not has_stored_events(other, delta())


def test_user_who_was_erased_or_withdrew_is_refused() -> None:
    consents, erasures = ConsentTable(dict.fromkeys(PURPOSES, True)), ErasureTable()
    check_permission(consents, erasures, delta(), END_MS)
    consents.put("u", [ConsentChange(END_MS + 5, "profiling", False)])
    check_permission(consents, erasures, delta(), END_MS)  # not yet
    with pytest.raises(InputError, match="does not allow profiling"):
        check_permission(consents, erasures, delta(), END_MS + 5)
    erasures.put("u", 1)  # the window began before
    with pytest.raises(InputError, match="was erased"):
        check_permission(consents, erasures, delta(), END_MS)


def test_values_that_are_not_the_stored_ones_are_refused() -> None:
    check_values(FOUND, delta(churn=0.3002, spend=40.01))
    with pytest.raises(InputError, match=r"churn is 0\.31 in the stored delta"):
        check_values(FOUND, delta(churn=0.31))
    with pytest.raises(InputError, match="expected_spend is 42"):
        check_values(FOUND, delta(spend=42.0))


def passes(user_id: str, value: bytes | None) -> bool:
    return may_be_of_user(user_id)(Record("t", 0, 0, 0, None, value, {}))


@pytest.mark.parametrize(
    ("user_id", "value"),
    [
        ("42", b'{"user_id": "42"}'),
        ("42", b'{"user_id":42}'),
        ("0", b'{"user_id":-0}'),
        ("42", rb'{"user_id":"\u0034\u0032"}'),
        ("a/b", rb'{"user_id":"a\/b"}'),
        ("\ud800", rb'{"user_id":"\ud800"}'),
    ],
)
def test_every_way_to_write_an_id_passes(user_id: str, value: bytes) -> None:
    assert as_id(load(value)["user_id"]) == user_id
    assert passes(user_id, value)
    assert not passes("another", b'{"user_id":"b"}') and not passes("another", None)


@given(st.text('a"4\\ü/-', min_size=1, max_size=3), st.booleans())
def test_no_record_of_the_user_fails(user_id: str, ascii_: bool) -> None:
    value = json.dumps({"user_id": user_id}, ensure_ascii=ascii_).encode()
    with suppress(InvalidEventError):
        assert passes(user_id, value) or as_id(load(value)["user_id"]) != user_id


# As in Kafka's own test of its partitioner (UtilsTest.testMurmur2).
@pytest.mark.parametrize(
    ("key", "hashed"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)],
)
def test_partition_is_that_of_java_clients(key: bytes, hashed: int) -> None:
    for partitions in (1, 3, 16):
        assert partition_of(key, partitions) == (hashed & 0x7FFFFFFF) % partitions
