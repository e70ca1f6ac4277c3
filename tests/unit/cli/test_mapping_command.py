"""From a CSV to events: a drafted mapping, and a preview of what the job would reject."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from liveprofile.errors import InputError

CSV = """customer_id,product,price,bought_at
7,tea,2.50,2026-11-01 10:00:00
8,cup,-1,2026-11-01 10:01:00
9,tea,2.50,soon
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.chdir(tmp_path)
    Path("shop.csv").write_text(CSV)
    return "shop.csv", "shop.toml"


def test_draft_and_check_need_no_service(files: tuple[str, str]) -> None:
    source, drafted = files
    done = CliRunner().invoke(app, ["events", "mapping", "infer", source, "--out", drafted])
    assert done.exit_code == 0 and done.stdout == "shop.toml written, 4 lines to look at\n"
    text = Path(drafted).read_text()
    assert "is neither ISO 8601" in text  # `soon`, in a third of the rows

    done = CliRunner().invoke(app, ["events", "mapping", "check", source, drafted])
    assert done.exit_code == 1
    valid, negative, soon, *counts = done.stdout.splitlines()
    assert json.loads(valid)["user_id"] == "7"
    returned = json.loads(negative)
    assert (returned["event_type"], returned["price"]) == ("return", 1.0)
    assert soon.startswith("event 3 is rejected, BAD_TIME soon: ")
    assert [line.split()[:2] for line in counts[:2]] == [["rows", "3"], ["valid", "2"]]

    done = CliRunner().invoke(
        app, ["events", "mapping", "check", source, drafted, "--rows", "1", "--json"]
    )
    assert done.exit_code == 0
    assert json.loads(done.stdout)["valid"] == 1


def test_draft_does_not_replace_a_file(files: tuple[str, str]) -> None:
    source, drafted = files
    Path(drafted).write_text("mine")
    done = CliRunner().invoke(app, ["events", "mapping", "infer", source, "--out", drafted])
    assert isinstance(done.exception, InputError) and Path(drafted).read_text() == "mine"


def test_draft_is_printed_as_toml_or_json(files: tuple[str, str]) -> None:
    source, _ = files
    assert (
        'user_id = "customer_id"'
        in CliRunner().invoke(app, ["events", "mapping", "infer", source]).stdout
    )
    done = CliRunner().invoke(app, ["events", "mapping", "infer", source, "--json"])
    assert json.loads(done.stdout)["mapping"]["fields"]["user_id"] == "customer_id"


def test_codes_without_a_meaning_are_named(files: tuple[str, str]) -> None:
    source, drafted = files
    Path(source).write_text("user,time,type\n1,1700000000000,1\n1,1700000000001,2\n")
    done = CliRunner().invoke(app, ["events", "mapping", "infer", source, "--out", drafted])
    assert done.stdout.endswith(" Fill in what the event types 1, 2 mean, in [types]\n")
    done = CliRunner().invoke(app, ["events", "mapping", "check", source, drafted])
    assert isinstance(done.exception, InputError) and "types.1 = ''" in str(done.exception)
    Path(drafted).write_text(Path(drafted).read_text().replace('2 = ""', '2 = "2"'))
    filled = Path(drafted).read_text().replace('1 = ""', '1 = "remove_from_cart"')
    Path(drafted).write_text(filled)
    done = CliRunner().invoke(app, ["events", "mapping", "check", source, drafted, "--json"])
    counts = json.loads(done.stdout)
    assert (counts["valid"], counts["reasons"]) == (1, {"UNKNOWN_TYPE 2": 1})
