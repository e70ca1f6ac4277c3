"""Profile latency while the user model changes, against the time before, in one run.

The first half of the measured windows close before the first change. From then on the model changes
every few seconds: each worker checks, loads and warms a model while it scores with the other one.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks import latency
from benchmarks.load.workload import Workload
from benchmarks.support import runs
from liveprofile.errors import ServiceError
from liveprofile.resources import product_path
from liveprofile.settings import Settings
from models.profile.model_card import CARD
from stack.local import Stack
from udfs.profile import deployment
from udfs.profile.model_feed import write_user_models

VERSIONS = ("swap-a", "swap-b")


class ModelChanges(threading.Thread):
    """Applies the two copies of the model in turn, every `every_s` from `first_s` on."""

    def __init__(self, settings: Settings, folders: list[Path], first_s: float, every_s: float):
        super().__init__(daemon=True)
        self._settings, self._every_s = settings, every_s
        self._references = [deployment.reference_to(str(folder)) for folder in folders]
        self._first_s = first_s
        self.stopping = threading.Event()
        self.count = 0

    def run(self) -> None:
        models = None
        while not self.stopping.wait(self._every_s if self.count else self._first_s):
            reference = self._references[self.count % len(self._references)]
            models = deployment.apply(models, reference, None, "benchmark")
            write_user_models(self._settings, models)
            self.count += 1

    def close(self) -> None:
        self.stopping.set()
        self.join()


def model_swap(
    stack: Stack, workload: Workload, events_per_s: float, samples: int, every_s: float
) -> dict[str, Any]:
    """Runs the variant `whole` at `events_per_s`. Returns the latencies and the ratio of p99.

    Raises ServiceError if a worker did not change its model.
    """
    sample_plan = latency.plan(stack, workload, events_per_s, samples)
    closes_s = {end_ms: sample_plan.schedule.closes_s[end_ms] for end_ms in sample_plan.sampled}
    first_s = sorted(closes_s.values())[len(closes_s) // 2]
    with runs.running_job(stack, "whole", "model-swap", workload) as job:
        folders = [_copy(job.settings, stack.root, version) for version in VERSIONS]
        changes = ModelChanges(job.settings, folders, first_s, every_s)
        changes.start()
        started_s = time.monotonic()
        try:
            poller, _ = latency.send_and_poll(job, sample_plan)
        finally:
            changes.close()
    # The changes start with the thread, the schedule a moment later.
    first_s -= poller.start_s - started_s
    if missing := set(VERSIONS) - poller.versions:
        raise ServiceError(f"no sampled profile is of model {', '.join(sorted(missing))}")
    groups: dict[bool, list[list[float]]] = {False: [], True: []}
    for end_ms, latency_ms in poller.latency_ms.items():
        groups[closes_s[end_ms] >= first_s].append(latency_ms)
    before, during = latency.quantiles(groups[False]), latency.quantiles(groups[True])
    result = {
        "events_per_s": round(events_per_s),
        "window_wall_ms": round(job.settings.window.length_ms / workload.speed_up(events_per_s)),
        "changes": changes.count,
        "every_s": every_s,
        "windows": {"before": len(groups[False]), "during": len(groups[True])},
        "samples": {"before": _count(groups[False]), "during": _count(groups[True])},
        "latency_ms_before": before,
        "latency_ms_during": during,
        "p99_ratio": round(during["p99"] / before["p99"], 3),
    }
    runs.log_progress(f"model-swap: p99 {before['p99']} ms, during changes {during['p99']} ms")
    return result


def _count(groups: list[list[float]]) -> int:
    return sum(map(len, groups))


def _copy(settings: Settings, folder: Path, version: str) -> Path:
    """Copies the configured model under another version."""
    target = folder / version
    shutil.copytree(product_path(settings.model.checkpoint), target)
    card = json.loads((target / CARD).read_text("utf-8")) | {"version": version}
    (target / CARD).write_text(json.dumps(card), encoding="utf-8")
    return target
