"""The local stack that the tests of one worker share, and scheduling for `pytest -n 3`.

The stack starts when the first test needs it.
"""

import functools
import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import settings as hypothesis_settings
from xdist.scheduler import LoadScopeScheduling

from liveprofile.flink.launcher import PLANNER_JVM_OPTIONS, embedded_environment
from liveprofile.settings import CassandraSettings, load
from stack.local import Stack
from tests.support import service_restarts, summary
from tests.support.job_under_test import QUIET, JobUnderTest
from tests.support.local_stack import LocalStack

# The time of an example depends more on the machine than on the code.
hypothesis_settings.register_profile("liveprofile", deadline=None)
hypothesis_settings.load_profile("liveprofile")

# Typer would make all commands anew at each call.
typer.main.get_command = functools.cache(typer.main.get_command)

# For the stack and the embedded Flinks. The optimising compiler does not pay off in jobs of a
# minute. Without it the code cache has a fifth of its size, which about ten jobs would fill. An
# embedded Flink would take a quarter of the memory as its heap.
os.environ["JAVA_TOOL_OPTIONS"] = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -Xmx2500m"
os.environ["JVM_ARGS"] = " ".join(PLANNER_JVM_OPTIONS)  # of the embedded Flinks alone
_embedded_jars = tempfile.TemporaryDirectory(prefix="liveprofile-jars-")
os.environ.update(embedded_environment(Path(_embedded_jars.name)))

# Folder or file of tests/ -> the group of tests that one worker runs. Each worker with jobs has a
# stack of its own. What has a broker of its own may run beside the embedded Flinks.
WORKER_GROUPS = {
    "faults": "faults",
    "services": "services",
    "services/test_kafka_security.py": "pipeline",
    "browser": "services",
    "pipeline": "pipeline",
}
# Priority of a test by its group. Faults measure recoveries and answers, so they come first.
NICE = {"faults": 0, "services": 5}
LOW_PRIORITY_NICE = 10


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stack",
        type=Path,
        metavar="FOLDER",
        help="use the stack in this folder and leave it running (default: a new one, stopped at the"
        " end)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # xdist sends ids to its workers: of tests with one id it runs one.
    counts = Counter(item.nodeid for item in items)
    if repeated := [f"{name} ({count})" for name, count in counts.items() if count > 1]:
        raise pytest.UsageError(f"tests with the same id: {', '.join(repeated)}")
    # Last: while all stacks start, a page takes too long.
    items.sort(key=lambda item: "browser" in item.path.relative_to(item.config.rootpath).parts)


class WorkerGroupScheduling(LoadScopeScheduling):
    """The tests of each group run in one worker.

    The tests of every other file run together in any worker.
    """

    def _split_scope(self, nodeid: str) -> str:
        return worker_group(nodeid.partition("::")[0])


def worker_group(file: str) -> str:
    """The group of the file, or of the deepest folder that has one, else the file itself."""
    path = Path(file).relative_to("tests")
    groups = (WORKER_GROUPS.get(each.as_posix()) for each in (path, *path.parents))
    return next(filter(None, groups), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> WorkerGroupScheduling:
    return WorkerGroupScheduling(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    # An embedded job leaves this in the environment, and no child process could start a JVM.
    os.environ.pop("PYFLINK_GATEWAY_DISABLED", None)
    if "PYTEST_XDIST_WORKER" in os.environ:  # tests share the machine
        group = worker_group(item.nodeid.partition("::")[0])
        os.nice(max(0, NICE.get(group, LOW_PRIORITY_NICE) - os.nice(0)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # this process is an xdist worker
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
) -> Iterator[LocalStack]:
    """Kafka, Cassandra and a highly available Flink with one TaskManager.

    The jobs of the tests run on it in turn.
    """
    kept_folder = request.config.getoption("--stack")
    root = kept_folder or tmp_path_factory.mktemp("stack")
    stack = LocalStack(root)
    try:
        stack.start()
        yield stack
    finally:
        if not kept_folder:
            stack.stop()
            if not request.session.testsfailed:  # keep the logs of a failed run
                shutil.rmtree(stack.root)


@pytest.fixture(autouse=True)
def _stopped_services(request: pytest.FixtureRequest) -> Iterator[None]:
    """Restarts services after each test: a service that stopped fails one test only."""
    yield
    if "stack" in request.fixturenames:
        service_restarts.restart_stopped_services(
            request.getfixturevalue("stack"), request.node.name
        )


@pytest.fixture(scope="session")
def cassandra_settings(stack: Stack) -> CassandraSettings:
    return load(**stack.settings()).cassandra


_job_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def new_job(
    stack: LocalStack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., JobUnderTest]]:
    """Creates jobs: `new_job("name", window={...})`, or with `job=BUSY_JOB`.

    Each job has topics of its own, and a keyspace if it needs tables, which exist on return. Jobs
    that still run at the end of the session are cancelled.
    """
    jobs: list[JobUnderTest] = []
    # A kept stack of an earlier run has none of these names.
    session_id = f"{tmp_path_factory.getbasetemp().stat().st_mtime_ns // 1_000_000 % 10**8}"

    def make(name: str, tables: bool = True, **sections: dict[str, Any]) -> JobUnderTest:
        unique = f"{name}_{session_id}_{next(_job_numbers)}"
        job = JobUnderTest(stack, tmp_path_factory.mktemp(name), unique, QUIET, sections)
        jobs.append(job)
        job.prepare(tables)
        return job

    yield make
    for job in jobs:
        job.cancel()
