"""The one local stack that the services and the fault tests share, started when first needed; and
how the levels share a machine when several processes run them (pytest -n 3)."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from xdist.scheduler import LoadScopeScheduling

from liveprofile.config import CassandraSettings, load
from stack.local import Stack
from tests.support import lost_services, summary
from tests.support.live_job import Job

# How long an example takes says more of the machine than of the code.
hypothesis_settings.register_profile("liveprofile", deadline=None)
hypothesis_settings.load_profile("liveprofile")

SLOTS = 4
CASSANDRA_HEAP_MB = 512
GROUPS = {"services": "stack", "faults": "stack", "pipeline": "flink"}
# What runs beside the stack may wait, but recoveries and alerts are timed.
BESIDE_THE_STACK_NICE = 10


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stack",
        type=Path,
        metavar="FOLDER",
        help="use the stack of this folder and leave it running (default: a new one, stopped)",
    )


class ByLevel(LoadScopeScheduling):
    """One process has the stack, and one at a time an embedded Flink; other files go anywhere."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return GROUPS.get(Path(file).parent.name, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByLevel:
    return ByLevel(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    shares_the_machine = "PYTEST_XDIST_WORKER" in os.environ
    if shares_the_machine and not {"services", "faults"} & {m.name for m in item.iter_markers()}:
        os.nice(max(0, BESIDE_THE_STACK_NICE - os.nice(0)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # this process is one of xdist's
        session.config.workeroutput["summary"] = summary.LINES


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    summary.LINES.extend(getattr(node, "workeroutput", {}).get("summary", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in summary.LINES:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Kafka, Cassandra and Flink with one TaskManager; the jobs of the tests run on it in turn."""
    kept = request.config.getoption("--stack")
    # Jobs of a minute: what the optimising compiler costs would never come back. Without it the
    # room for code is a fifth of what it is by default, and some ten jobs would fill it.
    os.environ["JAVA_TOOL_OPTIONS"] = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m"
    stack = Stack(
        kept or tmp_path_factory.mktemp("stack"),
        slots=SLOTS,
        cassandra_heap_mb=CASSANDRA_HEAP_MB,
    )
    try:
        stack.start()
        yield stack
    finally:
        if not kept:
            stack.stop()
            if not request.session.testsfailed:  # else its logs stay
                shutil.rmtree(stack.root)


@pytest.fixture(autouse=True)
def _lost_services(request: pytest.FixtureRequest) -> Iterator[None]:
    """A service that a test has lost costs that test alone."""
    yield
    if "stack" in request.fixturenames:
        lost_services.start_again(request.getfixturevalue("stack"), request.node.name)


@pytest.fixture(scope="session")
def cassandra_settings(stack: Stack) -> CassandraSettings:
    return load(**stack.settings()).cassandra


_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def new_job(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Job]]:
    """Makes jobs: `new_job("name", window={...})`, each with topics and a keyspace of its own.

    They exist when it returns; a job that still runs at the end is cancelled.
    """
    jobs: list[Job] = []
    # So that a stack kept from an earlier run has none of these names.
    session = f"{tmp_path_factory.getbasetemp().stat().st_mtime_ns // 1_000_000 % 10**8}"

    def make(name: str, **sections: dict[str, Any]) -> Job:
        unique = f"{name}_{session}_{next(_numbers)}"
        job = Job(stack, tmp_path_factory.mktemp(name), unique, sections)
        jobs.append(job)
        job.prepare()
        return job

    yield make
    for job in jobs:
        job.cancel()
