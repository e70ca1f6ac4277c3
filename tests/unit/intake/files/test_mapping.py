"""Mappings: translation of the shipped formats, column types, and error messages."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intake.files.mapping import read_mapping
from intake.files.replay import open_source
from intake.files.sources import sort_by_time
from intake.files.values import time_ms
from liveprofile.errors import InputError
from tests.support.paths import ROOT

MAPPINGS = ROOT / "mappings"
UTC = ZoneInfo("UTC")

CSV = """
format = "csv"
[time]
column = "when"
[fields]
event_id = "id"
user_id = "who"
event_type = "what"
price = "price"
"place.lat" = "lat"
"place.lon" = "lon"
"""


def replayed_events(
    source: Path, mapping: Path | None, limit: int | None = None
) -> list[dict[str, Any]]:
    batches = open_source(source, mapping, limit)
    return [json.loads(value) for events in batches for value in events.values]


@pytest.fixture
def written(tmp_path):
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("path", sorted(MAPPINGS.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_mappings_are_valid(path):
    assert read_mapping(path).file_columns()


def event(event_id: str, event_type: str, event_time: int, **more: Any) -> dict[str, Any]:
    fields = {"event_id": event_id, "event_type": event_type, "event_time": event_time}
    return fields | more


def test_complete_journey_purchases_join_the_products(tmp_path):
    at = [datetime(2017, 1, 1, 11, 53, 26), datetime(2017, 1, 1, 12, 10, 28, 500_000)]
    rows = {
        "household_id": [900, 1228],
        "basket_id": [31, 32],
        "product_id": [5, 6],
        "quantity": [1, 2],
        "sales_value": [0.5, 2.75],
        "transaction_timestamp": pa.array(at, pa.timestamp("ns")),
    }
    source = tmp_path / "transactions.parquet"
    pq.write_table(pa.table(rows), source)
    products = pa.table({"product_id": [7, 5], "product_category": ["BREAD", "MILK"]})
    pq.write_table(products, tmp_path / "products.parquet")
    first = {"user_id": "900", "item_id": "5", "category_id": "MILK", "amount": 0.5}
    second = {"user_id": "1228", "item_id": "6", "amount": 2.75}
    assert replayed_events(source, MAPPINGS / "complete_journey.toml") == [
        event("31-5-0", "purchase", 1483271606000, quantity=1, session_id="31", **first),
        event("32-6-1", "purchase", 1483272628500, quantity=2, session_id="32", **second),
    ]


def test_value_that_cannot_be_converted_is_sent_unchanged(written):
    source = written(
        "a.csv",
        "id,who,what,when,price,lat,lon\n"
        'e1,u1,view,2017-01-01T00:00:00+01:00,"1.50",1,2\n'
        "e2,,view,yesterday,cheap,,\n",
    )
    assert replayed_events(source, written("m.toml", CSV)) == [
        event("e1", "view", 1483225200000, user_id="u1", price=1.5, place={"lat": 1.0, "lon": 2.0}),
        event("e2", "view", "yesterday", price="cheap"),
    ]


def test_time_may_come_from_a_lookup_file(written, tmp_path):
    baskets = pa.table({"basket": ["7"], "when": ["2017-01-01T00:00:00Z"]})
    pq.write_table(baskets, tmp_path / "b.parquet")
    source = written("a.csv", "id,who,what,basket,price,lat,lon\ne1,u1,view,7,1.5,1,2\n")
    lookup = '\n[[lookups]]\nfile = "b.parquet"\nkey = "basket"\ncolumns = ["when"]\n'
    [found] = replayed_events(source, written("m.toml", CSV + lookup))
    assert found["event_time"] == 1483228800000


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08", b"PAR1", b"user,item\n"])
def test_file_that_only_claims_to_be_json_lines_is_refused(tmp_path, content):
    (source := tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(InputError, match="does not begin with a JSON object: give a mapping"):
        replayed_events(source, None)


LADEN = """Zeitpunkt;Kundennr;Aktion;Artikel;Warengruppe;Betrag
26.11.2026 13:05:07;K1;Ansicht;A1;;
26.11.2026 13:06:00;K2;Kauf;A2;;1.234,50
31.10.2026 13:07:00;K1;Kauf;A1;;12.5
kaputt;K1;Kauf;A1;;5
"""


def test_local_times_and_decimal_commas_are_converted(written):
    source = written("laden.csv", LADEN)
    [events] = open_source(source, MAPPINGS / "german_shop.toml")
    noon_ms = 1_795_694_707_000  # 2026-11-26 12:05:07 UTC
    assert events.times_ms[0] == noon_ms and events.times_ms[3] is None
    # What cannot be converted is sent unchanged: the job rejects it with a reason.
    assert json.loads(events.values[3])["event_time"] == "kaputt"
    assert [json.loads(value)["amount"] for value in events.values[1:3]] == [1234.5, "12.5"]


def test_json_lines_without_a_mapping_are_sent_byte_for_byte(written):
    lines = ['{"user_id":"u", "event_time": "2017-01-01T00:00:00Z"}', "broken", '{"user_id":7}']
    [events] = open_source(written("a.jsonl", "\n".join(lines)), None)
    assert events.values == [line.encode() for line in lines]
    assert events.keys == [b"u", None, b"7"]
    assert events.times_ms == [1483228800000, None, None]


@pytest.mark.parametrize(
    ("value", "unit", "zone", "expected"),
    [
        (1, "s", "UTC", 1_000),
        (None, "s", "UTC", None),
        (1_999_999, "us", "UTC", 1_999),
        ("1500000000123456789", "ns", "UTC", 1_500_000_000_123),
        ("1.5", "s", "UTC", 1_500),
        ("x", "s", "UTC", None),
        (float("nan"), "ms", "UTC", None),
        (float("inf"), "ms", "UTC", None),
        (2.5, "ms", "UTC", 2),
        ("2017-07-01 12:00:00", "iso", "Europe/Berlin", 1_498_903_200_000),
        ("2017-07-01 12:00:00 UTC", "iso", "Europe/Berlin", 1_498_910_400_000),
        (datetime(2017, 7, 1, 12), "iso", "Europe/Berlin", 1_498_903_200_000),
        (datetime(2017, 7, 1).date(), "iso", "UTC", 1_498_867_200_000),
        (1_498_867_200, "iso", "UTC", None),
    ],
)
def test_each_unit_and_type_of_time_is_converted(value, unit, zone, expected):
    assert time_ms(value, unit, "", ZoneInfo(zone)) == expected


@pytest.mark.slow
@given(st.lists(st.one_of(st.none(), st.integers(-5, 60)), max_size=60), st.integers(1, 9))
def test_sort_on_disk_orders_rows_by_time_without_losing_rows(times, batch_rows):
    rows, starts = list(range(len(times))), range(0, len(times), batch_rows)
    batches = [
        (
            pa.record_batch({"__row": pa.array(rows[at : at + batch_rows], pa.int64())}),
            times[at : at + batch_rows],
        )
        for at in starts
    ]
    merged = [row for batch in sort_by_time(batches) for row in batch["__row"].to_pylist()]
    assert merged == sorted(rows, key=lambda row: (times[row] is not None, times[row] or 0, row))


WHEN = 'column = "when"'
END = '"place.lon" = "lon"\n'
# What stands where in a valid mapping, and the error.
INVALID_MAPPINGS = [
    ('"csv"', "", "is not TOML"),
    (END, "colour = 1\n", r"fields\.colour"),
    (END, f"{END}[colour]\n", r"colour: Extra inputs are not permitted"),
    ('"csv"', '"xml"', r"format: .*'csv' or 'parquet'"),
    ("price =", "prize =", r"fields\.prize is not an event field: use"),
    ("user_id =", "item_id =", "user_id is in neither"),
    (END, 'event_time = "when"\n', r"fields\.event_time: .* \[time\]"),
    (END, "[fixed]\nprice = 1\n", "price is in both"),
    (END, '[types]\npv = "look"\n', r"types\.pv = 'look' is not an event type: use one of"),
    (END, '[types]\n1 = ""\n', r"types\.1 = '' is not .*login, or '1' to have the job reject"),
    (WHEN, f'{WHEN}\nzone = "Mars"', r"time\.zone: must be a time zone"),
    ('"id"', '"{id"', r"fields\.event_id = '\{id'"),
    ('"id"', '"{id:>3}"', r"a placeholder is \{column\}"),
    ("[time]", 'encoding = "latin-42"\n[time]', "must be an encoding such as utf-8"),
    ("[time]", 'negative = "sale"\n[time]', "negative = 'sale' is not an event type"),
    (WHEN, f'{WHEN}\nformat = "%d.%m.%Y"', r'does not tell day and time \(unit = "day" for'),
    (WHEN, f'{WHEN}\nformat = "%Q"', "no format such as"),
    (WHEN, f'{WHEN}\nunit = "day"\nformat = "%d.%m"', "does not tell just the day"),
    (WHEN, f'{WHEN}\nunit = "ms"\nformat = "%d.%m.%Y %H:%M"', "has no format"),
    (WHEN, f'{WHEN}\nunit = "day"\nclock = "id"', "has no clock"),
    ('"who"', '"whom"', r"user_id: a\.csv has no column 'whom'; it has id, who"),
    ('"when"', '"time"', r"time\.column: a\.csv has no column 'time'"),
    (END, '[types]\npv = "view"\n', r"types has no 'view', the value of column what in row 0"),
    ('"csv"', '"parquet"', r"time\.column is int64.*time\.unit s, ms"),
]


@pytest.mark.parametrize(("old", "new", "message"), INVALID_MAPPINGS)
def test_invalid_mapping_is_rejected_in_one_line_with_the_key(written, tmp_path, old, new, message):
    source = written("a.csv", "id,who,what,when,price,lat,lon\ne1,u1,view,1,1,1,1\n")
    if new == '"parquet"':
        source = tmp_path / "a.parquet"
        names = ("id", "who", "what", "when", "price", "lat", "lon")
        pq.write_table(pa.table({name: [1] for name in names}), source)
    with pytest.raises(InputError, match=message) as raised:
        replayed_events(source, written("m.toml", CSV.replace(old, new)))
    assert "\n" not in str(raised.value) and "m.toml" in str(raised.value)


def test_value_mapped_to_itself_is_sent_unchanged_for_the_job_to_reject(written):
    source = written("a.csv", "id,who,what,when,price,lat,lon\ne1,u1,zap,1,1,1,1\n")
    with pytest.raises(InputError, match="map the value to itself to have the job reject"):
        replayed_events(source, written("m.toml", CSV + '[types]\npv = "view"\n'))
    itself = written("m.toml", CSV + '[types]\npv = "view"\nzap = "zap"\n')
    assert [event["event_type"] for event in replayed_events(source, itself)] == ["zap"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "id,who,what,when,price,lat,lon\n1,2\n", r"a\.csv: .*Expected 7 columns, got 2"),
        ("none.csv", None, "no file at"),
    ],
)
def test_unreadable_file_is_rejected_by_name(written, tmp_path, name, text, message):
    source = written(name, text) if text is not None else tmp_path / name
    with pytest.raises(InputError, match=message):
        replayed_events(source, written("m.toml", CSV))


def test_embedding_column_is_sent_unchanged(tmp_path):
    media = {"encoder": "clip", "vector": [0.25, -1.0]}
    row = {"id": "a", "when": "2024-01-01T00:00:00Z", "who": "u", "what": "view", "price": 1.0}
    table = {name: [value] * 2 for name, value in (row | {"lat": 1.0, "lon": 2.0}).items()}
    table |= {"picture": [media, None]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    mapping = tmp_path / "a.toml"
    mapping.write_text(CSV.replace('"csv"', '"parquet"') + 'media_embedding = "picture"\n')
    first, second = replayed_events(tmp_path / "a.parquet", mapping)
    assert first["media_embedding"] == media and second.get("media_embedding") is None
