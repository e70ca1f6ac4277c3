"""A service of the stack: one process group, identified by pid and start time."""

import os
import re
import signal
import socket
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

import psutil

from liveprofile.errors import PortTakenError, ServiceError
from stack.state import LOOPBACK, StackState

# Environment variable that the child processes of a service inherit; it identifies orphans.
SERVICE_VARIABLE = "LIVEPROFILE_SERVICE"
LOG_TAIL_LINES = 20
PORT_TAKEN = re.compile(rb"BindException|[Aa]ddress already in use|in use by another process")


class Service(ABC):
    """Starts, stops, kills and pauses one process. A restart keeps data, log and port."""

    name: str
    start_timeout_s = 120.0
    stop_timeout_s = 20.0

    def __init__(self, root: Path, state: StackState):
        self.folder = root / self.name
        self.log = self.folder / f"{self.name}.log"
        self.state = state
        # Set if the service was started by this process and ended by itself; -N means signal N.
        self.exit_code: int | None = None

    @abstractmethod
    def prepare(self) -> tuple[list[str], dict[str, str]]:
        """Writes the configuration; returns the command and additional environment variables."""

    @abstractmethod
    def ready(self) -> bool:
        """True if the service answers. `start` polls it, so it must be quick."""

    @property
    def pid(self) -> int | None:
        """The process id if the service is alive, running or paused, else None."""
        process = self._process()
        return process.pid if process else None

    def alive(self) -> bool:
        return self._process() is not None

    def start(self) -> None:
        """Starts the service unless it is alive, and waits until it answers.

        Raises ServiceError with the last lines of the log if it ends or does not answer within
        `start_timeout_s`; PortTakenError if another process has one of its ports.
        """
        if self.alive():
            return
        self._kill_orphans()
        self.folder.mkdir(parents=True, exist_ok=True)
        command, environment = self.prepare()
        logged_bytes = self.log.stat().st_size if self.log.exists() else 0
        process = psutil.Process(self._spawn(command, environment))
        with self.state.update() as content:
            content["processes"][self.name] = {
                "pid": process.pid,
                "started_s": process.create_time(),
            }
        deadline_s = time.monotonic() + self.start_timeout_s
        while not self.ready():
            if not self.alive():
                taken = PORT_TAKEN.search(self.log.read_bytes(), logged_bytes)
                error = PortTakenError if taken else ServiceError
                raise error(f"{self.name} ended while it started; {self._log_tail()}")
            if time.monotonic() > deadline_s:
                self.stop()
                waited = f"{self.start_timeout_s:.0f} s"
                raise ServiceError(f"{self.name} did not answer in {waited}; {self._log_tail()}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Terminates the service and its children; kills them after `stop_timeout_s`."""
        process = self._process()
        if process:
            process.terminate()
            process.resume()  # a paused process does not handle SIGTERM
            with suppress(psutil.TimeoutExpired):  # kill() follows
                process.wait(self.stop_timeout_s)
        self.kill()

    def kill(self) -> None:
        """Ends the service and its children at once with SIGKILL, like a crash."""
        process = self._process()
        if process:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(self.stop_timeout_s)
        self._kill_orphans()
        with self.state.update() as content:
            content["processes"].pop(self.name, None)

    def pause(self) -> None:
        """Suspends the process with SIGSTOP: connections stay open and receive no answer."""
        self._running_process().suspend()

    def resume(self) -> None:
        self._running_process().resume()

    def memory_mb(self) -> float:
        """Resident memory of the process and its children; 0 if the service is not alive."""
        process = self._process()
        if not process:
            return 0.0
        used_bytes = 0
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                used_bytes += each.memory_info().rss
        return used_bytes / 1e6

    def _spawn(self, command: list[str], environment: dict[str, str]) -> int:
        # Not subprocess.Popen, which warns about children that outlive it; a service does.
        new_file = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.posix_spawnp(
            "env",
            ["env", f"--chdir={self.folder}", *command],
            os.environ | environment | {SERVICE_VARIABLE: str(self.folder)},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log), new_file, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )

    def _running_process(self) -> psutil.Process:
        process = self._process()
        if process is None:
            raise ServiceError(f"{self.name} is not running: start it first")
        return process

    def _process(self) -> psutil.Process | None:
        recorded = self.state.read()["processes"].get(self.name)
        if not recorded:
            return None
        try:
            process = psutil.Process(recorded["pid"])
            if process.create_time() != recorded["started_s"]:
                return None
            if process.status() != psutil.STATUS_ZOMBIE:
                return process
            _, status = os.waitpid(process.pid, os.WNOHANG)
            self.exit_code = os.waitstatus_to_exitcode(status)
        except (psutil.NoSuchProcess, ChildProcessError):
            pass  # ended, or a zombie that another process must reap
        return None

    def _kill_orphans(self) -> None:
        """Kills child processes of an earlier run: Python workers outlive a killed TaskManager."""
        orphans = []
        for process in psutil.process_iter():
            # Not of another user's process, or of one that has ended.
            with suppress(psutil.AccessDenied, psutil.NoSuchProcess):
                if process.environ().get(SERVICE_VARIABLE) == str(self.folder):
                    process.kill()
                    orphans.append(process)
        psutil.wait_procs(orphans, timeout=self.stop_timeout_s)

    def _log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.is_file() else []
        return "\n".join([f"the end of {self.log}:", *lines[-LOG_TAIL_LINES:]])


def is_listening(port: int, host: str = LOOPBACK) -> bool:
    """True if a process accepts connections at `port` of the loopback address `host`."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
