"""Which records `liveprofile profile explain` reads, compared with reading and parsing all of
them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.kafka.partitioner import partition_of
from liveprofile.kafka.records import Record
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import LimitSettings, WindowSettings
from liveprofile.storage.queries import WindowDigests
from liveprofile.wire.payload import BadEvent, as_id, digest, load
from offline.explanation.records import (
    EventSearch,
    KnownEvents,
    known_events,
    read_stages,
    record_test,
)
from offline.late_windows.late_events import LateTable, RecordSelection

USER = "u-7"


def is_of_user(value: bytes, user_id: str) -> bool:
    try:
        return as_id(load(value).get("user_id")) == user_id
    except BadEvent:
        return False


@pytest.mark.parametrize(
    ("user_id", "value"),
    [
        ("42", b'{"user_id": "42"}'),
        ("42", b'{"user_id":42}'),
        ("42", b'{"user_id"\n:\t42\r,"a":1}'),
        ("-42", b'{"user_id":-42}'),
        ("0", b'{"user_id":-0}'),
        ("42", rb'{"user_id":"\u0034\u0032"}'),
        ("42", rb'{"user\u005fid":"42"}'),
        ("42", b'{"user_id":"7","user_id":"42"}'),
        ("18446744073709551616", b'{"user_id":18446744073709551616}'),
        ("caf\u00e9", '{"user_id":"caf\u00e9"}'.encode()),
        ("caf\u00e9", rb'{"user_id":"caf\u00e9"}'),
        ('a"b', rb'{"user_id":"a\"b"}'),
        ("a/b", rb'{"user_id":"a\/b"}'),
        ("\ud800", rb'{"user_id":"\ud800"}'),
        ("\n", rb'{"user_id":"\n"}'),
    ],
)
def test_every_way_to_write_an_id_passes(user_id: str, value: bytes) -> None:
    assert is_of_user(value, user_id)
    assert record_test(user_id)(value)


@pytest.mark.parametrize(
    ("user_id", "value"),
    [
        ("42", b'{"user_id":"421","item_id":142,"price":4.42,"event_time":1420000042000}'),
        ("42", b'{"user_id":"7","text":"42 cups"}'),
        ("a", b'{"user_id":"b","event_type":"cart"}'),
        ("a", None),
    ],
)
def test_most_records_of_others_are_not_parsed(user_id: str, value: bytes | None) -> None:
    assert not record_test(user_id)(value)


TEXTS = st.text('a"4\\ü/', max_size=3)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)


@given(st.text('a"4\\ü/-', min_size=1, max_size=3), JSON_VALUES, st.booleans(), st.booleans())
def test_no_record_of_the_user_fails(user_id: str, other: object, ascii_: bool, own: bool) -> None:
    event = {"a": other, "user_id": user_id if own else other}
    value = json.dumps(event, ensure_ascii=ascii_).encode()
    assert record_test(user_id)(value) or not is_of_user(value, user_id)


# As in Kafka's own test of its partitioner (UtilsTest.testMurmur2).
@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_partition_is_that_of_java_clients(key: bytes, hashed: int) -> None:
    for partitions in (1, 3, 16):
        assert partition_of(key, partitions) == (hashed & 0x7FFFFFFF) % partitions


def test_stages_have_each_offset_once_and_the_likeliest_first() -> None:
    ranges = {number: PartitionRange(10, 100) for number in range(4)}
    own = partition_of(USER.encode(), 4)
    starts, ends = dict.fromkeys(ranges, 30), dict.fromkeys(ranges, 60)
    others = set(ranges) - {own}
    assert read_stages(ranges, starts, ends, USER) == [
        {own: (30, 60)},
        dict.fromkeys(others, (30, 60)),
        {own: (60, 100)},
        dict.fromkeys(others, (60, 100)),
    ]
    # Replayed events: all records are later than their windows.
    first = dict.fromkeys(ranges, 10)
    assert read_stages(ranges, first, first, USER)[0] == {own: (10, 100)}
    # No window is known; the end is later than the last record.
    assert read_stages(ranges, {}, dict.fromkeys(ranges, 100), USER)[0] == {own: (10, 100)}
    [early, *_] = read_stages(ranges, starts, ends, USER, {(own, 12), (own, 40)})
    assert early == {own: (12, 60)}
    assert read_stages({0: PartitionRange(5, 5)}, {}, {}, USER) == []


def test_first_window_is_known_only_if_all_windows_are_stored() -> None:
    rows = [
        WindowDigests(USER, 60, 120, 2, digest("b") + digest("c")),
        WindowDigests(USER, 0, 60, 1, digest("a")),
    ]
    assert known_events(rows, 2, 3) == (frozenset(map(digest, "abc")), 3, 0)
    assert known_events(rows, 3, 3).first_ms is None
    assert known_events(rows, 2, 4).first_ms is None
    assert known_events([], 0, 0).first_ms is None


def record(number: int, user_id: str, event_id: str, partition: int = 0) -> Record:
    event = {"event_id": event_id, "user_id": user_id, "event_type": "view", "event_time": number}
    return Record("t", partition, number, number, None, json.dumps(event).encode(), {})


def search(known: KnownEvents | None) -> EventSearch:
    table = LateTable(used={USER: set()})
    return EventSearch(USER, RecordSelection(table, WindowSettings(), LimitSettings()), known)


def test_reading_ends_with_the_last_known_event() -> None:
    read: list[int] = []

    def stage(*records: Record) -> Iterator[Record]:
        for each in records:
            read.append(each.offset)
            yield each

    stages = [
        stage(record(1, USER, "a"), record(2, "other", "x"), record(3, USER, "b")),
        stage(record(4, "other", "y"), record(5, USER, "c"), record(6, USER, "d")),
        stage(record(7, USER, "e")),
    ]
    own = search(KnownEvents(frozenset(map(digest, "bc")), 3, None))
    assert [each.record_offset for each in own.select(stages)] == [1, 3, 5]
    assert own.stopped
    assert read == [1, 2, 3, 4, 5]


def test_missing_events_are_told_after_all_records() -> None:
    known = KnownEvents(frozenset(map(digest, "az")), 2, 0)
    own = search(known)
    assert len(list(own.select([[record(1, USER, "a"), record(2, USER, "b")]]))) == 2
    assert not own.stopped
    assert not known.are_in(own.found)


def test_selection_is_that_of_all_records() -> None:
    rng = random.Random(3)
    records = [
        record(number, rng.choice([USER, "u-71", "v"]), f"e{rng.randrange(300)}")
        for number in range(500)
    ]
    table = LateTable(used={USER: set()}, left_out={USER: {(0, 17)}})
    whole = RecordSelection(table, WindowSettings(), LimitSettings())
    expected = [each.record_offset for each in whole.select(records)]
    own = EventSearch(USER, RecordSelection(table, WindowSettings(), LimitSettings()), None)
    selected = own.select([records[:200], records[200:]])
    assert [each.record_offset for each in selected] == expected
    assert not own.stopped
