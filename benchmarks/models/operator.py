"""The operator's work alone, in one process without Flink: the quick loop for making it faster."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.load.load import Load
from benchmarks.load.rows import batches
from benchmarks.support import runs
from liveprofile.config import Settings, load
from liveprofile.resources import ROOT
from liveprofile.rules.rules import read_rules
from liveprofile.storage.schema import create_schema
from models.profile.inference import ProfileModel
from stack.local import Stack
from udfs.null_sink import NullSink
from udfs.profile.batch import STAGES, ProfileUpdater, Timing
from udfs.profile.sink import ProfileSink, open_profile_sink
from udfs.rules_feed import RulesFeed

STORES = ("none", "cassandra")
WARM_UP_SHARE = 0.1


def operator(root: Path, workload: Load, batch_rows: int, stores: list[str]) -> dict[str, Any]:
    """us a profile by stage for each of `stores`; the first tenth of the batches is not counted."""
    settings = load()
    runs.say(f"packing {workload.n} events")
    prepared = list(batches(workload.messages(), settings, batch_rows))
    model = ProfileModel.load(ROOT / settings.model.checkpoint)
    model.warm_up()
    rules = RulesFeed(read_rules(ROOT / settings.rules))
    gc.freeze()  # as udfs.profile.udf does
    found: dict[str, Any] = {}
    for name in stores:
        with _opened(name, root, model.dim) as store:
            timings: list[Timing] = []
            updater = ProfileUpdater(settings, model, store, rules, timings.append)
            warm_up = int(len(prepared) * WARM_UP_SHARE)
            for batch in prepared[:warm_up]:
                updater.update(batch)
            timings.clear()
            start_cpu_s = time.process_time()
            for batch in prepared[warm_up:]:
                updater.update(batch)
            cpu_s = time.process_time() - start_cpu_s
        found[name] = _summary(timings, cpu_s)
        runs.say(f"store {name}: us a profile {found[name]}")
    return {"batch_rows": batch_rows, "us_per_profile": found}


def _summary(timings: list[Timing], cpu_s: float) -> dict[str, float]:
    """Stages and their sum by the clock; `cpu` is what the process used, whoever else runs."""
    rows = sum(timing.rows for timing in timings)
    stages = {
        stage: sum(getattr(timing, f"{stage}_ms") for timing in timings) / rows * 1000
        for stage in STAGES
    }
    stages |= {"all": sum(stages.values()), "cpu": cpu_s / rows * 1e6}
    return {name: round(us, 1) for name, us in stages.items()}


@contextmanager
def _opened(name: str, root: Path, dim: int) -> Iterator[ProfileSink]:
    if name == "none":
        yield NullSink()
        return
    with _cassandra(root) as settings:
        create_schema(settings.cassandra, dim)
        store = open_profile_sink(settings, dim)
        try:
            yield store
        finally:
            store.close()


@contextmanager
def _cassandra(root: Path) -> Iterator[Settings]:
    """Settings of a Cassandra that runs alone, for the length of the block."""
    with runs.removed(root):
        stack = Stack(root)
        stack.cassandra.start()
        try:
            yield load(**stack.settings())
        finally:
            stack.cassandra.stop()
