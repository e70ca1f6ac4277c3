"""Random grants and withdrawals of users of a job whose workers are killed, against an oracle.

Each of the five purposes of each user changes at random times. Most changes are known before their
time, some after the windows that they concern were stored: `consent backwards --delete` applies
these. A Python worker is killed with -9 in each of the first parts of the stream. Passes if every
row, message and training row is allowed, and none that is allowed is missing, by
tests/reference/consents.py. Where the job may have decided before or after a late change, both are
allowed. Without kills, the model is called for no other windows. Flags may be missing.
"""

import itertools
import json
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow.parquet as pq
from cassandra.cluster import Session

from liveprofile.flink.operator_metrics import operator_metrics
from liveprofile.ingest.replay import closing_time_ms
from liveprofile.kafka.records import read_topic
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import to_ms
from tests.faults.loaded_job import open_loaded_job
from tests.reference.consents import PURPOSES, Change, Changes, Knowledge
from tests.reference.profile import digest
from tests.reference.validation import ValidEvent
from tests.reference.windows import Classification, Record, classify, window_end_ms
from tests.support.job_under_test import JobUnderTest, job_on_own_stack
from tests.support.streams.shop import shop_events, to_message
from tests.support.summary import say

WINDOW = {"length_ms": 600_000, "out_of_orderness_ms": 10_000}
LENGTH_MS = WINDOW["length_ms"]
SPAN_MS = 40 * LENGTH_MS  # of the stream in event time
SCORED = ("purchase", "return", "login", "coupon", "follow", "share")
LATE_SHARE = 0.3
KILLS = 4
KNOWN_S = 3.0  # after a change: the workers know of it
TIMEOUT_S = 900.0
EVENTS_PER_S = 200.0


class Findings:
    """Counts what was compared, and what differs from the oracle."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.examples: list[str] = []

    def check(self, what: str, key: object, there: bool, allowed: Iterable[bool]) -> None:
        """Compares whether something is there with whether it may and must be."""
        decisions = set(allowed)
        self.counts[what]["there" if there else "not there"] += 1
        self.counts[what]["either allowed"] += len(decisions) > 1
        if there not in decisions:
            self.counts[what]["not allowed" if there else "missing"] += 1
            self.examples.append(f"{what} {key}: {'not allowed' if there else 'missing'}")


def random_changes(
    rng: random.Random, users: Iterable[str], starts_ms: list[int], end_ms: int
) -> tuple[Changes, list[dict[str, list[Change]]]]:
    """The changes that are known in time, and by part of the stream those that come after it.

    Late ones are at the borders of windows: what the job has stored of a window is then deleted as
    a whole, or not.
    """
    on_time: dict[str, list[Change]] = defaultdict(list)
    late: list[dict[str, list[Change]]] = [defaultdict(list) for _ in starts_ms]
    for user in users:
        for purpose in PURPOSES:
            for _ in range(rng.randrange(4)):
                time_ms, granted = rng.randrange(starts_ms[0], end_ms), rng.random() < 0.4
                if rng.random() < LATE_SHARE:
                    time_ms -= time_ms % LENGTH_MS
                    part = sum(start_ms <= time_ms for start_ms in starts_ms[1:])
                    late[part][user].append(Change(time_ms, purpose, granted))
                else:
                    on_time[user].append(Change(time_ms, purpose, granted))
    return on_time, late


def send_changes(job: JobUnderTest, changes: Iterable[tuple[str, Change]], folder: Path) -> None:
    """Runs `consent set --file` and waits until the workers know of the changes."""
    lines = [
        json.dumps({"user_id": user, "time": c.time_ms, "purpose": c.purpose, "granted": c.granted})
        for user, c in changes
    ]
    if lines:
        (file := folder / "consents.jsonl").write_text("\n".join(lines))
        job.run("privacy", "consent", "set", "--file", str(file))
        time.sleep(KNOWN_S)


def flat(changes: Changes, first_ms: int, end_ms: int) -> Iterator[tuple[str, Change]]:
    for user, of_user in changes.items():
        yield from ((user, each) for each in of_user if first_ms <= each.time_ms < end_ms)


def model_calls(job: JobUnderTest) -> int:
    """Windows that the model has scored since the last restart."""
    found = operator_metrics(job.rest_url, job.id or "", lambda n: n.endswith("liveprofile.rows"))
    return sum(int(each.sum) for each in found.values())


class Used(NamedTuple):
    """The events that the job reads, as section 3 of docs/data-contract.md classifies them."""

    events: list[ValidEvent]
    positions: list[tuple[int, int]]  # of each event

    @classmethod
    def of(cls, job: JobUnderTest) -> Self:
        records = [
            Record(r.partition, r.offset, r.timestamp_ms, r.key, r.value)
            for r in read_topic(job.settings, job.settings.topics.events)
        ]
        records.sort(key=lambda record: (record.timestamp_ms, record.partition, record.offset))
        classes = Classification()
        events = classify(records, job.settings, None, None, classes)
        assert not classes.late and not classes.duplicates
        order = ((record.partition, record.offset) for record in records)
        return cls(events, [position for position in order if position in classes.used])


def check_windows(
    found: Findings, session: Session, knowledge: Knowledge, used: Used, window: Any
) -> set[tuple[str, int]]:
    """Checks which events the stored windows used; returns the windows that may be stored."""
    by_window: dict[tuple[str, int], list[ValidEvent]] = defaultdict(list)
    for event in used.events:
        by_window[event.user_id, window_end_ms(event.user_id, event.time_ms, window)].append(event)
    stored = {
        (row.user_id, to_ms(row.window_end)): bytes(row.digests or b"")
        for row in session.execute("SELECT user_id, window_end, digests FROM profile_delta")
    }
    for key in stored.keys() - by_window.keys():
        found.check("windows", key, True, [False])
    may_exist = set()
    for (user, end_ms), events in by_window.items():
        digests = stored.get((user, end_ms), b"")
        there = {digests[i : i + 8] for i in range(0, len(digests), 8)}
        kept = knowledge.allowed_during(user, "profiling", end_ms - LENGTH_MS, end_ms)
        for event in events:
            at_ms = event.time_ms
            decided = knowledge.decisions(user, "profiling", at_ms, at_ms) if kept else {False}
            found.check(
                "events of windows", event.event_id, digest(event.event_id) in there, decided
            )
            if True in decided:
                may_exist.add((user, end_ms))
        found.check("windows", (user, end_ms), bool(there), {bool(there)} if kept else {False})
    return may_exist


def check_profiles(
    found: Findings, session: Session, knowledge: Knowledge, windows: set[tuple[str, int]]
) -> None:
    """Checks profiles, interests and segments."""
    last_ms = {}
    for row in session.execute("SELECT user_id, window_end, profile FROM user_profile"):
        user, end_ms = row.user_id, to_ms(row.window_end)
        last_ms[user] = end_ms
        found.check("profiles", (user, end_ms), True, [(user, end_ms) in windows])
        profile = json.loads(row.profile)
        decided = knowledge.decisions(user, "recommendation", end_ms, end_ms - LENGTH_MS)
        for name in ("interests", "next_items"):
            found.check(name, (user, end_ms), bool(profile[name]), decided)
    for row in session.execute(
        "SELECT user_id, segment, member, announced, window_end FROM user_segment"
    ):
        end_ms = to_ms(row.window_end)
        found.check("segments", (row.user_id, end_ms), True, [(row.user_id, end_ms) in windows])
        if (last := last_ms.get(row.user_id)) is not None and row.member != row.announced:
            decided = knowledge.decisions(row.user_id, "marketing", last, last - LENGTH_MS)
            found.check("segment changes", (row.user_id, row.segment), False, decided)


def check_scores(found: Findings, session: Session, knowledge: Knowledge, used: Used) -> None:
    stored = {row.event_id for row in session.execute("SELECT event_id FROM risk_score_by_hour")}
    for event in used.events:
        if event.event_type in SCORED:
            user, at_ms = event.user_id, event.time_ms
            decided = knowledge.decisions(user, "risk", at_ms, at_ms)
            if not knowledge.finally_allowed(user, "risk", at_ms):
                decided = {False}  # `consent backwards` deletes it
            found.check("scores", event.event_id, event.event_id in stored, decided)
    for row in session.execute("SELECT user_id, window_end, event_id FROM risk_flag"):
        at_ms = to_ms(row.window_end)
        allowed = knowledge.finally_allowed(row.user_id, "risk", at_ms)
        found.check("flags", (row.user_id, at_ms), True, [allowed])


def check_messages(
    found: Findings,
    job: JobUnderTest,
    knowledge: Knowledge,
    used: Used,
    scored: set[tuple[str, int]],
) -> None:
    """scored: the windows that the model may have scored."""
    topics = job.settings.topics
    refused = {
        (int(record.headers["partition"]), int(record.headers["offset"]))
        for record in read_topic(job.settings, topics.rejected)
        if record.headers["reason"] == b"NO_CONSENT" and not record.value
    }
    for event, position in zip(used.events, used.positions, strict=True):
        user, at_ms = event.user_id, event.time_ms
        end_ms = window_end_ms(user, at_ms, job.settings.window)
        decided = {not each for each in knowledge.decisions(user, "profiling", at_ms, at_ms)}
        if not knowledge.allowed_during(user, "profiling", end_ms - LENGTH_MS, end_ms):
            decided = {True}  # by the job, or by `consent backwards`
        found.check("rejected events", event.event_id, position in refused, decided)
    for record in read_topic(job.settings, topics.segment_changes):
        data = json.loads(record.value or b"")["data"]
        user, end_ms = data["user_id"], ms_of(data["window_end"])
        decided = knowledge.decisions(user, "marketing", end_ms, end_ms - LENGTH_MS)
        decided &= {(user, end_ms) in scored}
        found.check("segment changes", (user, data["segment_id"]), True, decided)
    for record in read_topic(job.settings, topics.alerts):
        data = json.loads(record.value or b"")["data"]
        if "user_id" in data:
            user, end_ms = data["user_id"], ms_of(data["window_end"])
            decided = knowledge.decisions(user, "risk", end_ms, end_ms - LENGTH_MS)
            if not data["event_id"]:
                decided &= {(user, end_ms) in scored}
            found.check("alerts", (user, data["rule_id"], end_ms), True, decided)


def check_training_rows(
    found: Findings, job: JobUnderTest, knowledge: Knowledge, used: Used, folder: Path
) -> None:
    now_ms = round(time.time() * 1_000)
    expected = {
        "profile": {
            (each.user_id, window_end_ms(each.user_id, each.time_ms, job.settings.window))
            for each in used.events
        },
        "scoring": {
            (each.user_id, each.time_ms) for each in used.events if each.event_type in SCORED
        },
    }
    for pipeline, column in (("profile", "window_end_ms"), ("scoring", "event_ms")):
        rows = folder / pipeline
        job.run("model", "backfill", "--rows", str(rows), "--pipeline", pipeline)
        written = {
            (row["user_id"], row[column])
            for file in rows.rglob("*.parquet")
            for row in pq.read_table(file, columns=["user_id", column]).to_pylist()
        }
        for user, at_ms in expected[pipeline] | written:
            allowed = all(
                knowledge.finally_allowed(user, "training", each) for each in (at_ms, now_ms)
            )
            there = (user, at_ms) in written
            found.check(f"training rows, {pipeline}", (user, at_ms), there, [allowed])


def ms_of(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


def run(seed: int, scale: float) -> dict[str, Any]:
    """3,000 users with 12,000 events, and four kills (none below half of the size)."""
    users, events = max(10, round(3_000 * scale)), max(100, round(12_000 * scale))
    kills = KILLS if scale >= 0.5 else 0
    step_ms, parts = SPAN_MS // events, kills + 2
    stream = list(itertools.islice(shop_events(seed, users, step_ms), events))
    bounds = [round(number * events / parts) for number in range(parts + 1)]
    starts_ms = [stream[start]["event_time"] for start in bounds[:-1]]
    end_ms, names = stream[-1]["event_time"] + 1, sorted({each["user_id"] for each in stream})
    on_time, late = random_changes(random.Random(seed), names, starts_ms, end_ms)
    knowledge, found = Knowledge(starts_ms, on_time, late), Findings()
    sections = {"window": WINDOW, "scoring": {"replay": True}}
    with (
        tempfile.TemporaryDirectory() as name,
        job_on_own_stack("consents", sections) as job,
        open_session(job.settings.cassandra) as session,
        open_loaded_job(job) as loaded_job,
        ThreadPoolExecutor(1) as thread,
    ):
        folder = Path(name)
        for part, (first, end) in enumerate(itertools.pairwise(bounds)):
            until_ms = (*starts_ms, end_ms)[part + 1]
            send_changes(job, flat(on_time, starts_ms[part], until_ms), folder)
            sent = thread.submit(job.send, map(to_message, stream[first:end]), EVENTS_PER_S)
            if part < kills:
                job.wait_for_checkpoint(TIMEOUT_S)
                loaded_job.kill_worker()
            sent.result()
            if part == parts - 1:
                job.send_heartbeats(closing_time_ms(end_ms, job.settings.window))
            job.wait_until_caught_up(TIMEOUT_S)
            send_changes(job, flat(late[part], 0, end_ms), folder)
            say(f"part {part + 1} of {parts} is stored")
        used = Used.of(job)
        backwards = ("privacy", "consent", "backwards", "--days", "10000")
        job.cli(*backwards, "--delete")
        job.cli(*backwards)  # finds nothing
        scored = {
            (each.user_id, window_end_ms(each.user_id, each.time_ms, job.settings.window))
            for each in used.events
            if True in knowledge.decisions(each.user_id, "profiling", each.time_ms, each.time_ms)
        }
        windows = check_windows(found, session, knowledge, used, job.settings.window)
        check_profiles(found, session, knowledge, windows)
        check_scores(found, session, knowledge, used)
        check_messages(found, job, knowledge, used, scored)
        check_training_rows(found, job, knowledge, used, folder)
        audit, calls = job.audit(), model_calls(job)
    if not kills:
        stored, limit = found.counts["windows"]["there"], len(scored)
        found.check("model calls", (stored, calls, limit), stored <= calls <= limit, [True])
    return {
        "ok": not found.examples and audit["ok"],
        "compared": {what: dict(+counts) for what, counts in found.counts.items()},
        "differences": found.examples[:20],
        "audit": audit,
    }
