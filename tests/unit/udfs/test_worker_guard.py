"""The guard against real processes: one is a TaskManager with an open operator, one its worker."""

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from tests.support.waiting import until
from udfs import worker_guard
from udfs.worker_guard import Watched

pytestmark = pytest.mark.slow

# A busy machine may need a second to run a process that continues.
NOTICE_S, PAUSE_S = 3.0, 1.0
TIMEOUT_S = 60.0

# Its operator closes, so its server too, when argv[1] is sent to it. It outlives that, as a
# TaskManager does.
TASKMANAGER = """
import signal, socket, sys, time
server = socket.create_server(("127.0.0.1", 0))
signal.signal(getattr(signal, sys.argv[1]), lambda *_: server.close())
print(server.getsockname()[1], flush=True)
while True:
    time.sleep(0.1)
"""
WORKER = """
import os, sys, time
from udfs import worker_guard
watched = worker_guard.Watched(os.getpid(), int(sys.argv[1]), int(sys.argv[2]))
guard = worker_guard.start(watched, float(sys.argv[3]), [float(sys.argv[4])])
print(guard.pid, flush=True)
time.sleep(600)
"""
# A TaskManager starts its workers through a shell.
FOUND = """
import os, sys
from udfs import worker_guard
print(os.getpid(), os.getppid(), worker_guard.find_watched(os.getpid(), sys.argv[1]))
"""


class Processes:
    """A TaskManager whose operator closes on `closes_on`, a worker, and the worker's guard."""

    def __init__(self, closes_on: str):
        self.taskmanager = self._start(TASKMANAGER, closes_on)
        port = int(self._first_line(self.taskmanager))
        inode = next(i for i, p in worker_guard.listening_sockets().items() if p == port)
        arguments = (self.taskmanager.pid, inode, NOTICE_S, PAUSE_S)
        self.worker = self._start(WORKER, *map(str, arguments))
        self.guard = psutil.Process(int(self._first_line(self.worker)))

    @staticmethod
    def _start(code: str, *arguments: str) -> psutil.Popen:
        return psutil.Popen(
            [sys.executable, "-c", code, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def _first_line(process: psutil.Popen) -> str:
        return process.stdout.readline()

    def kill_worker(self) -> None:
        self.worker.kill()
        self.worker.wait()

    def is_suspended(self) -> bool:
        return self.taskmanager.status() == psutil.STATUS_STOPPED

    def end(self) -> str:
        """Ends all processes. Returns what the guard wrote where the TaskManager writes."""
        for process in (self.guard, self.worker, self.taskmanager):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.worker.communicate()
        return self.taskmanager.communicate()[1]


@pytest.fixture
def each(request: pytest.FixtureRequest) -> Iterator[Processes]:
    """The operator closes on a signal: the parameter, or the one that continues its TaskManager."""
    started = Processes(getattr(request, "param", "SIGCONT"))
    yield started
    started.end()


def test_taskmanager_is_suspended_if_operator_stays_open(each: Processes) -> None:
    each.kill_worker()
    until(each.is_suspended)
    until(lambda: not each.is_suspended())
    until(lambda: not each.guard.is_running())
    assert each.taskmanager.is_running()
    written = each.end()
    assert f"Python worker {each.worker.pid} died; its operator has hung since." in written
    assert "still hangs" not in written


@pytest.mark.parametrize("each", ["SIGUSR1"], indirect=True)
def test_nothing_is_suspended_if_operator_notices(each: Processes) -> None:
    each.kill_worker()
    each.taskmanager.send_signal(signal.SIGUSR1)
    until(lambda: not each.guard.is_running())
    assert each.end() == ""


def test_worker_that_outlives_its_taskmanager_is_killed(each: Processes) -> None:
    each.taskmanager.kill()
    each.taskmanager.wait()
    until(lambda: each.worker.poll() is not None)
    assert each.worker.returncode == -signal.SIGKILL
    until(lambda: not each.guard.is_running())


def test_terminated_guard_leaves_no_taskmanager_suspended(each: Processes) -> None:
    each.kill_worker()
    until(each.is_suspended)
    each.guard.terminate()
    until(lambda: not each.guard.is_running())
    until(lambda: not each.is_suspended())


@pytest.mark.parametrize(
    ("main_class", "found"),
    [
        ("org.apache.flink.runtime.taskexecutor.TaskManagerRunner", True),
        ("org.apache.flink.kubernetes.taskmanager.KubernetesTaskExecutorRunner", True),
        ("org.apache.flink.client.python.PythonGatewayServer", False),  # has an embedded Flink
    ],
)
def test_taskmanager_is_found_as_parent_of_the_shell(main_class: str, found: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f'url: "localhost:{server.getsockname()[1]}"\n'
        worker = shlex.join([sys.executable, "-c", FOUND, endpoint])
        shell = ["bash", "-c", f"{worker} | tee /dev/null"]
        code = f"import os, subprocess; print(os.getpid()); subprocess.run({shell!r})"
        done = subprocess.run(
            [sys.executable, "-uc", code, main_class], capture_output=True, text=True, check=True
        )
        taskmanager_pid, worker_pid, _, watched = done.stdout.split(maxsplit=3)
        inode = os.fstat(server.fileno()).st_ino
    expected = Watched(int(worker_pid), int(taskmanager_pid), inode) if found else None
    assert watched.strip() == str(expected)
