"""Describes the environment of a measurement: hardware, versions, date and commit."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from liveprofile.flink.jars import JARS
from liveprofile.resources import ROOT


def describe() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "hardware": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        },
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": {
            "python": platform.python_version(),
            "flink": version("apache-flink"),
            "torch": version("torch"),
            "kafka": _jar_version("kafka", "kafka_2.13"),
            "cassandra": _jar_version("cassandra", "cassandra-all"),
        },
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _jar_version(service: str, artifact: str) -> str:
    names = [
        jar.stem.removeprefix(f"{artifact}-") for jar in (JARS / service).glob(f"{artifact}-*")
    ]
    return names[0] if names else "unknown"


def _commit() -> str:
    """The commit, with "+" if tracked files have changed; "unknown" outside a git repository."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
