"""Read API benchmark: from a request's planned send time until its answer has arrived.

It is open-loop, as latency.py: requests are sent at planned times whether or not earlier
ones are answered, and latency counts from the planned time. The job runs under a constant load at
the same time.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import psutil
import typer
import uvloop

from benchmarks.load.workload import EventSender, Workload, user_id_of
from benchmarks.support import runs
from benchmarks.support.meter import Meter
from benchmarks.support.report import USERS, report_on_stack
from lab.benchmarks.latency import quantiles, send_on_schedule
from liveprofile.errors import ServiceError
from liveprofile.resources import ROOT
from stack.local import Stack

BATCH_USERS = 100
LAST_ANSWER_TIMEOUT_S = 30.0
READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0


class PlannedRequest(NamedTuple):
    at_s: float  # planned send time, seconds from the start
    kind: str  # single, batch
    content: bytes


class Measured(NamedTuple):
    latency_ms: dict[str, list[float]]  # by kind, in order of completion
    sent_late_ms: list[float]
    statuses: dict[str, int]


def plan_requests(
    users: list[str], single_per_s: float, batches_per_s: float, seconds: float, seed: int = 1
) -> list[PlannedRequest]:
    """Requests as two Poisson processes with these rates, in order of their send times."""
    rng = np.random.default_rng(seed)
    planned = []
    for kind, rate, size in (("single", single_per_s, 1), ("batch", batches_per_s, BATCH_USERS)):
        if not rate:
            continue
        times = np.cumsum(rng.exponential(1 / rate, round(1.2 * rate * seconds) + 10))
        for at_s in times[times < seconds].tolist():
            drawn = [users[index] for index in rng.integers(len(users), size=size).tolist()]
            planned.append(PlannedRequest(at_s, kind, request_content(drawn)))
    return sorted(planned)


def request_content(users: list[str]) -> bytes:
    """The bytes of a request for one profile or for several."""
    if len(users) == 1:
        return f"GET /v1/users/{users[0]} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    body = json.dumps({"user_ids": users})
    return (
        "POST /v1/users:batchGet HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


class Connections:
    """Kept connections to one server; a request takes a free one or opens another.

    A complete HTTP client would use more of the machine than the server that is measured.
    """

    def __init__(self, url: str):
        parts = urlsplit(url)
        self._address = (parts.hostname, parts.port)
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self, content: bytes) -> int:
        """Returns the status of the answer, whose body has arrived."""
        streams = await self._take()
        reader, writer = streams
        try:
            writer.write(content)
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
        except BaseException:
            writer.close()
            raise
        self._free.append(streams)
        return int(head[9:12])

    async def _take(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._free:
            reader, writer = self._free.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()  # the server ends what was idle for long
        return await asyncio.open_connection(*self._address)

    async def close(self) -> None:
        for _, writer in self._free:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def run_load(url: str, planned: list[PlannedRequest]) -> Measured:
    """Calls `measure` on an event loop that takes little of the machine from the server."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure(url, planned))


async def measure(url: str, planned: list[PlannedRequest]) -> Measured:
    """Sends the requests at their times and waits for all answers. Raises ServiceError."""
    connections = Connections(url)
    measured = Measured({"single": [], "batch": []}, [], {})
    statuses: Counter[str] = Counter()
    start_s = time.monotonic() + 0.5

    async def send(request: PlannedRequest) -> None:
        try:
            status = str(await connections.send(request.content))
        except (OSError, asyncio.IncompleteReadError) as error:
            status = type(error).__name__
        statuses[status] += 1
        elapsed_ms = (time.monotonic() - start_s - request.at_s) * 1_000
        measured.latency_ms[request.kind].append(elapsed_ms)

    tasks = []
    for request in planned:
        await asyncio.sleep(max(0.0, start_s + request.at_s - time.monotonic()))
        measured.sent_late_ms.append((time.monotonic() - start_s - request.at_s) * 1_000)
        tasks.append(asyncio.create_task(send(request)))
    try:
        async with asyncio.timeout(LAST_ANSWER_TIMEOUT_S):
            await asyncio.gather(*tasks)
    except TimeoutError:
        raise ServiceError(f"requests are unanswered after {LAST_ANSWER_TIMEOUT_S:.0f} s") from None
    finally:
        await connections.close()
    return measured._replace(statuses=dict(statuses))


@contextmanager
def api_process(config: str) -> Iterator[tuple[str, int]]:
    """Yields URL and process id of a `liveprofile serve api` that is ready."""
    options = ["--config", config, "--port", "0", "--json", "--quiet"]
    command = [sys.executable, "-m", "cli", "serve", "api", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            url = json.loads(process.stdout.readline())["url"]
            _wait_until_ready(url)
            yield url, process.pid
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            process.kill()


def _wait_until_ready(url: str) -> None:
    ready = PlannedRequest(0, "single", b"GET /health/ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while run_load(url, [ready]).statuses != {"200": 1}:
        if time.monotonic() > deadline_s:
            raise ServiceError(f"the read API was not ready in {READY_TIMEOUT_S:.0f} s")


def serve(
    single: Annotated[float, typer.Option(min=0)] = 300,
    batches: Annotated[float, typer.Option(min=0)] = 5,
    background: Annotated[float, typer.Option(min=0)] = 1000,
    warm_up: Annotated[float, typer.Option(min=1)] = 60,
    seconds: Annotated[float, typer.Option(min=5)] = 60,
    job_nice: Annotated[int, typer.Option(min=0, max=19)] = 0,
) -> None:
    """Measure the read API's answers at this load and at half of it, while the job runs.

    Options:
    single: Profiles per second, one a request.
    batches: Requests of 100 profiles per second.
    background: Events per second for the job.
    warm_up: Unmeasured seconds per load.
    seconds: Measured seconds per load.
    job_nice: Niceness of the TaskManager and its workers.
    """
    # Events for both loads, and for what starts in between.
    workload = Workload.of(max(1_000, round(background * (2 * (warm_up + seconds) + 120))), USERS)

    def measure_loads(stack: Stack) -> dict[str, Any]:
        # Of all threads of the process: new threads and child processes inherit it.
        for thread in psutil.Process(stack.taskmanager.pid).threads():
            os.setpriority(os.PRIO_PROCESS, thread.id, job_nice)
        loads = serve_loads(stack, workload, background, single, batches, warm_up, seconds)
        return {"job_nice": job_nice, "runs": loads}

    report_on_stack("serve", workload, measure_loads)


def serve_loads(
    stack: Stack,
    workload: Workload,
    background_per_s: float,
    single_per_s: float,
    batches_per_s: float,
    warm_up_s: float,
    seconds: float,
) -> list[dict[str, Any]]:
    """Measures at these rates and at half of them, each after `warm_up_s` of the same load."""
    with runs.running_job(stack, "both-pipelines", "serve", workload) as job:
        _, numbers = workload.warm_up().times_and_users()
        users = [user_id_of(number) for number in np.unique(numbers).tolist()]
        with (
            _background(job.settings, workload, background_per_s),
            api_process(str(runs.config_file(stack, "serve"))) as (url, pid),
        ):
            results = []
            for share in (1.0, 0.5):
                rates = (share * single_per_s, share * batches_per_s)
                runs.log_progress(f"serve: {rates[0]:.0f} profiles/s, {rates[1]:g} batches/s")
                run_load(url, plan_requests(users, *rates, warm_up_s, seed=2))
                with Meter(stack, {"api": pid}) as meter:
                    found = run_load(url, plan_requests(users, *rates, seconds))
                latency_ms = {kind: quantiles(ms) for kind, ms in found.latency_ms.items() if ms}
                results.append(
                    {
                        "single_per_s": rates[0],
                        "batches_per_s": rates[1],
                        "latency_ms": latency_ms,
                        "sent_late_ms": quantiles(found.sent_late_ms),
                        "statuses": found.statuses,
                        **meter.report(),
                    }
                )
        job.check()
    return results


@contextmanager
def _background(settings: Any, workload: Workload, events_per_s: float) -> Iterator[None]:
    """Sends the workload's events at this rate in a thread until the end of the with block."""
    if not events_per_s:
        yield
        return
    messages, stop = list(workload.messages()), threading.Event()
    sender, part = EventSender(settings), max(1, round(events_per_s))

    def send() -> None:
        start_s = time.monotonic()
        for first in range(0, len(messages), part):
            if stop.is_set():
                return
            chunk = messages[first : first + part]
            due_s = np.arange(first, first + len(chunk)) / events_per_s
            send_on_schedule([sender] * len(chunk), chunk, due_s, start_s)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
