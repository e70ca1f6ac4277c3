"""Tests of the command line: help, exit codes, one-line errors, start time, alert output."""

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import common
from cli.alerts import alert_line, deduplicate
from cli.main import app, main
from cli.progress import progress
from liveprofile import __version__
from liveprofile.errors import ConfigError
from liveprofile.kafka.records import Record
from liveprofile.pseudonym import user_pseudonym
from tests.support.paths import ROOT

OWN_PACKAGES = (
    "cli", "console", "intake", "liveprofile", "models", "offline", "serve", "services", "stack",
    "udfs",
)  # fmt: skip
HEAVY_LIBRARIES = ("torch", "pyflink", "cassandra", "pyarrow", "numpy", "confluent_kafka")


def run(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["liveprofile", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_version_option_prints_version():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"liveprofile {__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [["events", "audit"], ["job", "status"], ["risk", "alerts"], ["profile", "show", "42"]],
)
def test_invalid_setting_prints_one_line_and_exits_with_2(tmp_path, monkeypatch, capsys, arguments):
    config = tmp_path / "liveprofile.toml"
    config.write_text("[window]\nlength_ms = 5\n")
    code, out, err = run(monkeypatch, capsys, *arguments, "--config", str(config))
    assert (code, out) == (2, "")
    assert err.startswith("liveprofile: setting window.length_ms = 5")
    assert err.count("\n") == 1


@pytest.mark.parametrize("file", sorted((ROOT / "cli").rglob("*.py")), ids=str)
def test_imports_inside_functions_can_be_resolved(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith(OWN_PACKAGES):
            module = importlib.import_module(node.module)
            below = {each.name for each in pkgutil.iter_modules(getattr(module, "__path__", []))}
            missing = {each.name for each in node.names} - set(dir(module)) - below
            assert not missing, f"{node.module} has no {missing}"


def test_importing_cli_does_not_import_heavy_libraries():
    code = f"import cli.main, sys; print([m for m in {HEAVY_LIBRARIES} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("missing", "arguments"), [("typer", ["--version"]), ("cassandra", ["profile", "show", "42"])]
)
def test_package_that_is_not_installed_is_named(missing, arguments):
    code = f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = {arguments}"
    code += "; from liveprofile_app import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"liveprofile: the package {missing} is not installed: `pip ")
    assert done.stderr.count("\n") == 1


def test_local_stack_settings_are_default_unless_variable_is_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(common.CONFIG_VARIABLE, raising=False)
    # A stack may run in this checkout.
    assert common.config_file(None, checkout=tmp_path) is None
    common.LOCAL_STACK_CONFIG.parent.mkdir(parents=True)
    common.LOCAL_STACK_CONFIG.write_text("[window]\nlength_ms = 60000\n")
    assert common.read_settings(None).window.length_ms == 60_000
    monkeypatch.setenv(common.CONFIG_VARIABLE, str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match=r"none\.toml"):
        common.read_settings(None)


def alert(alert_id: str = "1") -> dict:
    return {
        "id": alert_id,
        "subject": "42",
        "time": "2017-11-26T01:05:00Z",
        "data": {
            "severity": "high",
            "reason": "PURCHASE_AMOUNT_CHANGE",
            "action": "limit_trading",
            "message": "spent 900.0, usually 20.0",
        },
    }


def record(value: bytes) -> Record:
    return Record("risk-alerts", 0, 3, 0, b"42", value, {})


def test_duplicate_alerts_are_dropped_and_invalid_records_reported(capsys):
    records = [record(json.dumps(alert(each)).encode()) for each in ("1", "2", "1")]
    unique_alerts = list(deduplicate([*records, record(b"{}"), record(b"[]"), record(b"x")], set()))
    assert [each["id"] for each in unique_alerts] == ["1", "2"]
    assert capsys.readouterr().err.count("risk-alerts/0 offset 3 is not an alert") == 3


def test_alert_line_has_time_severity_user_reason_action_and_flag():
    assert alert_line(alert()) == (
        "2017-11-26 01:05:00  high      user 42  PURCHASE_AMOUNT_CHANGE:"
        " spent 900.0, usually 20.0  -> limit_trading  flag 1"
    )


def test_hashed_user_id_does_not_contain_id():
    assert user_pseudonym("42") == user_pseudonym("42") != user_pseudonym("43")
    assert "42" not in user_pseudonym("user 42") and user_pseudonym("\ud800").startswith("user:")


def test_progress_without_terminal_prints_first_and_last_step_of_stage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress() as on_progress:
        for done in (1, 2, 3, 3):
            on_progress("epochs", done, 3)
        on_progress("scores", 1, 2)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["epochs 1/3", "epochs 3/3"]
    assert not captured.out
