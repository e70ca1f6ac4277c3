"""One service of the stack: a process group of its own, found again by pid and start time."""

from __future__ import annotations

import os
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from liveprofile.errors import ServiceError
from stack.state import LOOPBACK, State

MARK = "LIVEPROFILE_SERVICE"  # inherited by all that a service starts, so nothing of it is lost
LOG_TAIL_LINES = 20


class Service(ABC):
    """Starts, stops, kills and pauses one process. Data, log and port outlive a restart."""

    name: str
    start_timeout_s = 120.0
    stop_timeout_s = 20.0

    def __init__(self, root: Path, state: State):
        self.folder = root / self.name
        self.log = self.folder / f"{self.name}.log"
        self.state = state
        # Of one that this process started and that ended by itself; -N: by signal N.
        self.exit_code: int | None = None

    @abstractmethod
    def prepare(self) -> tuple[list[str], dict[str, str]]:
        """Writes the configuration; returns the command and what to add to its environment."""

    @abstractmethod
    def ready(self) -> bool:
        """True once the service answers. Called again and again, so it must be quick."""

    @property
    def pid(self) -> int | None:
        """The process id while the service is alive (paused counts), else None."""
        process = self._process()
        return process.pid if process else None

    def alive(self) -> bool:
        return self._process() is not None

    def start(self) -> None:
        """Returns when the service answers; does nothing if it runs already.

        Raises ServiceError with the log's last lines if it ends or stays silent.
        """
        if self.alive():
            return
        self._end_strays()
        self.folder.mkdir(parents=True, exist_ok=True)
        command, environment = self.prepare()
        process = psutil.Process(self._spawn(command, environment))
        with self.state.change() as content:
            content["processes"][self.name] = {
                "pid": process.pid,
                "started_s": process.create_time(),
            }
        deadline_s = time.monotonic() + self.start_timeout_s
        while not self.ready():
            if not self.alive():
                raise ServiceError(f"{self.name} ended while it started; {self._log_tail()}")
            if time.monotonic() > deadline_s:
                self.stop()
                waited = f"{self.start_timeout_s:.0f} s"
                raise ServiceError(f"{self.name} did not answer in {waited}; {self._log_tail()}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Asks it to end, insists after `stop_timeout_s`; its children end too."""
        process = self._process()
        if process:
            process.terminate()
            process.resume()  # a paused one would never see the request
            with suppress(psutil.TimeoutExpired):  # kill() insists
                process.wait(self.stop_timeout_s)
        self.kill()

    def kill(self) -> None:
        """Ends it and its children at once, as a crash would (SIGKILL)."""
        process = self._process()
        if process:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(self.stop_timeout_s)
        self._end_strays()
        with self.state.change() as content:
            content["processes"].pop(self.name, None)

    def pause(self) -> None:
        """Stops its clock (SIGSTOP): connections stay open and nothing answers."""
        self._required().suspend()

    def resume(self) -> None:
        self._required().resume()

    def memory_mb(self) -> float:
        """Resident memory of the process and its children; 0 if it isn't alive."""
        process = self._process()
        if not process:
            return 0.0
        used_bytes = 0
        for each in [process, *process.children(recursive=True)]:
            try:
                used_bytes += each.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return used_bytes / 1e6

    def _spawn(self, command: list[str], environment: dict[str, str]) -> int:
        # Not subprocess.Popen: it warns of every child that outlives it, as these are meant to.
        new_file = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.posix_spawnp(
            "env",
            ["env", f"--chdir={self.folder}", *command],
            os.environ | environment | {MARK: str(self.folder)},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log), new_file, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )

    def _required(self) -> psutil.Process:
        process = self._process()
        if process is None:
            raise ServiceError(f"{self.name} is not running: start it first")
        return process

    def _process(self) -> psutil.Process | None:
        known = self.state.read()["processes"].get(self.name)
        if not known:
            return None
        try:
            process = psutil.Process(known["pid"])
            if process.create_time() != known["started_s"]:
                return None
            if process.status() != psutil.STATUS_ZOMBIE:
                return process
            _, status = os.waitpid(process.pid, os.WNOHANG)
            self.exit_code = os.waitstatus_to_exitcode(status)
        except (psutil.NoSuchProcess, ChildProcessError):
            pass  # gone, or a zombie that another process must reap
        return None

    def _strays(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.folder):
                    yield process
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                continue  # another user's or gone: not ours

    def _end_strays(self) -> None:
        """Python workers outlive a killed TaskManager; the mark in their environment tells them."""
        strays = list(self._strays())
        for process in strays:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(strays, timeout=self.stop_timeout_s)

    def _log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.is_file() else []
        return "\n".join([f"the end of {self.log}:", *lines[-LOG_TAIL_LINES:]])


def listens(port: int) -> bool:
    """True if something accepts connections on loopback at `port`."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False
