"""Erases users of a loaded job, with kills in between, and looks for what is left of them.

Events of some erased users have texts that occur nowhere else, in every field.
`liveprofile privacy erase` is killed with -9 twice and goes on with `--pending`. A Python worker or
the TaskManager is, too, as the seed decides.
Passes if the erasures are done within ten minutes, the audit is clean, all other users equal the
reference, and the texts are found where docs/privacy.md says that they stay, and nowhere else:

- the SSTables of all tables, searched as bytes. They are not compressed, and all are compacted. An
  id stays as the key of a tombstone for `gc_grace_seconds`, so this is 0 for a second search;
- the training rows of a backfill of the topic;
- all topics. Nothing that the job has sent since the erasure may be about an erased user;
- the files of a savepoint after the erasure, and of one after the state's limit, up to which a few
  events of other users arrive.

A search before the erasure finds them all, so it can find them.
"""

from __future__ import annotations

import itertools
import os
import random
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cassandra.cluster import Session

from cli.doctor.checks import MERGE_OPTION
from liveprofile.feeds.users import read_erasures
from liveprofile.flink.rest import take_savepoint
from liveprofile.ingest.replay import closing_time_ms
from liveprofile.kafka.records import Record, read_topic
from liveprofile.rows import TABLES
from liveprofile.settings import TOPICS
from liveprofile.storage.connection import open_session
from liveprofile.units import SECOND_MS
from liveprofile.wire.user_records import key_of
from stack.cassandra import nodetool
from stack.state import free_ports
from tests.chaos.markers import (
    MARKS,
    files_with,
    marked_event,
    marker,
    marks_of,
    records_with,
    rows_with,
)
from tests.support.compare import compare_with_reference
from tests.support.job_under_test import JobUnderTest, job_on_own_stack, sending
from tests.support.streams.seeded import Message
from tests.support.streams.shop import START_MS, shop_events, to_message
from tests.support.summary import say
from tests.support.waiting import until

WINDOW = {"length_ms": 600_000, "out_of_orderness_ms": 10_000}
STEP_MS = 40  # event time between two events
LIMIT_S = 600.0
TIMEOUT_S = 900.0
TIMERS_S = 15.0  # until timers that are due have run
# Files of RocksDB with entries whose time to live is over are merged at this age, while events
# arrive: here sooner than a cluster's day, and with few events.
MERGED_AFTER_S = 30
TRICKLE_PER_S, TRICKLE_STEP_MS = 10.0, 1_000
MARKED_EVERY = 200  # events
KNOWN_S = 5.0  # after an erasure: the workers know of it
# What proves a decision of the user is kept (docs/privacy.md).
KEPT_TABLES = ("erasure", "user_consent")
# Records that others send are kept as they were sent until the topic's limit.
AS_SENT_TOPICS = ("events", "late", "erasures")
# Flink's state has them in open windows only (docs/privacy.md).
OPEN_WINDOWS_ONLY = {"text", "attribute", "place"}
# The key of counts of windows, which stay for an hour more (docs/privacy.md).
COUNTED_LONGER = {"user"}


class Clock:
    """The time of the last event that was taken to be sent."""

    ms = START_MS

    def messages(self, events: Iterable[dict[str, Any]]) -> Iterator[Message]:
        for event in events:
            self.ms = event["event_time"]
            yield to_message(event)


def marked_events(seed: int, users: int) -> Iterator[dict[str, Any]]:
    """Without end; some are of the user with the marks."""
    for number, event in enumerate(shop_events(seed, users, STEP_MS)):
        yield event
        if number % MARKED_EVERY == 0:
            yield marked_event(seed, number, event["event_time"])


def trickle(users: int, start_ms: int) -> Iterator[Message]:
    """A few events of other users, so that the job is not idle."""
    for event in shop_events(users, users, TRICKLE_STEP_MS, start_ms):
        yield to_message(event | {"user_id": f"later-{event['user_id']}"})


def wait_for_profile(session: Session, user: str) -> None:
    select = "SELECT user_id FROM user_profile WHERE user_id = %s"
    until(lambda: list(session.execute(select, (user,))), TIMEOUT_S, poll_s=1.0)


def kill_after(
    job: JobUnderTest, arguments: Sequence[str | Path], due: Callable[[Iterable[str]], Any]
) -> Any:
    """Starts `erase`, kills it when `due` returns; returns what it returns."""
    with job.start("privacy", "erase", *arguments, "--json") as process:
        result = due(process.stdout)
        process.kill()
    return result


def wait_until_sent(job: JobUnderTest, users: int) -> None:
    until(lambda: len(read_erasures(job.settings)) >= users, TIMEOUT_S, poll_s=0.5)


def erase_with_kills(job: JobUnderTest, file: Path, killed: str, users: int) -> int:
    """Erases the users of a file; returns how often `erase` ran after the first run."""
    started_s = time.monotonic()
    kill_after(job, ["--file", file], lambda _: wait_until_sent(job, users))
    say("killed erase while it deletes the first rows")
    if killed == "worker":
        job.stack.taskmanager.newest_worker().kill()
    else:
        job.stack.taskmanager.kill()
        job.stack.start()
    say(f"killed the {killed}")
    after = users // 2
    reported = kill_after(
        job, ["--pending"], lambda out: sum(1 for _ in itertools.islice(out, after))
    )
    say(f"killed erase --pending after {reported} users")
    return go_on_until_done(job, started_s + TIMEOUT_S)


def go_on_until_done(job: JobUnderTest, deadline_s: float) -> int:
    """Runs `erase --pending` until nothing is pending; returns how often."""
    for runs in itertools.count(1):
        job.cli("privacy", "erase", "--pending", "--json", ok=False)
        status = job.cli("privacy", "erase", "--status", "--json", ok=False)
        if status.returncode == 0:
            return runs
        assert time.monotonic() < deadline_s, "the erasures are not done in time"
    raise AssertionError


def alter_all(session: Session, option: str) -> None:
    for table in TABLES:
        session.execute(f"ALTER TABLE {table} WITH {option}")


def search_tables(job: JobUnderTest, jmx_port: int, seed: int) -> dict[str, list[str]]:
    """The marks in the SSTables of each table, after a flush and a compaction."""
    keyspace = job.settings.cassandra.keyspace
    nodetool(jmx_port, "flush", keyspace)
    nodetool(jmx_port, "compact", keyspace)
    folder = job.stack.cassandra.folder / "data" / "data" / keyspace
    assert folder.is_dir(), folder
    return files_with(folder, marks_of(seed), lambda file: file.parent.name.split("-")[0])


def search_savepoint(job: JobUnderTest, seed: int) -> list[str]:
    """The marks in the files of a new savepoint."""
    with tempfile.TemporaryDirectory() as folder:
        path = take_savepoint(job.rest_url, job.id or "", Path(folder).as_uri())
        found = files_with(Path(path.removeprefix("file:")), marks_of(seed), lambda _: "savepoint")
    return found.get("savepoint", [])


def search_rows(
    job: JobUnderTest, folder: Path, seed: int, gone: Collection[str]
) -> dict[str, dict[str, Any]]:
    """What a backfill of the topic writes, by pipeline."""
    found = {}
    for pipeline in ("profile", "scoring"):
        rows = folder / pipeline
        job.run("model", "backfill", "--rows", str(rows), "--pipeline", pipeline)
        found[pipeline] = rows_with(rows, marks_of(seed), gone)
    return found


def search_topics(
    job: JobUnderTest, seed: int, gone: Collection[str], known_ms: int
) -> dict[str, dict[str, dict[str, int]]]:
    """By topic and whether the workers knew of the erasures when a record came: what is found."""
    keys = {key_of(user): user for user in gone}
    found = {}
    for setting in TOPICS:
        parts: dict[str, list[Record]] = {"before": [], "after": []}
        for record in read_topic(job.settings, getattr(job.settings.topics, setting)):
            parts["before" if record.timestamp_ms < known_ms else "after"].append(record)
        found[setting] = {
            when: dict(records_with(records, marks_of(seed), keys))
            for when, records in parts.items()
        }
    return found


def run(seed: int, scale: float) -> dict[str, Any]:
    """1,000 of 5,000 users are erased under 2,000 events/s, half of what two slow cores take."""
    users, erased = max(10, round(5_000 * scale)), max(4, round(1_000 * scale))
    per_s, warm_up_s = max(50.0, 2_000 * scale), 60.0
    state_ttl_s = 900  # longer than the load; the last savepoint is taken 1.5 times later
    killed = random.Random(seed).choice(("worker", "taskmanager"))
    [jmx_port] = free_ports(1)
    # All services of the stack inherit it; only Cassandra reads it.
    os.environ["JAVA_TOOL_OPTIONS"] = f"-Dcassandra.jmx.local.port={jmx_port}"
    gone = [f"user-{number}" for number in random.Random(seed).sample(range(users), erased - 1)]
    gone.append(marker(seed, "user"))
    ttl_ms = state_ttl_s * SECOND_MS
    sections = {"window": WINDOW, "state": {"user_ttl_ms": ttl_ms, "dedup_ttl_ms": ttl_ms}}
    with (
        tempfile.TemporaryDirectory() as folder,
        job_on_own_stack("erasures", sections, {MERGE_OPTION: f"{MERGED_AFTER_S} s"}) as job,
        open_session(job.settings.cassandra) as session,
    ):
        (file := Path(folder) / "users.txt").write_text("\n".join(gone))
        alter_all(session, "compression = {'enabled': false}")
        load_s, clock = time.monotonic(), Clock()
        with sending(job, clock.messages(marked_events(seed, users)), per_s) as sent:
            time.sleep(warm_up_s)
            wait_for_profile(session, marker(seed, "user"))
            tables_before = search_tables(job, jmx_port, seed)
            savepoint_before = search_savepoint(job, seed)
            say(f"tables have {tables_before}")
            say(f"a savepoint has {savepoint_before}")
            started_s = time.monotonic()
            runs = erase_with_kills(job, file, killed, len(gone))
            seconds = time.monotonic() - started_s
            say(f"{len(gone)} users are erased in {seconds:.0f} s")
        load_s = time.monotonic() - load_s
        closed_ms = closing_time_ms(clock.ms, job.settings.window)
        job.send_heartbeats(closed_ms)
        job.wait_until_caught_up(TIMEOUT_S)
        last_s = time.monotonic()
        go_on_until_done(job, time.monotonic() + TIMEOUT_S)
        savepoint_after = search_savepoint(job, seed)
        known_ms = max(read_erasures(job.settings).users().values()) + round(KNOWN_S * SECOND_MS)
        topics = search_topics(job, seed, gone, known_ms)
        say(f"a savepoint after the erasure has {savepoint_after}, topics since then {topics}")
        audit = job.audit()
        say(f"the audit is {'clean' if audit['ok'] else audit}")
        comparison = compare_with_reference(job.settings, gone=frozenset(gone))
        say(f"compared with the reference: {comparison.as_json()}")
        rows = search_rows(job, Path(folder), seed, gone)
        say(f"training rows: {rows}")
        with_tombstones = search_tables(job, jmx_port, seed)
        alter_all(session, "gc_grace_seconds = 0")
        time.sleep(2.0)  # a tombstone is older than the grace from the next second on
        tables_after = search_tables(job, jmx_port, seed)
        say(f"tables have {with_tombstones}, without tombstones {tables_after}")
        limit_s = 1.5 * state_ttl_s + TIMERS_S + 2 * MERGED_AFTER_S
        wait_s = max(0.0, last_s + limit_s - time.monotonic())
        say(f"the state ends in {wait_s:.0f} s")
        with sending(job, trickle(users, closed_ms + 1), TRICKLE_PER_S):
            time.sleep(wait_s)
            savepoint_ttl = search_savepoint(job, seed)
        state = job.state()
    checks = {
        "the search finds marks that are there": bool(
            {"user", "item"} <= set(itertools.chain(*tables_before.values()))
            and {*MARKS, "place"} <= set(savepoint_before)
        ),
        f"the erasures took less than {LIMIT_S:.0f} s": seconds < LIMIT_S,
        "the job runs": state == "RUNNING",
        "the audit is clean": audit["ok"],
        "all other users equal the reference": comparison.ok
        and comparison.job == comparison.reference,
        "tables: nothing but the key of tombstones": all(
            set(found) <= {"user"} for found in with_tombstones.values()
        ),
        "tables without tombstones: nothing but proofs": tables_after.keys() <= set(KEPT_TABLES),
        "training rows: nothing, and rows of others": all(
            each["rows"] and not (each["of_erased"] or each["marks"]) for each in rows.values()
        ),
        "topics: nothing that the job has sent since": not any(
            found["after"].keys() - {"records"}
            for setting, found in topics.items()
            if setting not in AS_SENT_TOPICS
        ),
        "savepoint: nothing of open windows": not OPEN_WINDOWS_ONLY & set(savepoint_after),
        "savepoint after the state's limit: nothing but the key of counts of windows": (
            set(savepoint_ttl) <= COUNTED_LONGER
        ),
        "no user's state has ended during the load": load_s < state_ttl_s,
    }
    return {
        "ok": all(checks.values()),
        "checks": checks,
        "users": users,
        "erased": len(gone),
        "events": sent.result(),
        "events_per_s": per_s,
        "load_s": round(load_s, 1),
        "killed": killed,
        "runs": runs,
        "erasures_s": round(seconds, 1),
        "audit": audit,
        "comparison": comparison.as_json(),
        "found": {
            "tables before": tables_before,
            "tables with tombstones": with_tombstones,
            "tables": tables_after,
            "training rows": rows,
            "topics": topics,
            "savepoint before": savepoint_before,
            "savepoint": savepoint_after,
            f"savepoint after {limit_s:.0f} s": savepoint_ttl,
        },
    }
