"""Measures rows per second of `ProfileModel.score` on prepared batches, for several variants.

The modes are one thread, two threads, and two processes with one thread each, as in the job. In
each round all variants score the same rows one after the other, so other load of the machine
affects all of them. `ratio` is the median over the rounds of a variant's speed divided by the first
variant's speed in the same round. CPU time is that of the variant's processes.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import torch

from benchmarks.support import runs
from lab.benchmarks.model_inputs import MODEL_ROWS, model_inputs
from liveprofile.errors import InputError, ServiceError
from liveprofile.wire import training_rows as schema
from liveprofile.wire.window_events import load, parse
from tests.support.rows.profile_input import UserHistory, batch_of
from udfs.pipeline_udf import collect_rarely
from udfs.profile.batch import ProfileBatch

SIZES = (64, 256, 512, 1_000)  # rows per batch
# mode -> (processes, threads per process)
MODES = {"1 thread": (1, 1), "2 threads": (1, 2), "2 processes": (2, 1)}
SEED = 20171001


class ScoreTiming(NamedTuple):
    """The time that one process needed for its rows."""

    rows: int
    wall_s: float
    cpu_s: float


def speed(
    folders: list[Path], names: list[str], kinds: dict[str, ProfileBatch], repeats: int
) -> dict[str, dict[str, Any]]:
    """Returns the summary by variant, "mode, kind of rows" and rows per batch.

    The first name is the reference.
    """
    timings: dict[str, dict[str, dict[int, list[list[ScoreTiming]]]]] = {name: {} for name in names}
    with _workers(folders, kinds) as workers:
        for repeat in range(repeats):
            runs.log_progress(f"timing, round {repeat + 1} of {repeats}")
            first = repeat % len(names)
            for mode, kind, size in (
                (mode, kind, size) for mode in MODES for kind in kinds for size in SIZES
            ):
                # Each round starts with another variant: the first finds cold caches.
                for name in [*names[first:], *names[:first]]:
                    timings_by_size = timings[name].setdefault(f"{mode}, {kind}", {})
                    timings_by_size.setdefault(size, []).append(
                        _request_timings(workers[mode], (name, kind, size))
                    )
    return {
        name: {
            mode_and_kind: {
                size: summary(process_timings, timings[names[0]][mode_and_kind][size])
                for size, process_timings in sizes.items()
            }
            for mode_and_kind, sizes in timings_by_mode.items()
        }
        for name, timings_by_mode in timings.items()
    }


def summary(
    rounds: list[list[ScoreTiming]], reference: list[list[ScoreTiming]]
) -> dict[str, float]:
    """Medians over the rounds. A round has one timing per process; they run at the same time."""
    rows = sum(timing.rows for timing in rounds[0])
    wall_s, reference_s = (
        np.array(
            [
                max(timing.wall_s for timing in process_timings)
                for process_timings in timings_by_round
            ]
        )
        for timings_by_round in (rounds, reference)
    )
    cpu_s, reference_cpu_s = (
        np.array(
            [
                sum(timing.cpu_s for timing in process_timings)
                for process_timings in timings_by_round
            ]
        )
        for timings_by_round in (rounds, reference)
    )
    return {
        "rows_per_s": round(rows / float(np.median(wall_s))),
        "ratio": round(float(np.median(reference_s / wall_s)), 3),
        "cpu_us_per_row": round(float(np.median(cpu_s)) / rows * 1e6, 1),
        "cpu_ratio": round(float(np.median(reference_cpu_s / cpu_s)), 3),
    }


@contextmanager
def _workers(
    folders: list[Path], kinds: dict[str, ProfileBatch]
) -> Iterator[dict[str, list[Connection]]]:
    """Starts warmed-up worker processes; yields the connections by mode."""
    context = multiprocessing.get_context("spawn")
    processes, workers = [], {}
    try:
        for mode, (count, threads) in MODES.items():
            workers[mode] = []
            for _ in range(count):
                own_end, worker_end = context.Pipe()
                arguments = (worker_end, folders, kinds, threads)
                processes.append(
                    context.Process(target=_serve_timings, args=arguments, daemon=True)
                )
                processes[-1].start()
                worker_end.close()
                workers[mode].append(own_end)
        for connections in workers.values():
            _receive_all(connections)
        yield workers
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _request_timings(workers: list[Connection], request: tuple[str, str, int]) -> list[ScoreTiming]:
    for worker in workers:
        worker.send(request)
    return _receive_all(workers)


def _receive_all(workers: list[Connection]) -> list[Any]:
    try:
        return [worker.recv() for worker in workers]
    except EOFError:
        raise ServiceError("a benchmark process has died; see its error above") from None


def _serve_timings(
    connection: Connection, folders: list[Path], kinds: dict[str, ProfileBatch], threads: int
) -> None:
    """Main function of a worker process: scores the requested rows and sends the timing."""
    from lab.user_model.variant import variants

    torch.set_num_threads(threads)
    served = {name: variant.served for name, variant in variants(folders).items()}
    decay_days = next(iter(served.values())).decay_days
    read = {
        (kind, size): [
            model_inputs(
                ProfileBatch(*(column[first : first + size] for column in rows)), decay_days
            )
            for first in range(0, MODEL_ROWS - size + 1, size)
        ]
        for kind, rows in kinds.items()
        for size in SIZES
    }
    for model in served.values():
        model.warm_up()
        for kind in kinds:
            model.score(*read[kind, SIZES[-1]][0])
    collect_rarely()  # as the operator does
    connection.send("ready")
    while True:
        name, kind, size = connection.recv()
        model, timings_by_round, scored = served[name], read[kind, size], 0
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        for batch in timings_by_round:
            scored += len(model.score(*batch).surprise)
        timings = ScoreTiming(
            scored, time.perf_counter() - start_s, time.process_time() - start_cpu_s
        )
        connection.send(timings)


def recorded_rows(rows_path: Path, after_ms: int, until_ms: int) -> ProfileBatch:
    """Draws MODEL_ROWS rows of a backfill with windows that end in (after_ms, until_ms], by time.

    A backfill has no histories: they are made of the user's earlier rows. Raises InputError for
    files without the columns of a backfill.
    """
    end_ms = ds.field("window_end_ms")
    try:
        rows = ds.dataset(rows_path, format="parquet")
        table = rows.to_table(schema.PROFILE.names, (end_ms > after_ms) & (end_ms <= until_ms))
        drawn = np.random.default_rng(SEED).permutation(len(table))[:MODEL_ROWS]
        ordered = table.take(drawn).sort_by("window_end_ms")
        of_users = ds.field("user_id").isin(pc.unique(ordered["user_id"]))
        earlier = rows.to_table(
            ["user_id", "window_end_ms", "events"], of_users & (end_ms <= until_ms)
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"rows {rows_path}: {str(error).splitlines()[0]}") from None
    *columns, added, sums, tiles = (column.to_pylist() for column in ordered.columns)
    made = _histories(earlier.sort_by("window_end_ms"))
    of_rows = (made[key] for key in zip(columns[0], columns[2], strict=True))
    made_columns = zip(*of_rows, strict=True)
    return batch_of(list(zip(*columns, *made_columns, added, sums, tiles, strict=True)))


def _histories(rows: pa.Table) -> dict[tuple[str, int], tuple[str, str]]:
    """History and purchases after each window, by user and window end. `rows`: in order of time."""
    users: dict[str, UserHistory] = defaultdict(UserHistory)
    columns = (rows[name].to_pylist() for name in rows.column_names)
    return {
        (user_id, end_ms): users[user_id].add_window(
            [load(event.payload) | {"event_time": event.time_ms} for event in parse(events)], end_ms
        )
        for user_id, end_ms, events in zip(*columns, strict=True)
    }
