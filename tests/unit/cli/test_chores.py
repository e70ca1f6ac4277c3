"""Chores in turn: which process works, when, and what a failure changes."""

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli.job
from cli.main import app
from liveprofile.errors import ServiceError, SetupError
from liveprofile.settings import load
from services import chores
from services.chores import LEASE_S, RENEW_S, RETRY_S, Chore, ChoreRun, Chores, Lease, overdue

START_MS = 1_767_605_700_000


class Table:
    """The table `chore` in memory, with a clock."""

    def __init__(self) -> None:
        self.s, self.holder, self.ends_s = 0.0, None, 0.0
        self.stored: dict[str, ChoreRun] = {}
        self.lacks: list[str] = []

    def now_s(self) -> float:
        return self.s

    def now_ms(self) -> int:
        return START_MS + round(self.s * 1_000)

    def take(self, holder: str, expected: str | None) -> bool:
        if expected != (self.holder if self.s < self.ends_s else None):
            return False
        self.holder, self.ends_s = holder, self.s + LEASE_S
        return True

    def missing(self) -> list[str]:
        return self.lacks

    def note(self, run: ChoreRun) -> None:
        self.stored[run.name] = run

    def runs(self) -> dict[str, ChoreRun]:
        return self.stored

    def process(self, *chores: Chore) -> Chores:
        return Chores(chores, self, Lease(self.take, self.now_s), self.now_ms)


def test_one_process_works_and_another_takes_over_from_one_that_is_killed() -> None:
    table = Table()
    first, second = Lease(table.take, table.now_s), Lease(table.take, table.now_s)
    for _ in range(20):
        first.renew()
        second.renew()
        assert (first.is_held, second.is_held) == (True, False)
        table.s += RENEW_S
    killed_s = table.s - RENEW_S
    while not second.is_held:
        second.renew()
        assert not (first.is_held and second.is_held)
        table.s += 1
    assert LEASE_S <= table.s - killed_s <= 30
    first.renew()
    assert not first.is_held


def test_a_chore_runs_at_its_interval_whoever_works_and_its_failure_is_its_own() -> None:
    table, ran = Table(), []

    def fail() -> None:
        ran.append("bad")
        raise ServiceError("Kafka is down") if len(ran) == 1 else ValueError("defect")

    good, bad = Chore("good", 60.0, lambda: ran.append("good")), Chore("bad", 60.0, fail)
    process = table.process(good, bad)
    process.turn(good)
    assert not ran  # without the lease
    process.lease.renew()
    for _ in range(2):
        process.turn(bad)
        process.turn(good)
    assert ran == ["bad", "good"]
    assert table.stored["bad"] == ("bad", START_MS, 0, "Kafka is down")
    assert table.stored["good"] == ("good", START_MS, START_MS, "")

    table.s = 50.0
    other = table.process(good, bad)
    other.lease.renew()
    assert other.turn(good) <= 1.0 and ran == ["bad", "good"]  # the first has run it
    table.s = 60.0
    other.turn(bad)
    other.turn(good)
    assert ran == ["bad", "good", "bad", "good"]
    assert (table.stored["good"].succeeded_ms, table.stored["bad"].succeeded_ms) == (
        START_MS + 60_000,
        0,
    )


def test_a_chore_waits_for_the_tables_without_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    table, ran = Table(), []
    table.lacks = ["user_profile", "risk_flag_rule"]
    chore, process = Chore("erasures", 20.0, lambda: ran.append(table.lacks)), table.process()
    for table.s in (0.0, 10.0):
        process.lease.renew()
        assert process.turn(chore) <= 1.0
    assert not ran and not table.stored and len(caplog.messages) == 1
    assert caplog.messages[0].startswith("waiting for the tables")
    table.lacks = []
    process.turn(chore)
    assert ran == [[]] and table.stored["erasures"].error == ""


def test_a_chore_waits_for_its_topic_until_its_first_success() -> None:
    table, outcomes = Table(), [SetupError("no topic"), None, SetupError("no topic")]

    def run() -> None:
        if error := outcomes.pop(0):
            raise error

    chore, process = Chore("consents", 60.0, run), table.process()
    for table.s, errors in ((0.0, []), (1.0, [""]), (61.0, ["no topic"])):
        process.lease.renew()
        process.turn(chore)
        assert [run.error for run in table.stored.values()] == errors


def test_a_daily_chore_that_failed_is_repeated_within_minutes() -> None:
    table, errors = Table(), ["Kafka is down", ""]

    def run() -> None:
        if error := errors.pop(0):
            raise ServiceError(error)

    daily, process = Chore("daily", 86_400.0, run), table.process()
    for table.s in (0.0, RETRY_S - 1, RETRY_S, 2 * RETRY_S):
        process.lease.renew()
        process.turn(daily)
    assert not errors and table.stored["daily"].succeeded_ms == START_MS + 1_000 * RETRY_S


def test_a_warning_is_repeated_after_minutes(caplog: pytest.LogCaptureFixture) -> None:
    now_s = [0.0]
    warnings, again_s = chores.Warnings(lambda: now_s[0]), chores.REPEAT_LOG_S
    for now_s[0] in (0.0, 5.0, again_s - 1, again_s):
        warnings.log("no tables")
    warnings.log("no broker")
    assert caplog.messages == ["no tables", "no tables", "no broker"]


def test_status_of_the_job_is_shown_without_cassandra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli.job, "job_status", lambda job: {"state": "RUNNING", "warnings": []})
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        config = tmp_path / "liveprofile.toml"
        config.write_text(f"[cassandra]\nport = {nobody.getsockname()[1]}\n")
        command = ["job", "status", "--json", "--config", str(config)]
        result = CliRunner().invoke(app, command)
    found = json.loads(result.stdout)
    assert (found["state"], found["chores"], result.exit_code) == ("RUNNING", None, 1)
    assert found["warnings"][0].startswith("chores: Cassandra")


def test_a_chore_is_overdue_after_three_intervals_unless_it_is_turned_off() -> None:
    settings = load(chores={"heartbeat_s": 0, "erasures_s": 30, "audit_s": 3_600})
    runs = {
        name: ChoreRun(name, START_MS, START_MS, "")
        for name in ("heartbeat", "erasures", "audit", "unknown")
    }
    assert not list(overdue(settings, runs, START_MS + 90_000))
    [line] = overdue(settings, runs, START_MS + 91_000)
    assert line == "chore erasures has not succeeded for 91 s"
    runs["audit"] = ChoreRun("audit", START_MS, 0, "no topic")
    assert "chore audit has not succeeded yet: no topic" in overdue(settings, runs, START_MS)
