"""Times the profile operator alone, in one process without Flink."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.load.rows import batches, profile_updater
from benchmarks.load.workload import Workload
from benchmarks.support import runs
from liveprofile.resources import ROOT
from liveprofile.settings import load
from liveprofile.storage.schema import create_schema
from models.profile.inference import ProfileModel
from udfs.profile.batch import STAGES, ProfileBatchTiming
from udfs.profile.sink import NullSink, ProfileSink, open_profile_sink
from udfs.worker import collect_rarely

WARM_UP_SHARE = 0.1


def operator(root: Path, workload: Workload, batch_rows: int, stores: list[str]) -> dict[str, Any]:
    """us per profile by stage, for each of `stores`. The first tenth of the batches is warm-up."""
    settings = load()
    runs.log_progress(f"preparing rows of {workload.n} events")
    prepared = list(batches(workload.messages(), settings, batch_rows))
    model = ProfileModel.load(ROOT / settings.model.checkpoint)
    model.warm_up()
    collect_rarely()  # as udfs.profile.udf does
    us_per_profile: dict[str, Any] = {}
    for name in stores:
        with _open_sink(name, root, model.dim) as store:
            timings: list[ProfileBatchTiming] = []
            updater = profile_updater(settings, model, store, timings.append)
            warm_up = int(len(prepared) * WARM_UP_SHARE)
            for batch in prepared[:warm_up]:
                updater.update(batch)
            timings.clear()
            start_cpu_s = time.process_time()
            for batch in prepared[warm_up:]:
                updater.update(batch)
            cpu_s = time.process_time() - start_cpu_s
        us_per_profile[name] = _summary(timings, cpu_s)
        runs.log_progress(f"store {name}: us per profile {us_per_profile[name]}")
    return {"batch_rows": batch_rows, "us_per_profile": us_per_profile}


def _summary(timings: list[ProfileBatchTiming], cpu_s: float) -> dict[str, float]:
    """Wall-clock us per profile by stage and in total (`all`), and CPU time (`cpu`)."""
    rows = sum(timing.rows for timing in timings)
    stages = {
        stage: sum(getattr(timing, f"{stage}_ms") for timing in timings) / rows * 1000
        for stage in STAGES
    }
    stages |= {"all": sum(stages.values()), "cpu": cpu_s / rows * 1e6}
    return {name: round(us, 1) for name, us in stages.items()}


@contextmanager
def _open_sink(name: str, root: Path, dim: int) -> Iterator[ProfileSink]:
    if name == "none":
        yield NullSink()
        return
    with runs.started_cassandra(root) as stack:
        settings = load(**stack.settings())
        create_schema(settings.cassandra, dim)
        store = open_profile_sink(settings, dim)
        try:
            yield store
        finally:
            store.close()
