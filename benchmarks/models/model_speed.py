"""Rows a second of `ProfileModel.score` on batches that were read beforehand, variants in turn.

With one thread, with two, and in two processes of one thread each, which is how the job runs. In
each round every variant scores the same rows, one after the other, so that what else the machine
does strikes all of them; `ratio` is the median over the rounds of how many times as fast as the
first variant one was in the same round. CPU time is what a variant's processes used.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import torch

from benchmarks.load.load import Load
from benchmarks.load.rows import batches
from benchmarks.support import runs
from liveprofile.config import load
from liveprofile.errors import InputError, ServiceError
from liveprofile.events.window import read_windows
from liveprofile.wire.token_columns import TokenColumns, read_histories
from udfs.profile import assemble
from udfs.profile.batch import Batch

SIZES = (64, 256, 512, 1_000)  # rows of a batch
ROWS = 2_048  # scored for a figure, or as many whole batches as they make
MODES = {"1 thread": (1, 1), "2 threads": (1, 2), "2 processes": (2, 1)}  # processes, threads each
SEED = 20171001

Inputs = tuple[TokenColumns, TokenColumns, np.ndarray, np.ndarray]  # of ProfileModel.score


class Took(NamedTuple):
    """What one process took for its rows."""

    rows: int
    wall_s: float
    cpu_s: float


def speed(
    folders: list[Path], names: list[str], kinds: dict[str, Batch], repeats: int
) -> dict[str, dict[str, Any]]:
    """By variant, way (mode and kind of rows) and rows of a batch; the first name is the
    reference."""
    took: dict[str, dict[str, dict[int, list[list[Took]]]]] = {name: {} for name in names}
    with _workers(folders, kinds) as workers:
        for repeat in range(repeats):
            runs.say(f"timing, round {repeat + 1} of {repeats}")
            first = repeat % len(names)
            for mode, kind, size in (
                (mode, kind, size) for mode in MODES for kind in kinds for size in SIZES
            ):
                # Another one begins each round: the rows before have left nothing in the caches.
                for name in [*names[first:], *names[:first]]:
                    of_way = took[name].setdefault(f"{mode}, {kind}", {})
                    of_way.setdefault(size, []).append(_ask(workers[mode], (name, kind, size)))
    return {
        name: {
            way: {size: summary(them, took[names[0]][way][size]) for size, them in sizes.items()}
            for way, sizes in ways.items()
        }
        for name, ways in took.items()
    }


def summary(rounds: list[list[Took]], reference: list[list[Took]]) -> dict[str, float]:
    """Medians over the rounds; all processes of one take part at once."""
    rows = sum(one.rows for one in rounds[0])
    wall_s, reference_s = (
        np.array([max(one.wall_s for one in them) for them in part]) for part in (rounds, reference)
    )
    cpu_s, reference_cpu_s = (
        np.array([sum(one.cpu_s for one in them) for them in part]) for part in (rounds, reference)
    )
    return {
        "rows_per_s": round(rows / float(np.median(wall_s))),
        "ratio": round(float(np.median(reference_s / wall_s)), 3),
        "cpu_us_per_row": round(float(np.median(cpu_s)) / rows * 1e6, 1),
        "cpu_ratio": round(float(np.median(reference_cpu_s / cpu_s)), 3),
    }


def generated(workload: Load) -> Batch:
    """The last rows of a load."""
    every = zip(*batches(workload.messages(), load(), ROWS), strict=True)
    return _batch([list(chain.from_iterable(column))[-ROWS:] for column in every])


def recorded(rows_path: Path, after_ms: int, until_ms: int) -> Batch:
    """Rows of a backfill whose windows end in (after, until], drawn evenly, in order of time.

    Raises InputError for files without histories and for none that end then.
    """
    end_ms = ds.field("window_end_ms")
    try:
        found = ds.dataset(rows_path, format="parquet").to_table(
            list(Batch._fields), (end_ms > after_ms) & (end_ms <= until_ms)
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"rows {rows_path}: {str(error).splitlines()[0]}") from None
    drawn = np.random.default_rng(SEED).permutation(len(found))[:ROWS]
    ordered = found.take(drawn).sort_by("window_end_ms")
    return _batch([column.to_pylist() for column in ordered.columns])


def _batch(columns: list[list[Any]]) -> Batch:
    user_id, start_ms, end_ms, events, history, added, sums = columns
    start_ms, end_ms, added, sums = map(np.array, (start_ms, end_ms, added, sums))
    return Batch(user_id, start_ms, end_ms, events, history, added, sums)


def inputs(batch: Batch, decay_days: float) -> Inputs:
    """What the operator hands to the model; rows without a usable event are left out."""
    windows, kept, _ = read_windows(batch.events)
    start_ms, end_ms = batch.window_start_ms[kept], batch.window_end_ms[kept]
    sides = assemble.read_baselines(
        batch.added[kept], batch.sums[kept], start_ms, end_ms, decay_days
    )
    histories = read_histories([batch.history[row] for row in kept])
    users = [batch.user_id[row] for row in kept]
    rows = assemble.Inputs(users, start_ms, end_ms, windows, histories, *sides)
    return histories.tokens, windows.tokens, *assemble.numbers(rows)


@contextmanager
def _workers(folders: list[Path], kinds: dict[str, Batch]) -> Iterator[dict[str, list[Connection]]]:
    """Processes for each mode, warm."""
    context = multiprocessing.get_context("spawn")
    processes, workers = [], {}
    try:
        for mode, (count, threads) in MODES.items():
            workers[mode] = []
            for _ in range(count):
                ours, theirs = context.Pipe()
                arguments = (theirs, folders, kinds, threads)
                processes.append(context.Process(target=_work, args=arguments, daemon=True))
                processes[-1].start()
                theirs.close()
                workers[mode].append(ours)
        for connections in workers.values():
            _received(connections)
        yield workers
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _ask(workers: list[Connection], what: tuple[str, str, int]) -> list[Took]:
    for worker in workers:
        worker.send(what)
    return _received(workers)


def _received(workers: list[Connection]) -> list[Any]:
    try:
        return [worker.recv() for worker in workers]
    except EOFError:
        raise ServiceError("a process of the benchmark has died; its error stands above") from None


def _work(
    connection: Connection, folders: list[Path], kinds: dict[str, Batch], threads: int
) -> None:
    """In a process of its own: scores what it is asked for."""
    from benchmarks.models.variant import variants

    torch.set_num_threads(threads)
    served = {name: variant.served for name, variant in variants(folders).items()}
    decay_days = next(iter(served.values())).decay_days
    read = {
        (kind, size): [
            inputs(Batch(*(column[first : first + size] for column in rows)), decay_days)
            for first in range(0, ROWS - size + 1, size)
        ]
        for kind, rows in kinds.items()
        for size in SIZES
    }
    for model in served.values():
        model.warm_up()
        for kind in kinds:
            model.score(*read[kind, SIZES[-1]][0])
    gc.collect()
    gc.freeze()  # as the operator does
    connection.send("ready")
    while True:
        name, kind, size = connection.recv()
        model, part, scored = served[name], read[kind, size], 0
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        for batch in part:
            scored += len(model.score(*batch).surprise)
        took = Took(scored, time.perf_counter() - start_s, time.process_time() - start_cpu_s)
        connection.send(took)
