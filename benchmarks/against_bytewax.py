"""The job beside a Bytewax dataflow that does the same work (benchmarks/bytewax_flow.py)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import throughput
from benchmarks.load.load import Load, hold_back
from benchmarks.support import runs
from benchmarks.support.journal import JournalReader
from liveprofile.errors import ConfigError, ServiceError
from liveprofile.resources import ROOT
from stack.local import Stack
from stack.state import LOOPBACK, free_ports

PACKAGE = "bytewax==0.21.1"
PROCESSES = 2
RECOVERY = "recovery"  # folder of the snapshots
TIMEOUT_S = 600.0
SAFE, UNSAFE = "bytewax", "bytewax_unsafe"


def require_bytewax() -> None:
    """Raises ConfigError if it is not installed."""
    if find_spec("bytewax") is None:
        raise ConfigError(f"bytewax is not installed: pip install {PACKAGE}")


def against_bytewax(stack: Stack, workload: Load, repetitions: int) -> dict[str, Any]:
    """The job, the dataflow, and the dataflow without checks and snapshots, in turn."""
    found = throughput.in_turn(
        stack,
        workload,
        repetitions,
        {"whole": throughput.run, SAFE: _run, UNSAFE: _run},
    )
    seconds = {variant: median(one["seconds"] for one in each) for variant, each in found.items()}
    return {
        "bytewax_to_job": round(seconds[SAFE] / seconds["whole"], 2),
        "seconds": seconds,
        "runs": [one for each in found.values() for one in each],
    }


def _run(stack: Stack, variant: str, name: str, workload: Load) -> dict[str, Any]:
    """From when both processes are warm until the last profile is stored."""
    with runs.place(stack, "whole", name) as settings, tempfile.TemporaryDirectory() as folder:
        hold_back(settings, workload)()
        time.sleep(runs.SETTLE_S)
        profiles = workload.profiles(settings.window)
        runs.say(f"{name}: running")
        _wait(_processes(runs.config_file(stack, name), Path(folder), variant == UNSAFE))
        start_s = max(json.loads(one.read_text()) for one in Path(folder).glob("ready-*"))
        journal = JournalReader(Path(folder))
        if (done := journal.update()) != profiles:
            raise ServiceError(f"{name}: {done} profiles where the load makes {profiles}")
        throughput.require_stored(settings, profiles)
    seconds = max(entry.at_s for entry in journal.entries) - start_s
    runs.say(f"{name}: {seconds:.1f} s, {workload.n / seconds:.0f} events/s")
    return {
        "variant": variant,
        "events": workload.n,
        "profiles": profiles,
        "seconds": round(seconds, 2),
        "events_per_s": round(workload.n / seconds),
        "batches": len(journal.entries),
    }


def _processes(config: Path, folder: Path, unsafe: bool) -> list[subprocess.Popen[bytes]]:
    from bytewax._bytewax import init_db_dir  # not installed by default

    if not unsafe:
        (folder / RECOVERY).mkdir()
        init_db_dir(folder / RECOVERY, PROCESSES)
    addresses = ";".join(f"{LOOPBACK}:{port}" for port in free_ports(PROCESSES))
    command = [sys.executable, "-m", "benchmarks.bytewax_flow", str(config)]
    more = ["--unsafe"] if unsafe else []
    return [
        subprocess.Popen([*command, str(number), addresses, str(folder), *more], cwd=ROOT)
        for number in range(PROCESSES)
    ]


def _wait(processes: list[subprocess.Popen[bytes]]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    try:
        for process in processes:
            if process.wait(deadline_s - time.monotonic()):
                raise ServiceError(f"a process of the dataflow ended with {process.returncode}")
    finally:
        for process in processes:
            process.kill()
            process.wait()
