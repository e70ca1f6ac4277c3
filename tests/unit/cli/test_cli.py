"""The command line: help, exit codes, one line for an error, and a quick start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from cli import common
from cli.main import app, main
from cli.progress import progress
from cli.risk import alerts
from liveprofile import __version__
from liveprofile.drift.alert import DriftAlert
from liveprofile.errors import ConfigError
from liveprofile.kafka.records import Record
from liveprofile.pseudonym import hashed


def names(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Of the command and of all below it, as they are typed."""
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from names(below, *path, name)


COMMANDS = list(names(get_command(app)))[1:]
HEAVY = ("torch", "pyflink", "cassandra", "pyarrow", "numpy", "confluent_kafka")


def run(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["liveprofile", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"liveprofile {__version__}\n")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(command):
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert f"Usage: liveprofile {' '.join(command)}" in " ".join(result.stdout.split())


@pytest.mark.parametrize("arguments", [["audit"], ["status"], ["alerts"], ["show", "42"]])
def test_a_wrong_setting_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments):
    config = tmp_path / "liveprofile.toml"
    config.write_text("[window]\nlength_ms = 5\n")
    code, out, err = run(monkeypatch, capsys, *arguments, "--config", str(config))
    assert (code, out) == (2, "")
    assert err.startswith("liveprofile: setting window.length_ms = 5")
    assert err.count("\n") == 1


def test_a_service_that_is_away_is_one_line_and_exit_code_3(tmp_path, monkeypatch, capsys):
    config = tmp_path / "liveprofile.toml"
    config.write_text('[flink]\nrest_url = "http://127.0.0.1:1"\n')
    code, _, err = run(monkeypatch, capsys, "status", "--config", str(config))
    assert code == 3
    assert "127.0.0.1:1" in err
    assert err.count("\n") == 1


def test_help_does_not_wait_for_heavy_libraries():
    code = f"import cli.main, sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_local_stack_is_found_without_a_flag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(common.CONFIG_VARIABLE, raising=False)
    assert common.config_file(None) is None
    common.LOCAL_STACK_CONFIG.parent.mkdir(parents=True)
    common.LOCAL_STACK_CONFIG.write_text("[window]\nlength_ms = 60000\n")
    assert common.read_settings(None).window.length_ms == 60_000
    monkeypatch.setenv(common.CONFIG_VARIABLE, str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match=r"none\.toml"):
        common.read_settings(None)


def alert(alert_id: str = "1") -> dict:
    return {
        "id": alert_id, "subject": "42", "time": "2017-11-26T01:05:00Z",
        "data": {
            "severity": "high", "reason": "PURCHASE_AMOUNT_CHANGE", "action": "limit_trading",
            "message": "spent 900.0, usually 20.0",
        },
    }  # fmt: skip


def record(value: bytes) -> Record:
    return Record("risk-alerts", 0, 3, 0, b"42", value, {})


def test_alerts_come_once_and_what_is_none_is_named(capsys):
    records = [record(json.dumps(alert(each)).encode()) for each in ("1", "2", "1")]
    found = list(alerts.unique([*records, record(b"{}"), record(b"[]"), record(b"x")], set()))
    assert [each["id"] for each in found] == ["1", "2"]
    assert capsys.readouterr().err.count("risk-alerts/0 offset 3 is no alert") == 3


def test_an_alert_reads_as_a_sentence():
    assert alerts.sentence(alert()) == (
        "2017-11-26 01:05:00  high      user 42  PURCHASE_AMOUNT_CHANGE:"
        " spent 900.0, usually 20.0  -> limit_trading"
    )


def test_an_alert_of_drift_is_of_a_model():
    drift = DriftAlert("started", "hour", 0, 3_600_000, 0, "d74a174b", "reference", 90, [])
    assert "  model d74a174b  MODEL_DRIFT: " in alerts.sentence(json.loads(drift.cloud_event()))


def test_user_ids_are_hashed_for_logs():
    assert hashed("42") == hashed("42") != hashed("43")
    assert "42" not in hashed("user 42") and hashed("\ud800").startswith("user:")


def test_long_work_tells_a_log_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """At once, then not again for a while, and once when a stage is through."""
    with progress() as on_progress:
        for done in (1, 2, 3, 3):
            on_progress("epochs", done, 3)
        on_progress("scores", 1, 2)
    told = capsys.readouterr()
    assert told.err.splitlines() == ["epochs 1/3", "epochs 3/3"]
    assert not told.out
