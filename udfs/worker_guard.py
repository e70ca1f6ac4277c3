"""Ends the hang of a Flink operator whose Python worker has died.

Flink notices a dead worker when its operator next waits for it, and restarts the job. In two places
Beam waits for ever instead (docs/operate.md, failures): no task
fails, no checkpoint completes. Only a cancelled task is interrupted, and nothing cancels this one.

So each worker starts a guard, a small process that outlives it. If the operator is still open
NOTICE_S after the worker's death, the guard suspends the TaskManager until the JobManager misses
its heartbeats. Then Flink does what it does after any lost TaskManager: it restarts the job, and
the TaskManager, once it goes on, cancels its tasks and registers again.

The guard also kills a worker that outlives its TaskManager by NOTICE_S: when the connection breaks,
two of Beam's threads may wait for each other, one with the lock of the logger.

The process imports only the standard library: 7 MB of its own, no measurable CPU time.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

NOTICE_S = 60.0  # an operator that notices closes within seconds, also on a loaded machine
# Longer than `heartbeat.timeout`: 30 s in flink-conf/, 50 s by default, or more.
PAUSES_S = (40.0, 80.0, 160.0)
POLL_S = 1.0
CONTROL_ENDPOINT = "CONTROL_API_SERVICE_DESCRIPTOR"  # set by PyFlink: url: "localhost:43737"
TASKMANAGER = re.compile("TaskManagerRunner|TaskExecutorRunner")  # main classes of Flink
LISTENING = "0A"  # in /proc/net/tcp
STDERR = 2


class Watched(NamedTuple):
    """What a guard watches. `socket_inode`: of the operator's server for this worker, which listens
    as long as the operator is open."""

    worker_pid: int
    taskmanager_pid: int
    socket_inode: int


@contextmanager
def worker_guard(
    notice_s: float = NOTICE_S, pauses_s: Sequence[float] = PAUSES_S
) -> Iterator[None]:
    """Guards this process, a worker of a TaskManager, until it ends in order.

    An embedded Flink gets no guard.
    """
    watched = find_watched(os.getpid(), os.environ.get(CONTROL_ENDPOINT, ""))
    process = start(watched, notice_s, pauses_s) if watched else None
    try:
        yield
    finally:
        if process:
            process.terminate()
            process.wait()


def start(watched: Watched, notice_s: float, pauses_s: Sequence[float]) -> subprocess.Popen[bytes]:
    """Starts a guard as a child of this process. Its messages go where the TaskManager's go."""
    command = [sys.executable, "-m", "udfs.worker_guard", json.dumps([watched, notice_s, pauses_s])]
    stderr = subprocess.DEVNULL
    with suppress(OSError):  # a socket cannot be opened again
        stderr = os.open(f"/proc/{watched.taskmanager_pid}/fd/{STDERR}", os.O_WRONLY | os.O_APPEND)
    try:
        # Not the worker's own output: its launcher waits until that pipe is closed.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr
        )
    finally:
        if stderr >= 0:
            os.close(stderr)


def find_watched(worker_pid: int, control_endpoint: str) -> Watched | None:
    """Returns None if the process is not the worker of a TaskManager on this machine."""
    port = re.search(r":(\d+)\"", control_endpoint)
    if not port:
        return None
    try:
        # The TaskManager starts a shell, and the shell the worker.
        taskmanager_pid = parent_pid(parent_pid(worker_pid))
        command = Path(f"/proc/{taskmanager_pid}/cmdline").read_text(errors="replace")
    except FileNotFoundError:  # started by the first process of a container
        return None
    sockets = listening_sockets().items()
    inode = next((inode for inode, of_port in sockets if of_port == int(port[1])), None)
    if not TASKMANAGER.search(command) or inode is None:
        return None
    return Watched(worker_pid, taskmanager_pid, inode)


def parent_pid(pid: int) -> int:
    # The name, in parentheses, may contain spaces.
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def listening_sockets() -> dict[int, int]:
    """Returns the port of each listening TCP socket of this network namespace by its inode."""
    ports = {}
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):  # without IPv6
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
                if state == LISTENING:
                    ports[int(inode)] = int(local.rpartition(":")[2], 16)
    return ports


def guard(watched: Watched, notice_s: float, pauses_s: Sequence[float]) -> None:
    """Waits for the worker's death, then ends the hang of its operator, if there is one.

    Kills the worker `notice_s` after the end of its TaskManager.
    """
    left_s = notice_s  # of the worker's life without a TaskManager
    while os.getppid() == watched.worker_pid:
        if not Path(f"/proc/{watched.taskmanager_pid}").exists():
            left_s -= POLL_S
        if left_s < 0:
            os.kill(watched.worker_pid, signal.SIGKILL)
            return
        time.sleep(POLL_S)
    if _closes_within(watched, notice_s):
        return
    if watched.taskmanager_pid == 1:
        # Linux does not suspend the first process of a container. Who runs the container starts it
        # again.
        _log(watched, "has hung since. Ending the TaskManager")
        os.kill(watched.taskmanager_pid, signal.SIGTERM)
        return
    for pause_s in pauses_s:
        _log(watched, f"has hung since. Suspending the TaskManager for {pause_s:.0f} s")
        os.kill(watched.taskmanager_pid, signal.SIGSTOP)
        try:
            time.sleep(pause_s)
        finally:
            os.kill(watched.taskmanager_pid, signal.SIGCONT)
        if _closes_within(watched, notice_s):
            return
    _log(watched, "still hangs. Restart the TaskManager")


def _closes_within(watched: Watched, seconds: float) -> bool:
    """True as soon as the operator is closed, or its TaskManager has ended."""
    deadline_s = time.monotonic() + seconds
    while watched.socket_inode in listening_sockets():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(min(POLL_S, seconds))
    return True


def _log(watched: Watched, message: str) -> None:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    worker = f"Python worker {watched.worker_pid} died"
    print(f"{now},000 ERROR worker guard: {worker}; its operator {message}.", file=sys.stderr)


if __name__ == "__main__":
    # Without a handler, a guard that is terminated would leave the TaskManager suspended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    pids, notice, pauses = json.loads(sys.argv[1])
    guard(Watched(*pids), notice, pauses)
