"""Exports of shops in many forms become valid events by the drafted mapping."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intake.files.inference import Draft, infer
from intake.files.replay import open_source
from intake.files.values import number_of
from liveprofile.attributes.event_types import event_types
from liveprofile.errors import InputError
from liveprofile.events.validation import TYPES, AcceptedEvent, accept
from liveprofile.settings import LimitSettings, Settings

MAY_2026_MS = 1_777_593_600_000
DAY_MS, HOUR_MS = 86_400_000, 3_600_000
GERMAN = """Bestellnummer;Bestelldatum;Uhrzeit;Kunden-Nr.;Artikelnummer;Warengruppe;Menge;\
Einzelpreis;Betrag (EUR);Gutschein
1;02.05.2026;08:10;K1;A1;Bücher;1;1.234,50 €;1.234,50 €;
1;02.05.2026;08:10;K1;A2;Küche;3;7,00 €;21,00 €;MAI10
2;13.05.2026;19:45;K2;A1;Bücher;1;1.234,50 €;1.234,50 €;
"""
FRENCH = """Commande;Date de commande;Client;Référence;Rayon;Quantité;Prix unitaire;Montant TTC
1;01/05/2026 08:10;K1;A1;Livres;1;1 234,50 €;1 234,50 €
2;02/05/2026 09:00;K2;A2;Cuisine;3;7,00 €;21,00 €
"""
POLISH = """Nr zamówienia;Data;Klient;Produkt;Kategoria;Ilość;Cena;Wartość
1;2026-05-01;K1;A1;Książki;1;1.234,50 zł;1.234,50 zł
2;2026-05-02;K2;A2;Kuchnia;3;7,00 zł;21,00 zł
"""
AMERICAN = """Order ID,Order Date,Customer ID,SKU,Category,Qty,Unit Price,Total
1,5/1/2026 8:10 AM,K1,A1,Books,1,"$1,234.50","$1,234.50"
2,5/2/2026 7:45 PM,K2,A2,Kitchen,3,$7.00,$21.00
"""
SHOP_SYSTEM = """Name,Email,Financial Status,Created at,Lineitem quantity,lineItemPrice,\
Lineitem sku
#1,k1@example.com,paid,2026-05-01 10:10:00 +0200,1,1234.50,A1
#2,k2@example.com,paid,2026-05-02 21:45:00 +0200,3,7.00,A2
"""
MORNING_MS = MAY_2026_MS + 8 * HOUR_MS + 600_000
EXPORTS = {
    "german": (GERMAN, MORNING_MS + DAY_MS),
    "french": (FRENCH, MORNING_MS),
    "polish": (POLISH, MAY_2026_MS),
    "american": (AMERICAN, MORNING_MS),
    "shop_system": (SHOP_SYSTEM, MORNING_MS),
}


def draft(folder: Path, text: str, encoding: str = "utf-8") -> Draft:
    (folder / "shop.csv").write_text(text, encoding)
    return infer(folder / "shop.csv")


def drafted(folder: Path, text: str, encoding: str = "utf-8") -> tuple[Draft, list[dict[str, Any]]]:
    """The draft of a file, and the events that the drafted mapping makes of it; all are valid."""
    found = draft(folder, text, encoding)
    mapping = folder / "shop.toml"
    mapping.write_text(found.to_toml("shop.csv"), "utf-8")
    payloads = [
        value for each in open_source(folder / "shop.csv", mapping) for value in each.values
    ]
    now_ms = MAY_2026_MS + 365 * DAY_MS
    accepted = [accept(each, now_ms, LimitSettings(), TYPES) for each in payloads]
    assert all(isinstance(event, AcceptedEvent) for event in accepted)
    return found, [json.loads(payload) for payload in payloads]


@pytest.mark.parametrize(("text", "time_ms"), EXPORTS.values(), ids=EXPORTS)
def test_user_time_item_and_amount_are_found(tmp_path: Path, text: str, time_ms: int) -> None:
    found, events = drafted(tmp_path, text)
    first = events[0]
    assert first["event_time"] == time_ms and first["user_id"] in ("K1", "k1@example.com")
    assert (first["item_id"], first["price"], first["quantity"]) == ("A1", 1234.5, 1.0)
    assert first["event_type"] == "purchase" and "sort_by_time" not in found.mapping
    if text is SHOP_SYSTEM:
        assert "personal data" in found.unsure["fields.user_id"]
    if text is POLISH:
        assert found.mapping["time"] == {"column": "Data", "unit": "day"}
        assert "no time of day" in found.unsure["time.column"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_encoding_and_a_day_and_a_clock_in_two_columns_are_found(
    tmp_path: Path, encoding: str
) -> None:
    found, events = drafted(tmp_path, GERMAN, encoding)
    assert found.mapping.get("encoding", "utf-8") == encoding.removesuffix("-sig")
    assert [event["category_id"] for event in events] == ["Bücher", "Küche", "Bücher"]
    time = {"column": "Bestelldatum", "clock": "Uhrzeit", "format": "%d.%m.%Y %H:%M"}
    assert found.mapping["time"] == time and "Uhrzeit" not in found.unused
    assert (events[1]["coupon_id"], events[1]["amount"]) == ("MAI10", 21.0)


def test_row_without_a_time_of_day_has_no_time_and_another_encoding_is_named(
    tmp_path: Path,
) -> None:
    drafted(tmp_path, GERMAN)
    file, mapping = tmp_path / "shop.csv", tmp_path / "shop.toml"
    file.write_text(GERMAN.replace("19:45", ""), "utf-8")
    [events] = open_source(file, mapping)
    assert events.times_ms[2] is None and None not in events.times_ms[:2]
    file.write_text(GERMAN, "cp1252")
    with pytest.raises(InputError, match='set encoding in the mapping, such as "cp1252"'):
        list(open_source(file, mapping))


def test_day_and_month_are_told_by_the_order_of_the_rows_or_asked_for(tmp_path: Path) -> None:
    def dates(text: str) -> Draft:
        rows = [(month, day) for month in (5, 6) for day in range(1, 13)]
        lines = "".join(text.format(day=day, month=month) for month, day in rows)
        return draft(tmp_path, f"date,user\n{lines}")

    day_first = dates("{day}/{month}/2026 10:00,a\n")
    assert day_first.mapping["time"]["format"] == "%d/%m/%Y %H:%M"
    assert "is the day first?" in day_first.unsure["time.column"]
    month_first = dates("{month}/{day}/2026 10:00,a\n")
    assert month_first.mapping["time"]["format"] == "%m/%d/%Y %H:%M"
    assert "sort_by_time" not in day_first.mapping | month_first.mapping


INVOICES = """InvoiceNo,StockCode,Quantity,InvoiceDate,UnitPrice,CustomerID,Color,"a\nb\x7f"
1,A1,6,2026-05-01 09:00:00,2.5,17850,UK,x
C2,A1,-6,2026-05-01 08:00:00,2.5,17850,UK,x
"""


def test_draft_is_a_valid_mapping_with_comments(tmp_path: Path) -> None:
    found, events = drafted(tmp_path, INVOICES)
    assert found.mapping == {
        "format": "csv",
        "negative": "return",
        "sort_by_time": True,
        "time": {"column": "InvoiceDate"},
        "fields": {
            "event_id": "{CustomerID}-{row}",
            "user_id": "CustomerID",
            "item_id": "StockCode",
            "price": "UnitPrice",
            "quantity": "Quantity",
            "session_id": "InvoiceNo",
        },
        "fixed": {"event_type": "purchase"},
        "types": {},
    }
    assert found.unsure["fields.quantity"] == "1 of 2 rows are negative: returns?"
    assert {"time.column", "fields.event_id", "fixed.event_type"} < set(found.unsure)
    text = found.to_toml("shop.csv")
    assert text.count("# ?") == 4 and '# Columns that are not used: Color, "a\\nb\\u007f"\n' in text
    pairs = [(event["event_type"], event["quantity"]) for event in events]
    assert pairs == [("return", 6), ("purchase", 6)]


def test_rows_without_a_user_are_counted(tmp_path: Path) -> None:
    found = draft(tmp_path, INVOICES.replace("17850,UK,x\nC2", ",UK,x\nC2"))
    assert found.mapping["fields"]["event_id"] == "{row}"  # the id of such a row is not at fault
    assert found.unsure["fields.user_id"] == "1 of 2 rows have none: rejected"


def test_column_of_types_says_which_rows_are_returns(tmp_path: Path) -> None:
    text = "Käufer,date,type,amount\na,2026-05-01 08:00,sale,5\na,2026-05-01 09:00,refund,-5\n"
    found, events = drafted(tmp_path, text)
    assert "negative" not in found.mapping
    pairs = [(event["event_type"], event["amount"]) for event in events]
    assert pairs == [("purchase", 5.0), ("return", -5.0)]


ELECTRONICS = """user_id,sku_id,action_time,model_id,type,cate,brand
200,1001,2018-02-01 01:30:09,0,1,8,214
200,1001,2018-02-01 01:31:00,,2,8,214
201,1002,2018-02-01 01:32:00,216,3,4,489
201,1002,2018-02-01 01:33:00,,1,4,489
"""


def test_numeric_codes_of_event_types_are_listed_for_a_person_to_fill_in(tmp_path: Path) -> None:
    found = draft(tmp_path, ELECTRONICS)
    columns = {"item_id": "sku_id", "category_id": "cate", "event_type": "type"}
    assert columns.items() <= found.mapping["fields"].items()
    assert found.mapping["time"] == {"column": "action_time"}
    assert found.mapping["types"] == {"1": "", "2": "", "3": ""}
    assert found.unsure["types.1"].startswith("2 rows; one of view, cart,")
    mapping, text = tmp_path / "shop.toml", found.to_toml("shop.csv")
    mapping.write_text(text)
    with pytest.raises(InputError, match=r"types\.1 = '' is not an event type"):
        open_source(tmp_path / "shop.csv", mapping)
    for code, kind in {"1": "view", "2": "cart", "3": "remove_from_cart"}.items():
        text = text.replace(f'\n{code} = ""', f'\n{code} = "{kind}"')
    mapping.write_text(text)
    [batch] = open_source(tmp_path / "shop.csv", mapping)
    kinds = [json.loads(each)["event_type"] for each in batch.values]
    assert kinds == ["view", "cart", "remove_from_cart", "view"]
    types = event_types(Settings()).by_name
    accepted = [accept(each, MAY_2026_MS, LimitSettings(), types) for each in batch.values]
    roles = [event.event_type for event in accepted if isinstance(event, AcceptedEvent)]
    assert roles == ["view", "cart", "view", "view"]


def test_removal_from_the_cart_is_an_own_type(tmp_path: Path) -> None:
    text = "user,time,event_type\n1,1700000000000,view\n1,1700000000001,removeFromCart\n"
    found = draft(tmp_path, text)
    assert found.mapping["types"] == {"view": "view", "removeFromCart": "remove_from_cart"}
    assert found.mapping["own_types"] == ["remove_from_cart"]
    assert 'own_types = ["remove_from_cart"]\n' in found.to_toml("x")


def test_column_of_other_numbers_or_texts_has_no_event_types(tmp_path: Path) -> None:
    rows = "".join(f"1,{1_700_000_000_000 + n},{n}\n" for n in range(51))
    for text in (rows, "1,1700000000000,shoes\n1,1700000000000,2\n"):
        found = draft(tmp_path, "user,time,type\n" + text)
        assert found.mapping["fixed"] == {"event_type": "view"}


def test_whole_numbers_with_gaps_of_parquet_are_codes(tmp_path: Path) -> None:
    source = tmp_path / "a.parquet"
    times = [1_700_000_000_000 + n for n in range(3)]
    pq.write_table(pa.table({"user": [1, 1, 2], "time": times, "type": [1.0, None, 2.0]}), source)
    assert infer(source).mapping["types"] == {"1": "", "2": ""}


def test_file_without_header_is_read_by_its_values(tmp_path: Path) -> None:
    found = draft(tmp_path, "1,22,pv,1511544070\n2,23,buy,1511544071\n2,23,zap,1511544072\n")
    mapping = found.mapping
    assert mapping["columns"] == ["column_1", "column_2", "column_3", "column_4"]
    assert mapping["time"] == {"column": "column_4", "unit": "s"}
    assert mapping["fields"]["event_type"] == "column_3"
    assert mapping["types"] == {"pv": "view", "buy": "purchase"}
    assert "fields.user_id" in found.unsure and "1 rows" in found.unsure["types.zap"]
    assert "# user_id = ?" in found.to_toml("x") and "# zap = ?" in found.to_toml("x")


def test_names_of_the_contract_need_no_types_and_no_row_number(tmp_path: Path) -> None:
    names = "event_id", "user_id", "event_type", "event_time"
    found = draft(tmp_path, ",".join(names) + "\na,1,view,1700000000000\nb,1,cart,1700000000001\n")
    assert found.mapping["fields"] == {name: name for name in names[:3]}
    assert (found.mapping["types"], found.mapping["fixed"], found.unsure) == ({}, {}, {})


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        ("1700000000.5", {"unit": "s"}),
        ("1700000000000", {"unit": "ms"}),
        ("1700000000000000", {"unit": "us"}),
        ("1700000000000000000", {"unit": "ns"}),
        ("2026-11-26T01:00:00+01:00", {}),
    ],
)
def test_unit_of_times_is_found(tmp_path: Path, value: str, unit: dict[str, str]) -> None:
    found = draft(tmp_path, f"user,time,event_id\n1,{value},a\n2,{value},b\n")
    assert found.mapping["time"] == {"column": "time"} | unit
    assert "time.column" not in found.unsure


def test_values_decide_whether_a_column_is_what_its_name_says(tmp_path: Path) -> None:
    found = draft(tmp_path, "user,price,date\n1,cheap,1st of May\n2,3.5,2nd of May\n")
    assert "price" not in found.mapping["fields"]
    assert "'1st of May' is neither ISO 8601" in found.unsure["time.column"]
    # A few wrong values do not hide a column.
    rows = [f"{number},{number}.5,2026-11-26 01:{number:02}:00" for number in range(20)]
    found = draft(tmp_path, "\n".join(["user,price,at", *rows, "21,cheap,soon"]))
    assert found.mapping["time"] == {"column": "at"}
    assert found.mapping["fields"]["price"] == "price"


def test_parquet_has_typed_columns(tmp_path: Path) -> None:
    times = [datetime(2017, 1, 1, 11), datetime(2017, 1, 1, 10)]
    table = {"household_id": [1, 2], "basket_id": [7, 8], "at": times, "sales_value": [1.0, 2.0]}
    pq.write_table(pa.table(table), tmp_path / "shop.parquet")
    mapping = infer(tmp_path / "shop.parquet").mapping
    assert (mapping["format"], mapping["time"]) == ("parquet", {"column": "at"})
    assert mapping["sort_by_time"]
    fields = mapping["fields"]
    assert (fields["user_id"], fields["amount"]) == ("household_id", "sales_value")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("shop.csv", b"", "neither Parquet nor a CSV"),
        ("shop.csv", b'{"a": 1, "b": 2}\n', "neither Parquet nor a CSV"),
        ("shop.csv", b"user,item,at\n", "no rows to draft a mapping from"),
        ("shop.csv", b"a,b\n\xff\x00,1\n", "is in none of the encodings utf-8"),
        ("shop.xlsx", b"PK\x03\x04\x00\xff,", "in none of the encodings"),
        ("shop.csv", b"\x1f\x8b\x08", "unpack it, or save it as one"),
    ],
)
def test_file_that_is_no_table_says_what_to_do(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        infer(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "decimal", "currency", "number"),
    [
        ("9,90", ",", "", 9.9),
        ("1.234.567,5", ",", "", 1_234_567.5),
        ("12.50", ",", "", None),
        ("1.23,4", ",", "", None),
        ("1,2,3", ",", "", None),
        ("1\u202f234,50 €", ",", "€", 1234.5),
        ("1'234,50", ",", "", 1234.5),
        ("€ -5", ",", "€", -5.0),
        ("-€5,25", ",", "€", -5.25),
        ("5,25 €", ",", "", None),
        ("$5", ".", "€", None),
        ("1,234.50", ".", "", 1234.5),
        ("1,234", ".", "", None),  # its comma may be a decimal mark
        ("12 34.5", ".", "", None),
        ("€", ".", "€", None),
        ("inf", ".", "", None),
    ],
)
def test_number_with_thousands_or_currency(
    text: str, decimal: str, currency: str, number: float | None
) -> None:
    assert number_of(text, decimal, currency) == number
