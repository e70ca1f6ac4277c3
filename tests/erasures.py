"""Erases users of a loaded job, with kills in between, and looks for what is left of them.

    python -m tests.erasures --users 5000 --erased 1000 --events-per-s 4700

`liveprofile erase` and a Python worker are killed with -9 in the middle. Passes if the erasures are
done within ten minutes, the audit is clean, all other users equal the reference, nothing of an
erased user is stored, and no SSTable contains a marker of one of them. The tables are not
compressed, and all are compacted, so that the files can be searched as bytes. An id stays as the
key of a tombstone for `gc_grace_seconds` (10 days), so this is 0 for a second search.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from cassandra.cluster import Session

from liveprofile.ingest.replay import closing_time_ms
from liveprofile.storage.connection import open_session
from liveprofile.storage.schema import table_columns
from stack.cassandra import nodetool
from stack.state import free_ports
from tests.support.compare import compare_with_reference
from tests.support.job_under_test import CLI, JobUnderTest, job_on_own_stack, run_cli
from tests.support.streams.seeded import Message
from tests.support.streams.shop import START_MS, shop_events, to_message

WINDOW = {"length_ms": 600_000, "out_of_orderness_ms": 10_000}
STEP_MS = 40  # event time between two events
LIMIT_S = 600.0
TIMEOUT_S = 900.0
MARKED_EVERY = 200  # events
MARKS = ("user", "item", "text", "device", "attribute", "coupon")
PLACE = 71.82818284
# What proves a decision of the user is kept (docs/privacy.md).
KEPT_TABLES = ("erasure", "user_consent")


def marker(seed: int, what: str) -> str:
    return f"marker{seed}{what}zq"


def marked_event(seed: int, number: int, time_ms: int) -> dict[str, Any]:
    return {
        "event_id": f"marked-{number}",
        "user_id": marker(seed, "user"),
        "event_type": "purchase",
        "event_time": time_ms,
        "item_id": marker(seed, "item"),
        "price": 10.0,
        "text": marker(seed, "text"),
        "device_id": marker(seed, "device"),
        "coupon_id": marker(seed, "coupon"),
        "place": {"lat": PLACE, "lon": 11.5},
        "attributes": {"note": marker(seed, "attribute")},
    }


def messages(seed: int, users: int) -> Iterator[tuple[int, Message]]:
    """The time and the message of each event, without end."""
    for number, event in enumerate(shop_events(seed, users, STEP_MS)):
        yield event["event_time"], to_message(event)
        if number % MARKED_EVERY == 0:
            time_ms = event["event_time"]
            yield time_ms, to_message(marked_event(seed, number, time_ms))


class Load:
    """Sends events at a constant rate in a thread."""

    def __init__(self, job: JobUnderTest, stream: Iterator[tuple[int, Message]], per_s: float):
        self._job, self._stream, self._per_s = job, stream, per_s
        self._stop, self._errors = threading.Event(), []
        self._thread = threading.Thread(target=self._send)
        self.sent, self.clock_ms = 0, START_MS

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert not self._errors, self._errors[0]

    def _send(self) -> None:
        producer, topic = self._job.producer(), self._job.settings.topics.events
        started_s = time.monotonic()
        for time_ms, message in self._stream:
            self.clock_ms = time_ms
            producer.produce(
                topic,
                message.value,
                message.key,
                on_delivery=lambda error, _: self._errors.append(error) if error else None,
            )
            self.sent += 1
            if self._stop.is_set():
                break
            ahead_s = started_s + self.sent / self._per_s - time.monotonic()
            producer.poll(max(0.0, ahead_s))
        if producer.flush(TIMEOUT_S):
            self._errors.append("Kafka did not accept the last records")


def wait_for_profile(session: Session, user: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not list(session.execute("SELECT user_id FROM user_profile WHERE user_id = %s", (user,))):
        assert time.monotonic() < deadline_s, "no window was stored"
        time.sleep(1.0)


def kill_while_erasing(job: JobUnderTest, file: Path, after: int) -> int:
    """Starts `erase`, kills it after so many users; returns how many it has reported."""
    command = [str(CLI), "erase", "--file", str(file), "--json", "--config", str(job.config_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        reported = sum(1 for _ in itertools.islice(process.stdout, after))
        process.kill()
    return reported


def go_on_until_done(job: JobUnderTest, deadline_s: float) -> int:
    """Runs `erase --pending` until nothing is pending; returns how often."""
    for runs in itertools.count(1):
        run_cli("erase", "--pending", "--json", "--config", job.config_file, ok=False)
        status = run_cli("erase", "--status", "--json", "--config", job.config_file, ok=False)
        if status.returncode == 0:
            return runs
        assert time.monotonic() < deadline_s, "the erasures are not done in time"
    raise AssertionError


def alter_all(session: Session, option: str) -> None:
    for table in table_columns():
        session.execute(f"ALTER TABLE {table} WITH {option}")


def files_with(folder: Path, found: Callable[[bytes], list[str]]) -> dict[str, list[str]]:
    """By the name of a file's folder, what is found in it."""
    hits: dict[str, set[str]] = {}
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if file.is_file() and (what := found(file.read_bytes())):
                name = file.parent.name.split("-")[0]
                hits.setdefault(name, set()).update(what)
    return {name: sorted(what) for name, what in sorted(hits.items())}


def search(job: JobUnderTest, jmx_port: int, seed: int) -> dict[str, list[str]]:
    """The markers in the SSTables of each table, after a flush and a compaction."""
    keyspace = job.settings.cassandra.keyspace
    nodetool(jmx_port, "flush", keyspace)
    nodetool(jmx_port, "compact", keyspace)
    texts = {what: marker(seed, what).encode() for what in MARKS} | {"place": str(PLACE).encode()}
    folder = job.stack.cassandra.folder / "data" / "data" / keyspace
    assert folder.is_dir(), folder
    return files_with(folder, lambda data: [what for what, text in texts.items() if text in data])


def run_erasures(users: int, erased: int, per_s: float, warm_up_s: float) -> dict[str, Any]:
    """Raises AssertionError if the job or an erasure does not end in time."""
    seed, [jmx_port] = 17, free_ports(1)
    # All services of the stack inherit it; only Cassandra reads it.
    os.environ["JAVA_TOOL_OPTIONS"] = f"-Dcassandra.jmx.local.port={jmx_port}"
    gone = [f"user-{number}" for number in random.Random(seed).sample(range(users), erased - 1)]
    gone.append(marker(seed, "user"))
    with (
        tempfile.TemporaryDirectory() as folder,
        job_on_own_stack("erasures", {"window": WINDOW}) as job,
        open_session(job.settings.cassandra) as session,
    ):
        (file := Path(folder) / "users.txt").write_text("\n".join(gone))
        alter_all(session, "compression = {'enabled': false}")
        with Load(job, messages(seed, users), per_s) as load:
            time.sleep(warm_up_s)
            wait_for_profile(session, marker(seed, "user"))
            before = search(job, jmx_port, seed)
            assert {"user", "item"} <= set(itertools.chain(*before.values())), before
            started_s = time.monotonic()
            reported = kill_while_erasing(job, file, erased // 2)
            job.stack.taskmanager.newest_worker().kill()
            runs = go_on_until_done(job, started_s + TIMEOUT_S)
            seconds = time.monotonic() - started_s
        job.send_heartbeats(closing_time_ms(load.clock_ms, job.settings.window))
        job.wait_until_caught_up(TIMEOUT_S)
        go_on_until_done(job, time.monotonic() + TIMEOUT_S)
        audit = job.audit()
        comparison = compare_with_reference(job.settings, gone=frozenset(gone))
        with_tombstones = search(job, jmx_port, seed)
        alter_all(session, "gc_grace_seconds = 0")
        time.sleep(2.0)  # a tombstone is older than the grace from the next second on
        after = search(job, jmx_port, seed)
        state = job.state()
    left = {table: found for table, found in after.items() if table not in KEPT_TABLES}
    content = {
        table: [what for what in found if what != "user"]
        for table, found in with_tombstones.items()
    }
    return {
        "ok": bool(
            audit["ok"]
            and comparison.ok
            and comparison.job == comparison.reference
            and not left
            and not any(content.values())
            and seconds < LIMIT_S
            and state == "RUNNING"
        ),
        "users": users,
        "erased": len(gone),
        "events": load.sent,
        "events_per_s": per_s,
        "erased_when_killed": reported,
        "runs": runs,
        "erasures_s": round(seconds, 1),
        "audit": audit,
        "comparison": comparison.as_json(),
        "markers_before": before,
        "markers_with_tombstones": with_tombstones,
        "markers_after": after,
    }


def main(
    users: Annotated[int, typer.Option(help="Users with events.", min=10)] = 5_000,
    erased: Annotated[int, typer.Option(help="Users who are erased.", min=4)] = 1_000,
    events_per_s: Annotated[float, typer.Option(help="Load; half of the job's.", min=1)] = 4_700.0,
    warm_up_s: Annotated[float, typer.Option(help="Load before the erasures.", min=10)] = 60.0,
) -> None:
    """Erases users of a loaded job, with kills in between. Prints one line of JSON."""
    result = run_erasures(users, erased, events_per_s, warm_up_s)
    typer.echo(json.dumps(result))
    raise typer.Exit(0 if result["ok"] else 1)


if __name__ == "__main__":
    typer.run(main)
