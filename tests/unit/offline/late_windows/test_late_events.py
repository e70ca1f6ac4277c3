import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from liveprofile.consent.changes import ConsentChange, ConsentTable
from liveprofile.errors import InputError, ServiceError
from liveprofile.identity.merges import IdentityTable, Merge
from liveprofile.kafka.records import Record
from liveprofile.settings import LimitSettings, Settings, WindowSettings
from offline.late_windows.late_events import (
    ARCHIVE,
    END_OF_TIME_MS,
    LateEvent,
    LateTable,
    RecordSelection,
    SpooledRecord,
    choose_late_events,
    read_late_events,
    read_rows,
    write_records,
)

NOW_MS = 1_790_000_000_000
WINDOW, LIMITS = WindowSettings(out_of_orderness_ms=1_000), LimitSettings()


def record(
    event_id: str,
    user_id: str = "u",
    offset: int = 0,
    partition: int = 0,
    time_ms: int = NOW_MS,
    record_ms: int = NOW_MS,
    headers: dict[str, bytes] | None = None,
) -> Record:
    event = {"event_id": event_id, "user_id": user_id, "event_type": "view", "event_time": time_ms}
    value = json.dumps(event).encode()
    return Record("events", partition, offset, record_ms, None, value, headers or {})


def late_headers(**changes: str) -> dict[str, bytes]:
    headers = {"topic": "events", "partition": "2", "offset": "7", "lateness_ms": "500"} | changes
    return {name: value.encode() for name, value in headers.items()}


def late(user_id: str, offset: int, lateness_ms: int = 500) -> LateEvent:
    return LateEvent((0, offset), user_id, f"e{offset}", NOW_MS, lateness_ms)


def consents() -> ConsentTable:
    return ConsentTable(Settings().consent.defaults)


def test_late_events_have_their_place_in_the_input_topic():
    records = [
        record("a", headers=late_headers()),
        record("b", headers=late_headers(topic="events-bootstrap")),
    ]
    assert list(read_late_events(records, "events")) == [LateEvent((2, 7), "u", "a", NOW_MS, 500)]


@pytest.mark.parametrize("headers", [{}, late_headers(offset="?"), late_headers(lateness_ms="")])
def test_record_of_another_program_in_the_late_topic_is_an_error(headers: dict[str, bytes]):
    with pytest.raises(ServiceError, match="late/0 offset 3"):
        list(read_late_events([record("a", headers=headers)._replace(topic="late", offset=3)], ""))


def test_events_that_are_too_late_or_of_users_who_were_erased_or_refused_are_left_out():
    changes = consents()
    changes.put("refused", [ConsentChange(NOW_MS, "profiling", False)])
    events = [late("u", 1), late("u", 1), late("u", 2, 1_001), late("gone", 3), late("refused", 4)]
    table = choose_late_events(events, 1_000, changes, {"gone"}, NOW_MS)
    assert table.used == {"u": {(0, 1)}}
    assert table.left_out == {"u": {(0, 2)}, "gone": {(0, 3)}, "refused": {(0, 4)}}
    assert (table.too_old, table.erased, table.no_consent) == (1, 1, 1)


def selected(
    table: LateTable, *records: Record, merges: IdentityTable | None = None, allowed: Any = None
) -> list[SpooledRecord]:
    selection = RecordSelection(table, WINDOW, LIMITS, [0], merges, allowed or consents())
    found = list(selection.select(records))
    assert [each.number for each in found] == list(range(1, len(found) + 1))
    return found


def positions(found: list[SpooledRecord]) -> list[tuple[int, int]]:
    return [(each.record_partition, each.record_offset) for each in found]


def test_late_event_that_is_left_out_takes_its_copies_with_it():
    events = [late("u", 1), late("u", 2, 5_000)]
    table = choose_late_events(events, 1_000, consents(), (), NOW_MS)
    records = [record(f"e{offset}", offset=offset) for offset in (1, 2)]
    assert positions(selected(table, *records, record("e2", offset=3))) == [(0, 1)]


def test_record_of_the_topic_counts_of_a_late_event_that_an_archive_has():
    table = choose_late_events([late("u", 1)], 1_000, consents(), (), NOW_MS)
    archived = [
        record(event_id, partition=ARCHIVE, offset=offset, record_ms=END_OF_TIME_MS)
        for offset, event_id in enumerate(("a", "e1"))
    ]
    found = selected(table, *archived, record("e1", offset=1))
    assert positions(found) == [(ARCHIVE, 0), (0, 1)]


def test_watermark_is_that_of_the_slowest_partition():
    selection = RecordSelection(LateTable(), WINDOW, LIMITS, [0, 1])
    records = [
        record("a", time_ms=NOW_MS - 10),
        record("b", partition=1, time_ms=NOW_MS - 20_000),
        record("c", partition=1, time_ms=NOW_MS + 10**9),  # in the future
        record("d", partition=ARCHIVE, record_ms=END_OF_TIME_MS),
    ]
    assert list(selection.select(records[:1])) == []
    assert selection.closed_ms < 0
    assert list(selection.select(records[1:])) == []
    assert selection.closed_ms == NOW_MS - 21_000


MERGE_MS = NOW_MS - 1_000


def merged(**more: list[Merge]) -> IdentityTable:
    table = IdentityTable()
    for alias_id, merges in ({"alias": [Merge("u", MERGE_MS)]} | more).items():
        table.put(alias_id, merges)
    return table


def of_alias(*times_ms: int) -> list[Record]:
    return [
        record(f"e{offset}", "alias", offset, time_ms=time_ms)
        for offset, time_ms in enumerate(times_ms)
    ]


def test_earlier_events_of_an_alias_move_to_the_person():
    table = choose_late_events([], 1_000, consents(), (), NOW_MS, merged())
    assert table.used == {"u": set()}
    own = record("c", "u", 2, time_ms=MERGE_MS - 1)
    records = [*of_alias(MERGE_MS - 1, MERGE_MS), own, record("d", "other", 3)]
    found = selected(table, *records, merges=merged())
    assert positions(found) == [(0, 0), (0, 1), (0, 2)]
    assert {json.loads(each.payload)["user_id"] for each in found} == {"u"}
    # The job has stored the alias's second event in the profile of u itself.
    assert table.used == {"u": {(0, 0)}} == {"u": table.moved["u"]["alias"].used}
    assert found[2].payload == (own.value or b"").decode()


def test_a_late_event_of_an_alias_is_a_late_event_of_the_person():
    events = [late("alias", 0), late("alias", 1, 5_000)]
    table = choose_late_events(events, 1_000, consents(), (), NOW_MS, merged())
    assert table.used == {"u": {(0, 0)}} and table.left_out == {"u": {(0, 1)}}
    records = of_alias(MERGE_MS - 1, MERGE_MS - 1)
    assert positions(selected(table, *records, merges=merged())) == [(0, 0)]
    assert table.moved == {"u": {"alias": (set(), [])}}


def test_events_that_the_alias_did_not_allow_do_not_move():
    changes = consents()
    changes.put("alias", [ConsentChange(MERGE_MS - 5, "profiling", False)])
    table = choose_late_events([], 1_000, changes, (), NOW_MS, merged())
    records = of_alias(MERGE_MS - 10, MERGE_MS - 4)
    assert positions(selected(table, *records, merges=merged(), allowed=changes)) == [(0, 0)]
    moved = table.moved["u"]["alias"]
    assert moved.used == {(0, 0)} and moved.not_allowed_ms == [MERGE_MS - 4]
    refused = choose_late_events([late("alias", 1)], 1_000, changes, (), NOW_MS, merged())
    assert refused.no_consent == 1 and refused.left_out == {"u": {(0, 1)}}


def test_after_a_split_nothing_moves():
    split = merged(alias=[Merge("u", MERGE_MS - 10, MERGE_MS)])
    table = choose_late_events([late("u", 9)], 1_000, consents(), (), NOW_MS, split)
    records = of_alias(MERGE_MS - 15, MERGE_MS - 5, MERGE_MS + 5)
    # The event between merge and split is in the profile of u.
    assert positions(selected(table, *records, merges=split)) == [(0, 1)]
    assert not table.moved


def spooled(number: int) -> SpooledRecord:
    return SpooledRecord('{"a":"\\n ü"}\n', "events", 1, number, 5, number)


def test_full_disk_is_an_error_that_names_the_file():
    with pytest.raises(InputError, match=r"/dev/full: records .* No space left"):
        write_records(Path("/dev/full"), map(spooled, range(10_000)))


def test_rows_are_read_in_the_order_of_the_files(tmp_path: Path):
    for number in range(12):
        rows = [{"number": 2 * number}, {"number": 2 * number + 1}]
        (tmp_path / f"part-7f-task-0-file-{number}").write_bytes(
            b"\n".join(map(orjson.dumps, rows))
        )
    assert [row["number"] for row in read_rows(tmp_path)] == list(range(24))
