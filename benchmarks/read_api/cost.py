"""CPU time of one profile in the read API and in Cassandra, without a job beside them.

`app_us`: the application in this process, from a request as uvicorn passes it on to its answer; the
rows are in memory. `stack_us`: a process of `liveprofile serve api` and Cassandra, at a constant
load. The rows are those that the profile operator makes of generated events.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import psutil
import typer

from benchmarks.load.rows import batches
from benchmarks.load.workload import Workload
from benchmarks.serve import BATCH_USERS, api_process, plan_requests, run_load
from benchmarks.support import environment, runs
from benchmarks.support.command_line import BENCH_ROOT
from benchmarks.support.updater import profile_updater
from liveprofile.resources import ROOT
from liveprofile.settings import ServeSettings, Settings, load
from liveprofile.storage.cql import now_ms
from liveprofile.storage.schema import create_schema
from models.profile.inference import ProfileModel
from serve.app import create_app
from serve.keys import Role, StoredKey, new_key
from serve.store.protocol import RawProfile, Store
from stack.local import Stack, to_toml
from udfs.null_sink import NullSink
from udfs.profile.profile_row import ProfileRow
from udfs.profile.sink import open_profile_sink

EVENTS, USERS, OPERATOR_BATCH_ROWS = 8_000, 2_000, 500
SINGLE_PER_S, BATCHES_PER_S, WARM_UP_S = 200.0, 5.0, 8.0
IN_PROCESS_SINGLES, IN_PROCESS_BATCHES = 4_000, 200


def main(
    root: Annotated[
        Path, typer.Option(help="Folder for the benchmark's own stack; removed at the end.")
    ] = BENCH_ROOT,
    seconds: Annotated[float, typer.Option(min=2, help="Measured seconds per load.")] = 20,
    in_process: Annotated[bool, typer.Option("--in-process", help="Without Cassandra.")] = False,
) -> None:
    """Measure the CPU time per profile, read alone and in a batch of 100."""
    fields = environment.describe()
    settings = load()
    model = ProfileModel.load(ROOT / settings.model.checkpoint)
    rows = operator_rows(settings, model)
    result: dict[str, Any] = {"app_us": app_cost(rows)}
    if not in_process:
        result["stack_us"] = stack_cost(root, rows, model.dim, seconds)
    typer.echo(json.dumps({"benchmark": "api-cost", **fields, **result}))


def operator_rows(settings: Settings, model: ProfileModel) -> list[ProfileRow]:
    """The newest row of each user that the profile operator makes of generated events."""
    newest: dict[str, ProfileRow] = {}

    class Sink(NullSink):
        def write(self, rows: Sequence[ProfileRow]) -> None:
            newest.update((row.user_id, row) for row in rows)

    updater = profile_updater(settings, model, Sink())
    messages = Workload.of(EVENTS, USERS).messages()
    for batch in batches(messages, settings, OPERATOR_BATCH_ROWS):
        updater.update(batch)
    return list(newest.values())


class _StoreInMemory:
    """As much of serve.store.protocol.Store as the measured routes call."""

    def __init__(self, rows: Sequence[ProfileRow], key: StoredKey):
        self._key = key
        self._rows = {
            row.user_id: RawProfile(
                row.user_id,
                row.window_start_ms,
                row.window_end_ms,
                row.model_version,
                row.feature_version,
                row.churn,
                row.expected_spend,
                row.recency_days,
                row.purchases_decayed,
                row.amount_decayed,
                row.events_total,
                tuple(row.segments),
                row.profile.decode(),
            )
            for row in rows
        }

    async def key(self, _key_id: str) -> StoredKey:
        return self._key

    async def profiles(self, user_ids: Sequence[str], _embedding: bool) -> list[RawProfile]:
        return [self._rows[user_id] for user_id in user_ids]


def app_cost(rows: Sequence[ProfileRow]) -> dict[str, float]:
    """us of CPU per profile: alone, and in a batch."""
    key = new_key("benchmark", Role.READER, "benchmark", now_ms(), 3_600)
    settings = ServeSettings(requests_per_s=1e9, burst=1_000_000_000)
    app = create_app(settings, cast(Store, _StoreInMemory(rows, key.stored)))
    headers = [
        (b"host", b"127.0.0.1"),
        (b"authorization", f"Bearer {key.text}".encode()),
        (b"content-type", b"application/json"),
    ]
    users = itertools.cycle([row.user_id for row in rows])

    async def send(method: str, path: str, body: bytes = b"") -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def answer(message: Any) -> None:
            if message.get("status", 200) != 200:
                raise RuntimeError(f"{path} was answered with {message['status']}")

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8070),
        }
        await app(scope, receive, answer)

    async def singles(count: int) -> None:
        for user in itertools.islice(users, count):
            await send("GET", f"/v1/users/{user}")

    async def many(count: int) -> None:
        for _ in range(count):
            ids = list(itertools.islice(users, BATCH_USERS))
            body = json.dumps({"user_ids": ids}).encode()
            await send("POST", "/v1/users:batchGet", body)

    def cpu_us(work: Any, count: int, profiles: int) -> float:
        asyncio.run(work(count // 10))
        start_s = time.process_time()
        asyncio.run(work(count))
        return round((time.process_time() - start_s) * 1e6 / profiles, 1)

    return {
        "single": cpu_us(singles, IN_PROCESS_SINGLES, IN_PROCESS_SINGLES),
        "in_batch": cpu_us(many, IN_PROCESS_BATCHES, IN_PROCESS_BATCHES * BATCH_USERS),
    }


def stack_cost(
    root: Path, rows: Sequence[ProfileRow], dim: int, seconds: float
) -> dict[str, dict[str, float]]:
    """us of CPU per profile of the API's process and of Cassandra: alone, and in a batch."""
    users = [row.user_id for row in rows]
    with runs.started_cassandra(root) as stack:
        settings = load(**stack.settings())
        create_schema(settings.cassandra, dim)
        sink = open_profile_sink(settings, dim)
        sink.write(list(rows))
        sink.flush()
        sink.close()
        config = root / "api.toml"
        config.write_text(to_toml(stack.settings()))
        with api_process(str(config)) as (url, pid):
            processes = {"api": psutil.Process(pid), "cassandra": _cassandra(stack)}
            warm_up = plan_requests(users, SINGLE_PER_S, BATCHES_PER_S, WARM_UP_S, seed=2)
            run_load(url, warm_up)
            found = {}
            for name, single, batch, profiles in (
                ("single", SINGLE_PER_S, 0.0, 1),
                ("in_batch", 0.0, BATCHES_PER_S, BATCH_USERS),
            ):
                planned = plan_requests(users, single, batch, seconds)
                before = {part: _cpu_s(process) for part, process in processes.items()}
                answered = run_load(url, planned)
                if set(answered.statuses) != {"200"}:
                    raise RuntimeError(f"answers: {answered.statuses}")
                found[name] = {
                    part: round((_cpu_s(process) - before[part]) * 1e6 / len(planned) / profiles, 1)
                    for part, process in processes.items()
                }
    return found


def _cassandra(stack: Stack) -> psutil.Process:
    return psutil.Process(stack.cassandra.pid)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    typer.run(main)
