"""From the export of a shop to its first profile, by the commands of docs/start.md only."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support.job_under_test import JobUnderTest, run_cli

ROWS = 300
CUSTOMERS = 20
HEADER = "Bestellnummer;Bestelldatum;Uhrzeit;Kundennummer;Artikelnummer;Warengruppe;Menge;Betrag"


def export(file: Path) -> float:
    """Writes a German export with days, clocks, umlauts and euros; returns what K0 has spent."""
    at, spent, lines = datetime(2026, 5, 2, 8), 0.0, [HEADER]
    for row in range(ROWS):
        at += timedelta(minutes=17)
        euros, cents = 1_000 * (row % 3 == 0) + 10 + row % 7, 50
        customer = f"K{row % CUSTOMERS}"
        spent += (euros + cents / 100) * (customer == "K0")
        amount = f"{euros:,},{cents}".replace(",", ".", euros >= 1_000)
        lines.append(f"{1000 + row};{at:%d.%m.%Y;%H:%M};{customer};A{row % 11};Bücher;1;{amount} €")
    file.write_text("\r\n".join(lines) + "\r\n", "cp1252")
    return spent


def test_export_becomes_profiles_without_an_edit_of_the_mapping(
    job: JobUnderTest, tmp_path: Path
) -> None:
    file, mapping = tmp_path / "shop.csv", tmp_path / "shop.toml"
    spent = export(file)
    run_cli("events", "mapping", "infer", file, "--out", mapping)
    job.cli("events", "mapping", "check", file, mapping)
    replayed = job.run("events", "replay", str(file), "--mapping", str(mapping), "--close-windows")
    assert (replayed["sent"], replayed["closed"]) == (ROWS, True)
    job.wait_until_caught_up()
    profile = job.run("profile", "show", "K0", "--similar", "5")
    assert profile["profile"]["features"]["amount"] == pytest.approx(spent)
    assert profile["profile"]["features"]["purchases"] == ROWS / CUSTOMERS
    assert list(profile["profile"]["category_affinity"]) == ["Bücher"]
    assert len(profile["similar"]) == 5
