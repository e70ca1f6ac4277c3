"""Arguments: times and durations; wrong ones are refused with exit code 2 before connecting."""

import json
import shlex
import sys
import time
from pathlib import Path

import pytest

from cli.common import parse_duration_ms, parse_since_ms
from cli.main import main
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS

# No service answers here, so a command that connects first exits with 3.
SETTINGS = """
[kafka]
bootstrap_servers = "127.0.0.1:1"
request_timeout_ms = 100
[cassandra]
port = 1
[flink]
rest_url = "http://127.0.0.1:1"
"""
FILES = {
    "liveprofile.toml": SETTINGS,
    "shop.csv": "a,b\n1,2\n",
    "shop.parquet": "PAR1",
    "shop.jsonl.gz": "\x1f",
    "events.jsonl": json.dumps({"event_id": "1"}) + "\n",
    "mapping.toml": 'format = "csv"\n',
    "full/file": "",
    "no_rules.toml": f'rules = "nowhere.toml"\n{SETTINGS}',
    "no_model.toml": f'{SETTINGS}[model]\ncheckpoint = "/nowhere"\n',
}


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text, "latin-1")


def run(monkeypatch: pytest.MonkeyPatch, command: str) -> int:
    monkeypatch.setattr(sys, "argv", ["liveprofile", *shlex.split(command)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


STATED = "--source crm --kind declared --purpose risk"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("profile show ''", "must not be empty"),
        ("profile explain 42 nowhere.csv", "nowhere.csv"),
        ("profile explain 42 --mapping mapping.toml", "--mapping"),
        ("profile explain 42 --config no_model.toml", "/nowhere"),
        ("attributes withdraw 42 --source 'a b'", "--source"),
        (f"attributes send nowhere.csv {STATED}", "No such file"),
        ("attributes send shop.csv --kind guess", "--kind"),
        (f"attributes send shop.csv {STATED}", "unknown attribute a"),
        (f"attributes send shop.parquet {STATED}", "shop.parquet"),
        ("risk alerts list --user ''", "must not be empty"),
        ("risk alerts list --since yesterday", "--since 'yesterday': neither a duration"),
        ("events recompute-late --mapping mapping.toml", "needs FILE"),
        ("events recompute-late nowhere.csv", "nowhere.csv"),
        ("events recompute-late --config no_rules.toml", "nowhere.toml"),
        ("risk alerts ack f --by ''", "must not be empty"),
        ("risk alerts snooze u --for 5", "--for '5': not a number above 0 with m, h or d"),
        ("risk alerts snooze u --for 9999d", "at most 365 days ahead"),
        ("events replay nowhere.jsonl", "no file at nowhere.jsonl"),
        ("events replay shop.csv", "shop.csv does not begin with a JSON object: give a mapping"),
        ("events replay shop.jsonl.gz", "shop.jsonl.gz does not begin with a JSON object"),
        ("events replay shop.csv --mapping nowhere.toml", "mapping nowhere.toml: No such file"),
        ("events replay shop.csv --mapping mapping.toml", "mapping.toml: time: Field required"),
        ("model backfill --rows full", "full is not empty"),
        ("model backfill --rows rows --mapping mapping.toml", "--mapping mapping.toml needs FILE"),
        ("model backfill events.jsonl --rows rows --labels x", "--labels needs --pipeline scoring"),
        ("model backfill --rows rows --pipeline scoring --labels none.jsonl", "no file at none"),
        ("privacy consent set", "give either USER or --file"),
        ("privacy consent set 42", "give --grant or --withdraw"),
        ("privacy consent set 42 --file shop.csv", "give either USER or --file"),
        ("privacy consent set --file shop.csv", "shop.csv line 1: no JSON object"),
        ("privacy consent set --file events.jsonl", "line 1: user_id None: must be a text"),
        ("privacy consent set --file nowhere.jsonl", "nowhere.jsonl: No such file"),
        ("privacy consent set 42 --grant sales", "purpose 'sales': must be one of profiling"),
        ("privacy consent set 42 --grant risk --withdraw risk", "--grant or --withdraw, not both"),
        ("privacy consent set 42 --grant risk --time 2999-01-01T00:00Z", "is in the future"),
        ("privacy consent set 42 --grant risk --time 0", "time 0: neither epoch milliseconds"),
        ("privacy consent set '' --grant risk", "must have 1 to 256 characters"),
        ("identity merge", "give ALIAS and USER, --split ALIAS, --show ID or --list"),
        ("identity merge a ' '", "must have 1 to 256 characters"),
        (f"identity merge --split {'x' * 257}", "must have 1 to 256 characters"),
        ("identity merge a b", "merges.enabled is off: the job would not follow merges"),
        ("privacy erase", "give USER, --file, --pending, --status, --rows or --checkpoints"),
        ("privacy erase --rows nowhere", "nowhere: no folder"),
        ("privacy erase 42 --rows nowhere", "--rows is about all erasures"),
        ("model train general --rows r --out o --without nowhere", "nowhere: No such file"),
        (f"privacy erase {'x' * 257}", "an id has at most 256 characters"),
        ("privacy erase 42 --pending", "--pending is about all erasures"),
        ("privacy erase --pending --status", "--pending is about all erasures"),
        ("privacy erase --status --proof proof.jsonl", "--status deletes no rows"),
        ("privacy erase --file nowhere.txt", "--file nowhere.txt: No such file"),
        ("privacy erase 42 --proof proof.jsonl", "--proof needs the setting rules_signing_key"),
        ("privacy export 42", "--out"),
        ("privacy export 42 --out shop.csv", "shop.csv exists"),
        ("privacy export 42 --out nowhere/user.json", "nowhere/user.json cannot be written"),
        ("risk feedback nowhere.jsonl", "no file at nowhere.jsonl"),
        (
            "risk feedback shop.csv",
            "shop.csv does not begin with a JSON object: labels are JSON lines",
        ),
        ("risk consume", "no handler"),
        ("risk rules apply nowhere.toml", "rules file nowhere.toml"),
        ("job submit --savepoint savepoint-1", "must be an absolute path or a URI"),
        ("job submit --config no_rules.toml", "rules file"),
        ("job submit --config no_model.toml", "model checkpoint /nowhere"),
        ("job submit", "set consent.mode"),
        ("events mapping infer events.jsonl", "neither Parquet nor a CSV with several columns"),
        ("events mapping infer shop.csv --out full/file", "full/file: File exists"),
        ("events mapping check shop.csv nowhere.toml", "mapping nowhere.toml: No such file"),
        ("events rejected show 17", "'17' is no id of a rejected record"),
        ("job setup --dry-run --config no_model.toml", "/nowhere"),
        ("job upgrade --fallback nowhere.toml", "no configuration file at nowhere.toml"),
        ("job upgrade --config no_rules.toml", "rules file"),
        ("job status --config nowhere.toml", "no configuration file at nowhere.toml"),
        ("shop trends show --last 7w", "--last '7w': not a number above 0"),
        ("shop trends show --type buy", "--type 'buy': not one of view, cart"),
        ("campaign plan A", "name 'A'"),
        ("campaign plan a --cap 2", "--cap '2': not a number of contacts"),
        ("campaign plan a --when churn", "--when, character"),
        ("campaign plan a --exclude none.txt", "--exclude none.txt"),
        ("job status --colour", "No such option: --colour"),
        ("stats", "No such command 'stats'"),
    ],
)
def test_wrong_argument_exits_with_2_before_connecting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    if "--config" not in command:
        monkeypatch.setenv("LIVEPROFILE_CONFIG", "liveprofile.toml")
    code = run(monkeypatch, command)
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err
    assert message in " ".join(err.replace("│", " ").split())


def test_connection_error_exits_with_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without it, the tests above would pass for a command that never connects."""
    monkeypatch.setenv("LIVEPROFILE_CONFIG", "liveprofile.toml")
    for command in (
        "profile show 42",
        "events replay events.jsonl",
        "job status",
        "risk consume --open-case",
    ):
        assert run(monkeypatch, command) == 3, command
    assert capsys.readouterr().err.count("\n") == 4


def test_durations_are_parsed_or_rejected() -> None:
    assert [parse_duration_ms(text, "--for") for text in ("30m", "8h", "3d")] == [
        30 * MINUTE_MS,
        8 * HOUR_MS,
        3 * DAY_MS,
    ]
    for wrong in ("", "8", "h", "-1h", "8 h", "1w", "0h"):
        with pytest.raises(InputError, match="a number above 0 with m, h or d"):
            parse_duration_ms(wrong, "--for")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1511658300000", 1_511_658_300_000),
        ("2017-11-26T01:05", 1_511_658_300_000),
        ("2017-11-26T02:05+01:00", 1_511_658_300_000),
        ("2017-11-26", 1_511_654_400_000),
    ],
)
def test_since_is_a_time_in_utc_unless_it_has_a_zone(text: str, expected: int) -> None:
    assert parse_since_ms(text) == expected


def test_since_may_be_a_duration_before_now() -> None:
    assert parse_since_ms("2h") == pytest.approx(time.time() * 1_000 - 2 * HOUR_MS, abs=5_000)
