"""Compares the job with a Bytewax dataflow that does the same work (bytewax_flow.py)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks import throughput
from benchmarks.load.workload import Workload, send_hidden
from benchmarks.support import runs
from benchmarks.support.journal import JournalReader
from benchmarks.support.report import (
    EVENTS,
    REPETITIONS,
    USERS,
    Events,
    Repetitions,
    Users,
    report_on_stack,
)
from liveprofile.errors import ConfigError, ServiceError
from liveprofile.resources import ROOT
from stack.local import Stack
from stack.state import LOOPBACK, free_ports

PACKAGE = "bytewax==0.21.1"
PROCESSES = 2
RECOVERY = "recovery"  # folder of the snapshots
TIMEOUT_S = 600.0
BYTEWAX, BYTEWAX_UNSAFE = "bytewax", "bytewax_unsafe"


def bytewax(
    events: Events = EVENTS, users: Users = USERS, repetitions: Repetitions = REPETITIONS
) -> None:
    """Compare the profile pipeline with the same work in Bytewax, which must be installed."""
    if find_spec("bytewax") is None:
        raise ConfigError(f"bytewax is not installed: pip install {PACKAGE}")
    workload = Workload.of(events, users)

    def measure(stack: Stack) -> dict[str, Any]:
        variants = {"whole": throughput.measure_run, BYTEWAX: _run, BYTEWAX_UNSAFE: _run}
        results = throughput.run_variants(stack, workload, repetitions, variants)
        seconds = throughput.medians_of(results, "seconds")
        return {
            "bytewax_to_job": round(seconds[BYTEWAX] / seconds["whole"], 2),
            "seconds": seconds,
            "runs": list(chain.from_iterable(results.values())),
        }

    report_on_stack("bytewax", workload, measure)


def _run(stack: Stack, variant: str, name: str, workload: Workload) -> dict[str, Any]:
    """Measures the dataflow from when both processes are warm until the last profile is stored."""
    with (
        runs.own_topics_and_keyspace(stack, "whole", name) as settings,
        tempfile.TemporaryDirectory() as folder,
    ):
        send_hidden(settings, workload)()
        time.sleep(runs.SETTLE_S)
        profiles = workload.profiles(settings.window)
        runs.log_progress(f"{name}: running")
        _wait_for(
            _start_processes(runs.config_file(stack, name), Path(folder), variant == BYTEWAX_UNSAFE)
        )
        start_s = max(json.loads(file.read_text()) for file in Path(folder).glob("ready-*"))
        journal = JournalReader(Path(folder))
        if (done := journal.update()) != profiles:
            raise ServiceError(f"{name}: made {done} profiles, the workload has {profiles}")
        throughput.require_stored(settings, profiles)
    seconds = journal.last_s - start_s
    return throughput.run_result(variant, name, workload, profiles, seconds)


def _start_processes(config: Path, folder: Path, unsafe: bool) -> list[subprocess.Popen[bytes]]:
    from bytewax._bytewax import init_db_dir  # not installed by default

    if not unsafe:
        (folder / RECOVERY).mkdir()
        init_db_dir(folder / RECOVERY, PROCESSES)
    addresses = ";".join(f"{LOOPBACK}:{port}" for port in free_ports(PROCESSES))
    command = [sys.executable, "-m", "lab.benchmarks.bytewax_flow", str(config)]
    options = ["--unsafe"] if unsafe else []
    return [
        subprocess.Popen([*command, str(number), addresses, str(folder), *options], cwd=ROOT)
        for number in range(PROCESSES)
    ]


def _wait_for(processes: list[subprocess.Popen[bytes]]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    try:
        for process in processes:
            if process.wait(deadline_s - time.monotonic()):
                raise ServiceError(f"a dataflow process ended with code {process.returncode}")
    finally:
        for process in processes:
            process.kill()
            process.wait()
