"""Commands that read and write stored rows, on a Cassandra and a Kafka in memory."""

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli import common
from cli.common import Call
from cli.main import app
from intake.files.rejected import RejectedRecord
from liveprofile.units import HOUR_MS
from serve.keys import READER
from services.trends.count_store import ALL, Series
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.support.rows.api_rows import raw_delta, raw_profile, stored_flag_of, stored_score

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    api = MemoryApi().install(monkeypatch, lambda: time.time_ns() // 1_000_000)
    api.put(raw_profile(), raw_delta(0), stored_flag_of(1), stored_score(1))
    api.put_members("loyal", "42")
    api.add_key(READER)
    api.put_counts(Series(ALL, "", ALL), "hour", {NOW_MS // HOUR_MS * HOUR_MS - HOUR_MS: (7, 2.0)})
    api.reject(RejectedRecord("0:0", NOW_MS, "BAD_ID", "", "t", 1, 5, False, b"payload"))
    monkeypatch.setattr(Call, "session", lambda call: nullcontext(api.session))
    monkeypatch.setattr(common, "LOCAL_STACK_CONFIG", Path("none"))  # of `make up`
    return lambda *words: CliRunner().invoke(app, words)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("profile show 42", "expected spend"),
        ("profile deltas 42", "sentence"),
        ("profile scores 42", "event type"),
        ("risk alerts list", "severity"),
        ("segments members loyal", "42"),
        ("serve key list", "profiles"),
        ("campaign list", "expected gain"),
        ("privacy consent show 42", "profiling"),
        ("segments sizes", "no sweep yet"),
        ("shop trends show", "expected"),
        ("risk drift", "decided until"),
        ("events rejected list", "BAD_ID"),
    ],
)
def test_rows_are_printed_as_a_table_or_as_json(run: Run, command: str, shown: str) -> None:
    text = run(*command.split())
    assert text.exit_code == 0, text.exception
    assert shown in text.stdout and "{" not in text.stdout
    assert json.loads(run(*command.split(), "--json").stdout) is not None


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("profile show nobody", "no profile of user 'nobody'"),
        ("profile deltas nobody", "no profile of user 'nobody'"),
        ("profile scores nobody", "no scored event of user 'nobody'"),
        ("attributes show nobody", "no attributes of user 'nobody'"),
        ("segments members none", "segment 'none' has no members"),
        ("privacy consent history nobody", "user 'nobody' has changed no consent"),
    ],
)
def test_nothing_to_show_is_one_line_on_stderr(run: Run, command: str, problem: str) -> None:
    result = run(*command.split())
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"liveprofile: {problem}\n"


def test_analyst_acknowledges_and_snoozes(run: Run) -> None:
    [flag] = json.loads(run("risk", "alerts", "list", "--json").stdout)
    acknowledged: Any = run("risk", "alerts", "ack", flag["flag_id"], "--by", "anna", "--note", "x")
    assert "acknowledged" in acknowledged.stdout
    snooze = run("risk", "alerts", "snooze", flag["user_id"], "--for", "1h", "--by", "anna")
    assert snooze.exit_code == 0, snooze.exception
    shown = run("risk", "alerts", "show", flag["flag_id"]).stdout
    assert "acknowledged" in shown and "anna" in shown and "snoozes" in shown
    document = json.loads(run("risk", "alerts", "show", flag["flag_id"], "--json").stdout)
    assert document["snoozes"][0]["by"] == "anna"


def test_inventory_fails_for_a_place_without_a_limit(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("privacy", "data-inventory", "--json").exit_code == 0
    monkeypatch.setenv("LIVEPROFILE_TOPICS__RETENTION_MS", "-1")
    done = run("privacy", "data-inventory")
    assert done.exit_code == 1 and "behavior-events (topics.retention_ms)" in done.stderr
