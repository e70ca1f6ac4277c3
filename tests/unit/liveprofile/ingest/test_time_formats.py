"""Times and numbers as people outside of the United States write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from liveprofile.errors import InputError
from liveprofile.ingest.inference import infer
from liveprofile.ingest.mapping import read_mapping
from liveprofile.ingest.numbers import number_of
from liveprofile.ingest.sources import read_table
from liveprofile.ingest.time_formats import FORMATS, check_format, formats_of
from liveprofile.ingest.translation import MappingTranslator

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
