"""Compares the job with the same work in other frameworks, and with a bare loop."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import psutil
import typer

from benchmarks import throughput
from benchmarks.load.workload import Workload, send_hidden
from benchmarks.support import runs
from benchmarks.support.journal import JournalReader
from benchmarks.support.report import Events, Repetitions, report_on_stack
from lab.benchmarks.peers import comparison, environments
from liveprofile.errors import ConfigError, LiveprofileError, ServiceError
from liveprofile.resources import ROOT
from liveprofile.settings import Settings, load
from models.profile.model_card import ModelCard
from stack.local import Stack
from stack.state import LOOPBACK, free_ports

EVENTS = 2_000_000
EVENTS_OF_USER, MIN_HOURS = 400, 3  # on average: enough windows for a full history
START_TIMEOUT_S, RUN_TIMEOUT_S = 180.0, 3_000.0
SERVICES = ("kafka", "cassandra")
JOB = "job"


class Peer(NamedTuple):
    """A program of this package."""

    module: str
    requirements: str = ""  # of its environment; "": the product's
    processes: int = 2
    arguments: Callable[[int], list[str]] = lambda processes: [str(processes)]
    is_live: bool = True  # reads on at the end of the topic; otherwise it has one run
    is_exact: bool = True  # its profiles are those of the job


def _addresses(processes: int) -> list[str]:
    return [str(processes), ";".join(f"{LOOPBACK}:{port}" for port in free_ports(processes))]


PEERS = {
    "floor": Peer("floor", is_exact=False),
    "bytewax": Peer("bytewax_flow", "bytewax", arguments=_addresses, is_live=False),
    "bytewax_unchecked": Peer(
        "bytewax_flow",
        "bytewax",
        arguments=lambda processes: [*_addresses(processes), "unchecked"],
        is_live=False,
    ),
}


class Load(NamedTuple):
    """Events that become visible at once, and the profiles that they make."""

    name: str
    workload: Workload
    profiles: int


@dataclass
class Running:
    """A job or a peer that has started and waits for events."""

    settings: Settings
    journal: JournalReader
    check: Callable[[], None]  # raises ServiceError unless it runs
    roots: Mapping[str, int]  # process ids by name
    begin: Callable[[], None] | None = None  # starts what reads the topic only once

    def wait_for_rows(self, rows: int) -> None:
        """Raises ServiceError if it fails, makes more rows, or takes too long."""
        deadline_s = time.monotonic() + RUN_TIMEOUT_S
        while (done := self.journal.update()) < rows:
            self.check()
            if time.monotonic() > deadline_s:
                raise ServiceError(f"{done} of {rows} profiles after {RUN_TIMEOUT_S:.0f} s")
            time.sleep(runs.POLL_S)
        if done > rows:
            raise ServiceError(f"made {done} profiles of {rows}")


def peers(
    events: Events = EVENTS,
    users: Annotated[
        int, typer.Option(min=0, help="0: one for 400 events, so that histories fill.")
    ] = 0,
    repetitions: Repetitions = 1,
    only: Annotated[str, typer.Option(help="Some of the peers, separated by commas.")] = "",
) -> None:
    """Compare the profile pipeline with Bytewax and others, and with a bare loop."""
    names = only.split(",") if only else list(PEERS)
    if unknown := set(names) - set(PEERS):
        raise ConfigError(f"no peer {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    workload = Workload.of(events, users or max(1, events // EVENTS_OF_USER))
    workload = replace(workload, hours=max(MIN_HOURS, workload.hours))

    def measure(stack: Stack) -> dict[str, Any]:
        cut = comparison.users_with_cut_windows(workload, load(**stack.settings()))
        users = comparison.sample(workload.users, cut)
        found, failed = measure_all(stack, workload, names, repetitions, users)
        versions = {PEERS[name].requirements for name in names} - {""}
        return {
            "peer_versions": sorted(map(environments.version, versions)),
            "users_with_cut_windows": len(cut),
            "full_histories": full_histories(workload, load(**stack.settings())),
            "runs": found,
            "failed": failed,
        }

    report_on_stack("peers", workload, measure)


def measure_all(
    stack: Stack,
    workload: Workload,
    names: Sequence[str],
    repetitions: int,
    users: Sequence[str],
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Measures job and peers in turn; returns their runs, and why some could not run.

    users: whose profiles are compared.

    Ratios are those to the job of the same repetition.
    """
    found: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    # The JVMs of Kafka and Cassandra compile in the first runs.
    _measure_peer(stack, "floor", "rehearsal", workload, users)
    for repetition in range(1, repetitions + 1):
        job, profiles = _measure_job(stack, f"{JOB}-{repetition}", workload, users)
        found.append(job)
        for name in names:
            run = f"{name.replace('_', '-')}-{repetition}"
            try:
                result, own_profiles = _measure_peer(stack, name, run, workload, users)
                if PEERS[name].is_exact:
                    result["equal_profiles"] = comparison.require_equal(own_profiles, profiles)
            except LiveprofileError as error:
                failed[name] = str(error)
                runs.log_progress(f"{run}: {error}")
                continue
            found.append(with_ratios(result, job))
    return found, failed


def with_ratios(result: dict[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    """Adds to each figure how often it contains that of the job, cold and warm."""
    loads = [name for name in ("cold", "warm") if name in result]
    figures = ("seconds", "cpu_us_per_event")
    return result | {
        name: result[name]
        | {
            f"to_job_{of}": {
                figure: round(result[name][figure] / job[of][figure], 2) for figure in figures
            }
            for of in ("cold", "warm")
        }
        for name in loads
    }


def _measure_job(
    stack: Stack, name: str, workload: Workload, users: Sequence[str]
) -> tuple[dict[str, Any], Any]:
    runs.log_progress(f"{name}: starting")
    with runs.running_job(stack, "whole", name, None) as job:
        roots = {each: stack.services[each].pid for each in ("jobmanager", "taskmanager")}
        running = Running(job.settings, job.journal, lambda: None, roots)
        measured = _measure(stack, JOB, running, workload, users)
        job.check()
        return measured


def _measure_peer(
    stack: Stack, peer: str, name: str, workload: Workload, users: Sequence[str]
) -> tuple[dict[str, Any], Any]:
    runs.log_progress(f"{name}: starting")
    with (
        runs.own_topics_and_keyspace(stack, "whole", name) as settings,
        tempfile.TemporaryDirectory(prefix="liveprofile-peer-") as folder,
        started(PEERS[peer], settings, runs.config_file(stack, name), Path(folder)) as running,
    ):
        return _measure(stack, peer, running, workload, users)


@contextmanager
def started(peer: Peer, settings: Settings, config: Path, folder: Path) -> Iterator[Running]:
    """Starts the processes of a peer, waits until all are ready, and kills them at the end."""
    python = environments.python_of(peer.requirements) if peer.requirements else sys.executable
    command = [str(python), "-m", f"lab.benchmarks.peers.{peer.module}", str(config)]
    arguments = peer.arguments(peer.processes)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = config.with_suffix(".log")
    with log.open("wb") as output:
        processes = [
            subprocess.Popen(
                [*command, str(number), str(folder), *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            for number in range(peer.processes)
        ]

    def check() -> None:
        if any(process.poll() is not None for process in processes):
            raise ServiceError(f"a process ended: {_last_line(log)}")

    def begin() -> None:
        for process in processes:
            process.stdin.write(b"\n")
            process.stdin.flush()

    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while len(list(folder.glob("ready-*"))) < peer.processes:
            check()
            if time.monotonic() > deadline_s:
                raise ServiceError(f"not ready after {START_TIMEOUT_S:.0f} s: {_last_line(log)}")
            time.sleep(runs.POLL_S)
        roots = {f"peer_{number}": process.pid for number, process in enumerate(processes)}
        journal = JournalReader(folder)
        yield Running(settings, journal, check, roots, None if peer.is_live else begin)
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                family = psutil.Process(process.pid).children(recursive=True)
                for each in (process, *family):
                    with suppress(psutil.NoSuchProcess):
                        each.kill()
            process.wait()
            process.stdin.close()


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "without a word"


def _measure(
    stack: Stack, name: str, running: Running, workload: Workload, users: Sequence[str]
) -> tuple[dict[str, Any], Any]:
    """Measures each load; returns the figures and the users' profiles after the first."""
    result: dict[str, Any] = {"name": name}
    roots = {each: stack.services[each].pid for each in SERVICES} | dict(running.roots)
    done = 0
    for part in loads(workload, running.settings)[: 1 if running.begin else 2]:
        make_visible = send_hidden(running.settings, part.workload)
        if running.begin:
            make_visible()
        time.sleep(runs.SETTLE_S)
        before, batches = cpu_s(roots), running.journal.batches
        start_s = time.time()
        (running.begin or make_visible)()
        done += part.profiles
        running.wait_for_rows(done)
        used = cpu_s(roots)
        used.subtract(before)
        throughput.require_stored(running.settings, done)
        if part.name == "cold":
            profiles = comparison.stored_profiles(running.settings, users)
        seconds = running.journal.last_s - start_s
        result[part.name] = throughput.run_result(
            name, f"{name}, {part.name}", part.workload, part.profiles, seconds
        ) | {
            "cpu_us_per_event": round(used.total() / part.workload.n * 1e6, 1),
            "rows_per_batch": round(part.profiles / (running.journal.batches - batches)),
            "cpu_s": {process: round(spent, 2) for process, spent in used.items()},
            "rss_mb": {each: _rss_mb(pid) for each, pid in running.roots.items()},
        }
    return result, profiles


def loads(workload: Workload, settings: Settings) -> list[Load]:
    """The workload, which finds everything new, and as many events of the time after it."""
    # The heartbeats that close the windows of the first load end a window after it.
    start_ms = workload.end_ms + 2 * settings.window.length_ms
    second = replace(workload, seed=workload.seed + 1, start_ms=start_ms)
    return [
        Load(name, each, each.profiles(settings.window))
        for name, each in (("cold", workload), ("warm", second))
    ]


def full_histories(workload: Workload, settings: Settings) -> float:
    """The share of windows before which their user has as many as the model reads."""
    time_ms, user = workload.times_and_users()
    users, _ = np.unique(np.stack((user, time_ms // settings.window.length_ms)), axis=1)
    read = ModelCard.read(settings.model.checkpoint).recipe["history_windows"]
    return round(float(np.maximum(np.bincount(users) - read, 0).sum() / len(users)), 3)


def _family(pid: int) -> Iterator[tuple[psutil.Process, str]]:
    """A process and its descendants with the names of their programs; "" for itself."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        yield root, ""
        for process in root.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                yield process, process.name()


def cpu_s(roots: Mapping[str, int]) -> Counter[str]:
    """CPU seconds of processes and their descendants, ended ones included, by name and program."""
    used: Counter[str] = Counter()
    for name, pid in roots.items():
        for process, program in _family(pid):
            with suppress(psutil.NoSuchProcess):
                used[f"{name} {program}".strip()] += sum(process.cpu_times()[:4])
    return used


def _rss_mb(pid: int) -> int:
    total = 0
    for process, _ in _family(pid):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return round(total / 1e6)
