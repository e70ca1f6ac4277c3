"""Drafted mappings: columns by name and by value, types, order, and what a person must look at."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from liveprofile.errors import InputError
from liveprofile.ingest.inference import Draft, infer
from liveprofile.ingest.mapping import read_mapping
from liveprofile.ingest.numbers import number_of
from liveprofile.ingest.sources import read_table
from liveprofile.ingest.times import FORMATS, check_format, formats_of
from liveprofile.ingest.translation import MappingTranslator

SHOP = """CustomerID;Invoice No;StockCode;Quantity;UnitPrice;InvoiceDate;Country
17850;536365;85123A;6;2.55;2010-12-01 08:26:00;UK
13047;536367;84879;32;1.69;2010-12-01 08:24:00;UK
"""


def draft(tmp_path: Path, text: str, name: str = "shop.csv") -> Draft:
    (tmp_path / name).write_text(text, "utf-8")
    return infer(tmp_path / name)


def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    found = draft(tmp_path, SHOP)
    assert (found.format, found.delimiter, found.columns) == ("csv", ";", [])
    assert found.time == {"column": "InvoiceDate"}
    assert found.fields == {
        "event_id": "{CustomerID}-{row}",
        "user_id": "CustomerID",
        "item_id": "StockCode",
        "price": "UnitPrice",
        "quantity": "Quantity",
        "session_id": "Invoice No",
    }
    assert found.fixed == {"event_type": "purchase"} and found.sort_by_time
    assert found.unused == ["Country"]
    assert set(found.unsure) == {"time.column", "fields.event_id", "fixed.event_type"}


def test_draft_is_a_valid_mapping_with_comments(tmp_path: Path) -> None:
    text = draft(tmp_path, SHOP).to_toml("shop.csv")
    (tmp_path / "shop.toml").write_text(text, "utf-8")
    assert read_mapping(tmp_path / "shop.toml").fields["user_id"] == "CustomerID"
    assert text.count("# ?") == 3 and "# Columns that are not used: Country" in text


def test_file_without_header_is_read_by_its_values(tmp_path: Path) -> None:
    found = draft(tmp_path, "1,22,pv,1511544070\n2,23,buy,1511544071\n2,23,zap,1511544072\n")
    assert found.columns == ["column_1", "column_2", "column_3", "column_4"]
    assert found.time == {"column": "column_4", "unit": "s"}
    assert found.fields["event_type"] == "column_3"
    assert found.types == {"pv": "view", "buy": "purchase"}
    assert "fields.user_id" in found.unsure and "1 rows" in found.unsure["types.zap"]
    assert "# user_id = ?" in found.to_toml("x") and "# zap = ?" in found.to_toml("x")
    assert not found.sort_by_time


def test_names_of_the_contract_need_no_types_and_no_row_number(tmp_path: Path) -> None:
    text = (
        "event_id,user_id,event_type,event_time\na,1,view,1700000000000\nb,1,cart,1700000000001\n"
    )
    found = draft(tmp_path, text)
    assert found.fields == {
        "event_id": "event_id",
        "user_id": "user_id",
        "event_type": "event_type",
    }
    assert (found.types, found.fixed, found.unsure) == ({}, {}, {})
    assert found.time == {"column": "event_time", "unit": "ms"}


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        ("1700000000", {"unit": "s"}),
        ("1700000000.5", {"unit": "s"}),
        ("1700000000000", {"unit": "ms"}),
        ("1700000000000000", {"unit": "us"}),
        ("1700000000000000000", {"unit": "ns"}),
        ("2026-11-26T01:00:00+01:00", {}),
    ],
)
def test_unit_of_times_is_found(tmp_path: Path, value: str, unit: dict[str, str]) -> None:
    found = draft(tmp_path, f"user,time,event_id\n1,{value},a\n2,{value},b\n")
    assert found.time == {"column": "time"} | unit
    assert "time.column" not in found.unsure


def test_time_that_a_mapping_cannot_read_is_marked(tmp_path: Path) -> None:
    found = draft(tmp_path, "user,date\n1,1st of May 2010 8:26\n")
    assert "'1st of May 2010 8:26' is neither ISO 8601" in found.unsure["time.column"]


def test_numbers_that_are_texts_are_no_price(tmp_path: Path) -> None:
    assert "price" not in draft(tmp_path, "user,price\n1,cheap\n2,3.5\n").fields


def test_a_few_wrong_values_do_not_hide_a_column(tmp_path: Path) -> None:
    rows = [f"{number},{number}.5,2026-11-26 01:{number:02}:00" for number in range(20)]
    found = draft(tmp_path, "\n".join(["user,price,at", *rows, "21,cheap,soon"]))
    assert found.time == {"column": "at"} and found.fields["price"] == "price"


def test_parquet_has_typed_columns(tmp_path: Path) -> None:
    times = [datetime(2017, 1, 1, 11), datetime(2017, 1, 1, 10)]
    table = pa.table(
        {"household_id": [1, 2], "basket_id": [7, 8], "at": times, "sales_value": [1.0, 2.0]}
    )
    pq.write_table(table, tmp_path / "shop.parquet")
    found = infer(tmp_path / "shop.parquet")
    assert (found.format, found.time, found.sort_by_time) == ("parquet", {"column": "at"}, True)
    assert found.fields["user_id"] == "household_id" and found.fields["amount"] == "sales_value"


def test_names_that_occur_twice_are_data(tmp_path: Path) -> None:
    assert draft(tmp_path, "user,user\n1,2\n").columns == ["column_1", "column_2"]


@pytest.mark.parametrize("text", ["", '{"a": 1}\n', "one column\n"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="neither Parquet nor a CSV"):
        draft(tmp_path, text)


def test_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows to draft a mapping from"):
        draft(tmp_path, "user,item,at\n")
    pq.write_table(pa.table({"user": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="no rows to draft a mapping from"):
        infer(tmp_path / "empty.parquet")


LADEN = """Zeitpunkt;Kundennr;Aktion;Artikel;Betrag
26.11.2026 13:05:07;K1;Ansicht;A1;
26.11.2026 13:06:00;K2;Kauf;A2;1.234,50
26.11.2026 13:07:00;K1;Kauf;A1;9,90
31.10.2026 13:07:00;K1;Kauf;A1;12.5
kaputt;K1;Kauf;A1;5
"""
MAPPING = """
format = "csv"
delimiter = ";"
decimal = ","
[time]
column = "Zeitpunkt"
format = "%d.%m.%Y %H:%M:%S"
zone = "Europe/Berlin"
[fields]
event_id = "{Kundennr}-{row}"
user_id = "Kundennr"
event_type = "Aktion"
amount = "Betrag"
[types]
Ansicht = "view"
Kauf = "purchase"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "laden.csv"
    path.write_text(LADEN, "utf-8")
    return path


def test_local_times_and_decimal_commas_are_converted(file: Path, tmp_path: Path) -> None:
    (tmp_path / "laden.toml").write_text(MAPPING, "utf-8")
    mapping = read_mapping(tmp_path / "laden.toml")
    [batch] = read_table(file, mapping, list(mapping.file_columns()))
    events = MappingTranslator(mapping, "laden.toml", file).translate(batch)
    noon_ms = 1_795_694_707_000  # 2026-11-26 12:05:07 UTC
    assert events.times_ms[0] == noon_ms and events.times_ms[4] is None
    # What cannot be converted is sent unchanged: the job rejects it with a reason.
    assert b'"event_time":"kaputt"' in events.values[4]
    amounts = [json.loads(value)["amount"] for value in events.values[1:4]]
    assert amounts == [1234.5, 9.9, "12.5"]


def test_draft_names_the_format_and_what_a_person_must_decide(file: Path) -> None:
    text = LADEN.replace("kaputt", "01.11.2026 08:00:00").replace("12.5", "12,5")
    unknown = {"Zeitpunkt": "Wann", "Kundennr": "Wer", "Aktion": "Was", "Ansicht": "A", "Kauf": "K"}
    for known, other in unknown.items():
        text = text.replace(known, other)
    file.write_text(text, "utf-8")
    draft = infer(file)
    assert draft.time == {"column": "Wann", "format": "%d.%m.%Y %H:%M:%S"}
    assert draft.decimal == "," and draft.sort_by_time
    assert "set zone" in draft.unsure["time.column"]
    assert "Wer (2 values in 5 rows)" in draft.unsure["fields.user_id"]
    assert "Was (A, K)" in draft.unsure["fixed.event_type"]
    text = draft.to_toml("laden.csv")
    assert 'decimal = ","' in text and "# [fields] may have: category_id, " in text


def test_day_and_month_that_cannot_be_told_apart_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text("when,user\n01/02/2026 10:00,a\n03/04/2026 11:00,b\n", "utf-8")
    draft = infer(path)
    assert draft.time["format"] == "%d/%m/%Y %H:%M"
    assert "is the day first?" in draft.unsure["time.column"]
    path.write_text("when,user\n01/02/2026 10:00,a\n03/24/2026 11:00,b\n", "utf-8")
    assert infer(path).time["format"] == "%m/%d/%Y %H:%M"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9,90", 9.9),
        ("1.234.567,5", 1_234_567.5),
        ("-3", -3.0),
        ("12.50", None),
        ("1.23,4", None),
        ("", None),
        ("1,2,3", None),
    ],
)
def test_number_with_a_decimal_comma(text: str, number: float | None) -> None:
    assert number_of(text, ",") == number


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ('format = "%d.%m.%Y"', "lacks year, month, day, hour or minute"),
        ('format = "%Q"', "no format such as"),
        ('format = "%d.%m.%Y %H:%M"\nunit = "ms"', "has no format"),
    ],
)
def test_wrong_format_is_named(tmp_path: Path, key: str, message: str) -> None:
    path = tmp_path / "m.toml"
    path.write_text(MAPPING.replace('format = "%d.%m.%Y %H:%M:%S"', key), "utf-8")
    with pytest.raises(InputError, match=message):
        read_mapping(path)


def test_every_known_format_is_valid_and_found() -> None:
    assert [check_format(each) for each in FORMATS] == list(FORMATS)
    assert formats_of(["no time", "at all"], 0.9) == []
