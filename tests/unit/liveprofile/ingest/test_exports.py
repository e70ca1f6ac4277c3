"""Exports of shops in other languages and forms become valid events by the drafted mapping."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from liveprofile.errors import InputError
from liveprofile.events.validation import AcceptedEvent, accept
from liveprofile.ingest.column_names import telling_name
from liveprofile.ingest.inference import Draft, infer
from liveprofile.ingest.numbers import currency_of, number_of
from liveprofile.ingest.replay import open_source
from liveprofile.settings import LimitSettings

MAY_2026_MS = 1_777_593_600_000
DAY_MS, HOUR_MS = 86_400_000, 3_600_000
GERMAN = """Bestellnummer;Bestelldatum;Uhrzeit;Kundennummer;Artikelnummer;Warengruppe;Menge;\
Einzelpreis;Gesamtpreis;Gutschein
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
SHOP_SYSTEM = """Name,Email,Financial Status,Created at,Lineitem quantity,Lineitem price,\
Lineitem sku
#1,k1@example.com,paid,2026-05-01 10:10:00 +0200,1,1234.50,A1
#2,k2@example.com,paid,2026-05-02 21:45:00 +0200,3,7.00,A2
"""
FIRST_TIMES_MS = {
    "german": MAY_2026_MS + DAY_MS + 8 * HOUR_MS + 600_000,
    "french": MAY_2026_MS + 8 * HOUR_MS + 600_000,
    "polish": MAY_2026_MS,
    "american": MAY_2026_MS + 8 * HOUR_MS + 600_000,
    "shop_system": MAY_2026_MS + 8 * HOUR_MS + 600_000,
}
EXPORTS = {
    "german": GERMAN,
    "french": FRENCH,
    "polish": POLISH,
    "american": AMERICAN,
    "shop_system": SHOP_SYSTEM,
}


def drafted(file: Path) -> tuple[Draft, list[dict[str, Any]]]:
    """The draft of a file, and the events that the drafted mapping makes of it; all are valid."""
    draft = infer(file)
    mapping = file.with_suffix(".toml")
    mapping.write_text(draft.to_toml(file.name), "utf-8")
    batches, translator = open_source(file, mapping, 1_000)
    payloads = [each for batch in batches for each in translator.translate(batch).values]
    now_ms = MAY_2026_MS + 365 * DAY_MS
    accepted = [accept(each, now_ms, LimitSettings()) for each in payloads]
    assert all(isinstance(event, AcceptedEvent) for event in accepted)
    return draft, [json.loads(payload) for payload in payloads]


@pytest.mark.parametrize("name", EXPORTS)
def test_drafted_mapping_finds_user_time_item_and_amount(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.csv"
    file.write_text(EXPORTS[name], "utf-8")
    draft, events = drafted(file)
    first = events[0]
    assert first["event_time"] == FIRST_TIMES_MS[name]
    assert first["user_id"] in ("K1", "k1@example.com")
    assert (first["item_id"], first["price"], first["quantity"]) == ("A1", 1234.5, 1.0)
    assert first["event_type"] == "purchase"
    assert not draft.sort_by_time


def test_day_and_time_of_day_may_be_two_columns(tmp_path: Path) -> None:
    file = tmp_path / "shop.csv"
    file.write_text(GERMAN, "utf-8")
    draft, events = drafted(file)
    assert draft.time == {"column": "Bestelldatum", "format": "%d.%m.%Y %H:%M", "clock": "Uhrzeit"}
    assert (events[1]["coupon_id"], events[1]["amount"]) == ("MAI10", 21.0)
    assert "Uhrzeit" not in draft.unused
    # A row without a time of day has no time.
    file.write_text(GERMAN.replace("19:45", ""), "utf-8")
    batches, translator = open_source(file, file.with_suffix(".toml"), 1_000)
    [times_ms] = [translator.translate(batch).times_ms for batch in batches]
    assert times_ms[2] is None and None not in times_ms[:2]


def test_file_with_days_only_is_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "shop.csv"
    file.write_text(POLISH, "utf-8")
    draft, _ = drafted(file)
    assert draft.time == {"column": "Data", "unit": "day"}
    assert "no time of day" in draft.unsure["time.column"]
    file.write_text(GERMAN.replace("Uhrzeit", "Kasse").replace("08:10", "K").replace("19:45", "K"))
    draft, events = drafted(file)
    assert draft.time == {"column": "Bestelldatum", "unit": "day", "format": "%d.%m.%Y"}
    assert events[0]["event_time"] == MAY_2026_MS + DAY_MS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_encoding_is_found(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "shop.csv"
    file.write_text(GERMAN, encoding)
    draft, events = drafted(file)
    assert draft.encoding == encoding.removesuffix("-sig")
    assert [event["category_id"] for event in events] == ["Bücher", "Küche", "Bücher"]


def test_file_in_another_encoding_than_the_mapping_says_so(tmp_path: Path) -> None:
    file = tmp_path / "shop.csv"
    file.write_text(GERMAN, "utf-8")
    drafted(file)
    file.write_text(GERMAN, "cp1252")
    with pytest.raises(InputError, match='set encoding in the mapping, such as "cp1252"'):
        batches, translator = open_source(file, file.with_suffix(".toml"), 1_000)
        [translator.translate(batch) for batch in batches]


def test_month_first_is_told_by_the_order_of_the_rows(tmp_path: Path) -> None:
    file = tmp_path / "shop.csv"
    rows = "".join(f"{day}/{month}/2026 10:00,a\n" for month in (5, 6) for day in range(1, 13))
    file.write_text(f"date,user\n{rows}", "utf-8")
    day_first = infer(file)
    assert day_first.time["format"] == "%d/%m/%Y %H:%M" and not day_first.sort_by_time
    assert "by the order of the rows" in day_first.unsure["time.column"]
    rows = "".join(f"{month}/{day}/2026 10:00,a\n" for month in (5, 6) for day in range(1, 13))
    file.write_text(f"date,user\n{rows}", "utf-8")
    assert infer(file).time["format"] == "%m/%d/%Y %H:%M"


INVOICES = """InvoiceNo,StockCode,Quantity,InvoiceDate,UnitPrice,CustomerID
1,A1,6,2026-05-01 08:00:00,2.5,17850
C2,A1,-6,2026-05-01 09:00:00,2.5,17850
3,A2,x,2026-05-01 10:00:00,-2.5,17850
"""


def test_rows_without_a_user_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "shop.csv"
    file.write_text(INVOICES.replace("-2.5,17850", "2.5,"), "utf-8")
    draft = infer(file)
    assert draft.fields["event_id"] == "{row}"  # the id of a row without a user is not at fault
    assert draft.unsure["fields.user_id"] == "1 of 3 rows have none: rejected"


def test_rows_with_negative_numbers_become_returns(tmp_path: Path) -> None:
    file, mapping = tmp_path / "shop.csv", tmp_path / "shop.toml"
    file.write_text(INVOICES.replace("A2,x,", "A2,1,"), "utf-8")
    draft, events = drafted(file)
    assert (draft.negative, draft.fixed) == ("return", {"event_type": "purchase"})
    assert draft.unsure["fields.quantity"] == "1 of 3 rows are negative: returns?"
    found = [(event["event_type"], event["quantity"], event["price"]) for event in events]
    assert found == [("purchase", 6, 2.5), ("return", 6, 2.5), ("return", 1, 2.5)]
    # A value that is no number stays for the job to reject.
    file.write_text(INVOICES, "utf-8")
    batches, translator = open_source(file, mapping, 10)
    [values] = [translator.translate(batch).values for batch in batches]
    assert json.loads(values[2])["quantity"] == "x"
    mapping.write_text(mapping.read_text("utf-8").replace('"return"', '"sale"'), "utf-8")
    with pytest.raises(InputError, match="negative = 'sale' is not an event type"):
        open_source(file, mapping, 10)


def test_column_of_types_says_which_rows_are_returns(tmp_path: Path) -> None:
    file = tmp_path / "shop.csv"
    text = "user,date,type,amount\na,2026-05-01 08:00,sale,5\na,2026-05-01 09:00,refund,-5\n"
    file.write_text(text, "utf-8")
    draft, events = drafted(file)
    assert draft.negative == ""
    assert [(event["event_type"], event["amount"]) for event in events] == [
        ("purchase", 5.0),
        ("return", -5.0),
    ]


def test_address_as_user_id_is_pointed_out(tmp_path: Path) -> None:
    file = tmp_path / "shop.csv"
    file.write_text(SHOP_SYSTEM, "utf-8")
    assert "personal data" in infer(file).unsure["fields.user_id"]


@pytest.mark.parametrize(
    ("text", "decimal", "currency", "number"),
    [
        ("1 234,50", ",", "", 1234.5),
        ("1\u202f234,50 €", ",", "€", 1234.5),
        ("1'234,50", ",", "", 1234.5),
        ("€ -5", ",", "€", -5.0),
        ("-€5,25", ",", "€", -5.25),
        ("5,25 €", ",", "", None),
        ("$5", ".", "€", None),
        ("1,234.50", ".", "", 1234.5),
        ("1,234", ".", "", None),  # its comma may be a decimal mark
        ("1 234.5", ".", "", 1234.5),
        ("12 34.5", ".", "", None),
        ("€", ".", "€", None),
        ("inf", ".", "", None),
    ],
)
def test_number_with_thousands_or_currency(
    text: str, decimal: str, currency: str, number: float | None
) -> None:
    assert number_of(text, decimal, currency) == number


@pytest.mark.parametrize(
    ("texts", "currency"),
    [
        (["5 €", "6 €", "7"], "€"),
        (["$5", "-$6"], "$"),
        (["EUR 5", "6,00 EUR"], "EUR"),
        (["5 zł"], "zł"),
        (["5", "6 €", "7"], ""),
        ([], ""),
    ],
)
def test_currency_is_that_of_most_texts(texts: list[str], currency: str) -> None:
    assert currency_of(texts) == currency


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("Kunden-Nr.", "kunden_nr"),
        ("Käufer", "kaeufer"),
        ("Wartość", "wartosc"),
        ("Betrag (EUR)", "betrag"),
        ("lineItemPrice", "price"),
        ("product_qty", "qty"),
        ("Color", None),
        ("EUR", None),
        ("", None),
    ],
)
def test_name_is_found_in_other_words(column: str, name: str | None) -> None:
    assert telling_name(column) == name


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ('unit = "day"\nformat = "%d.%m.%Y %H:%M"', "tells more than the day"),
        ('unit = "day"\nformat = "%d.%m"', "lacks year, month or day"),
        ('unit = "day"\nclock = "b"', "has no clock"),
        ('unit = "ms"\nclock = "b"', "has no clock"),
        ('format = "%d.%m.%Y"', 'unit = "day" if the file tells the day only'),
        ('clock = "c"', "time.clock: shop.csv has no column 'c'"),
    ],
)
def test_wrong_time_is_named(tmp_path: Path, time: str, message: str) -> None:
    (tmp_path / "shop.csv").write_text("a,b\n2026-05-01,08:00\n", "utf-8")
    mapping = f'format = "csv"\n[time]\ncolumn = "a"\n{time}\n[fields]\nevent_id = "{{row}}"\n'
    (tmp_path / "shop.toml").write_text(
        mapping + 'user_id = "a"\n[fixed]\nevent_type = "view"\n', "utf-8"
    )
    with pytest.raises(InputError, match=message):
        open_source(tmp_path / "shop.csv", tmp_path / "shop.toml", 10)


def test_unknown_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("a\n1\n", "utf-8")
    (tmp_path / "shop.toml").write_text('format = "csv"\nencoding = "latin-42"\n', "utf-8")
    with pytest.raises(InputError, match="must be an encoding such as utf-8"):
        open_source(tmp_path / "shop.csv", tmp_path / "shop.toml", 10)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("shop.xlsx", b"PK\x03\x04", "is Excel: save it as CSV or Parquet"),
        ("shop.csv", b"\x1f\x8b\x08", "is compressed: unpack it first"),
        ("shop.csv", b"a,b\n\xff\x00,1\n", "is in none of the encodings utf-8"),
        ("shop.csv", b'{"user_id": "1", "x": 2}\n', "JSON lines"),
    ],
)
def test_file_that_is_no_table_says_what_to_do(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        infer(tmp_path / name)
