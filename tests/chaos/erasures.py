"""Erases users of a loaded job, with kills in between, and looks for what is left of them.

Events of some erased users have texts that occur nowhere else, in every field.
`liveprofile privacy erase` is killed with -9 twice and goes on with `--pending`; a Python worker is
killed, too. Passes if the erasures are done within ten minutes, the audit is clean, all other users
equal the reference, and the texts are found where docs/privacy.md says that they stay, and nowhere
else:

- the SSTables of all tables, searched as bytes. They are not compressed, and all are compacted. An
  id stays as the key of a tombstone for `gc_grace_seconds`, so this is 0 for the search;
- all topics. Nothing that the job has sent since the erasure may be about an erased user;
- the files of a savepoint after the erasure, and of one after the state's limit, up to which a few
  events of other users arrive.

A search before the erasure finds them all, so it can find them.
"""

import itertools
import random
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cassandra.cluster import Session

from cli.doctor.checks import MERGE_OPTION
from intake.files.replay import closing_time_ms
from liveprofile.feeds.users import read_erasures
from liveprofile.flink.rest import savepoint
from liveprofile.kafka.records import read_topic
from liveprofile.rows import TABLES
from liveprofile.settings import TOPICS
from liveprofile.storage.connection import open_session
from liveprofile.units import SECOND_MS
from liveprofile.wire.user_records import key_of
from tests.support.compare import compare_with_reference
from tests.support.job_under_test import JobUnderTest, job_on_own_stack, sending
from tests.support.local_stack import newest_worker, nodetool
from tests.support.streams.seeded import Message
from tests.support.streams.shop import START_MS, event_of, shop_events, to_message
from tests.support.summary import say
from tests.support.waiting import until

WINDOW = {"length_ms": 600_000, "out_of_orderness_ms": 10_000}
STEP_MS = 40  # event time between two events
WARM_UP_S, LIMIT_S, TIMEOUT_S = 60.0, 600.0, 900.0
STATE_TTL_S = 900  # longer than the load; the last savepoint is taken after it
# Files of RocksDB with entries whose time to live is over are merged at this age, while events
# arrive: here sooner than a cluster's day, and with few events.
MERGED_AFTER_S = 30
TRICKLE_PER_S, TRICKLE_STEP_MS = 10.0, 1_000
MARKED_EVERY = 200  # events
KNOWN_S = 5.0  # after an erasure: the workers know of it
# What proves a decision of the user is kept (docs/privacy.md).
KEPT_TABLES = {"erasure", "user_consent"}
# Records that others send are kept as they were sent until the topic's limit.
AS_SENT_TOPICS = ("events", "late", "erasures")
# Flink's state has them in open windows only (docs/privacy.md).
OPEN_WINDOWS_ONLY = {"text", "attribute", "place"}
# The key of counts of windows, which stay for an hour more (docs/privacy.md).
COUNTED_LONGER = {"user"}

MARKS = ("user", "event", "item", "text", "device", "attribute", "coupon")
PLACE = 71.82818284  # no state, row or message has more than three decimals of it


class Marks:
    """Texts that occur nowhere else, in all that an event can hold."""

    def __init__(self, seed: int):
        self.of = {what: f"marker{seed}{what}zq" for what in MARKS}

    def event(self, number: int, time_ms: int) -> dict[str, Any]:
        of = self.of
        return event_of(
            of["user"],
            time_ms,
            f"{of['event']}-{number}",
            "purchase",
            item_id=of["item"],
            price=10.0,
            text=of["text"],
            device_id=of["device"],
            coupon_id=of["coupon"],
            place={"lat": PLACE, "lon": 11.5},
            attributes={"note": of["attribute"]},
        )

    def within(self, data: bytes) -> set[str]:
        """The marks in bytes; `place` stands for the coordinates as they were sent."""
        texts = self.of | {"place": str(PLACE)}
        return {what for what, text in texts.items() if text.encode() in data}

    def in_files(self, folder: Path, name_of: Callable[[Path], str]) -> dict[str, set[str]]:
        """What is found in files, by their names."""
        found: dict[str, set[str]] = {}
        for file in folder.rglob("*"):
            with suppress(FileNotFoundError):
                if file.is_file() and (what := self.within(file.read_bytes())):
                    found.setdefault(name_of(file), set()).update(what)
        return found

    def in_tables(self, job: JobUnderTest) -> dict[str, set[str]]:
        """By table, after a flush and a compaction."""
        keyspace = job.settings.cassandra.keyspace
        for command in ("flush", "compact"):
            nodetool(job.stack.cassandra.jmx_port, command, keyspace)
        folder = job.stack.cassandra.folder / "data" / "data" / keyspace
        assert folder.is_dir(), folder
        return self.in_files(folder, lambda file: file.parent.name.split("-")[0])

    def in_savepoint(self, job: JobUnderTest) -> set[str]:
        with tempfile.TemporaryDirectory() as folder:
            path = savepoint(job.rest_url, job.id or "", Path(folder).as_uri())
            found = self.in_files(Path(path.removeprefix("file:")), lambda _: "savepoint")
        return found.get("savepoint", set())

    def in_topics(
        self, job: JobUnderTest, gone: Collection[str], since_ms: int
    ) -> dict[str, set[str]]:
        """What is in records since then, by topic; `key`: the key of an erased user."""
        keys, found = set(map(key_of, gone)), {}
        for setting in TOPICS:
            for record in read_topic(job.settings, getattr(job.settings.topics, setting)):
                if record.timestamp_ms >= since_ms:
                    what = self.within((record.key or b"") + b"\0" + (record.value or b""))
                    what |= {"key"} if record.key in keys else set()
                    found.setdefault(setting, set()).update(what)
        return found


class Clock:
    """The time of the last event that was taken to be sent."""

    ms = START_MS

    def messages(self, marks: Marks, seed: int, users: int) -> Iterator[Message]:
        """Without end; some are of the user with the marks."""
        for number, event in enumerate(shop_events(seed, users, STEP_MS)):
            self.ms = event["event_time"]
            yield to_message(event)
            if number % MARKED_EVERY == 0:
                yield to_message(marks.event(number, self.ms))


def trickle(users: int, start_ms: int) -> Iterator[Message]:
    """A few events of other users, so that the job is not idle."""
    for event in shop_events(users, users, TRICKLE_STEP_MS, start_ms):
        yield to_message(event | {"user_id": f"later-{event['user_id']}"})


def kill_after(
    job: JobUnderTest, arguments: Sequence[str | Path], due: Callable[[Iterable[str]], Any]
) -> None:
    """Starts `erase`, and kills it when `due` returns."""
    with job.start("privacy", "erase", *arguments, "--json") as process:
        due(process.stdout)
        process.kill()


def erase_with_kills(job: JobUnderTest, file: Path, users: int) -> None:
    def all_are_sent() -> bool:
        return len(read_erasures(job.settings)) >= users

    kill_after(job, ["--file", file], lambda _: until(all_are_sent, TIMEOUT_S, poll_s=0.5))
    newest_worker(job.stack.taskmanager).kill()
    say("killed erase while it deletes the first rows, and a worker")
    kill_after(job, ["--pending"], lambda out: list(itertools.islice(out, users // 2)))
    erase_pending(job)


def erase_pending(job: JobUnderTest) -> None:
    def is_done() -> bool:
        job.cli("privacy", "erase", "--pending", "--json", ok=False)
        return job.cli("privacy", "erase", "--status", "--json", ok=False).returncode == 0

    until(is_done, TIMEOUT_S, why="the erasures are not done in time")


def alter_all(session: Session, option: str) -> None:
    for table in TABLES:
        session.execute(f"ALTER TABLE {table} WITH {option}")


def run(seed: int, scale: float) -> dict[str, Any]:
    """1,000 of 5,000 users are erased under 2,000 events/s, half of what two slow cores take."""
    users, erased = max(10, round(5_000 * scale)), max(4, round(1_000 * scale))
    per_s, marks, clock = max(50.0, 2_000 * scale), Marks(seed), Clock()
    gone = [f"user-{number}" for number in random.Random(seed).sample(range(users), erased - 1)]
    gone.append(marks.of["user"])
    ttl_ms = STATE_TTL_S * SECOND_MS
    sections = {"window": WINDOW, "state": {"user_ttl_ms": ttl_ms, "dedup_ttl_ms": ttl_ms}}
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        job_on_own_stack("erasures", sections, {MERGE_OPTION: f"{MERGED_AFTER_S} s"}) as job,
        open_session(job.settings.cassandra) as session,
    ):
        (file := Path(folder) / "users.txt").write_text("\n".join(gone))
        alter_all(session, "compression = {'enabled': false}")
        load_s = time.monotonic()
        with sending(job, clock.messages(marks, seed, users), per_s) as sent:
            time.sleep(WARM_UP_S)
            select = "SELECT user_id FROM user_profile WHERE user_id = %s"
            until(lambda: list(session.execute(select, gone[-1:])), TIMEOUT_S, poll_s=1.0)
            found["tables before"] = marks.in_tables(job)
            found["savepoint before"] = marks.in_savepoint(job)
            say(f"before: {found}")
            started_s = time.monotonic()
            erase_with_kills(job, file, len(gone))
            seconds = time.monotonic() - started_s
            say(f"{len(gone)} users are erased in {seconds:.0f} s")
        load_s = time.monotonic() - load_s
        closed_ms = closing_time_ms(clock.ms, job.settings.window)
        job.send_heartbeats(closed_ms)
        job.wait_until_caught_up(TIMEOUT_S)
        last_s = time.monotonic()
        erase_pending(job)
        found["savepoint"] = marks.in_savepoint(job)
        known_ms = max(read_erasures(job.settings).users().values()) + round(KNOWN_S * SECOND_MS)
        found["topics"] = marks.in_topics(job, gone, known_ms)
        audit = job.audit()
        comparison = compare_with_reference(job.settings, gone=frozenset(gone))
        alter_all(session, "gc_grace_seconds = 0")
        time.sleep(2.0)  # a tombstone is older than the grace from the next second on
        found["tables"] = marks.in_tables(job)
        limit_s = STATE_TTL_S + 2 * MERGED_AFTER_S
        wait_s = max(0.0, last_s + limit_s - time.monotonic())
        say(f"after: {found}; the state ends in {wait_s:.0f} s")
        with sending(job, trickle(users, closed_ms + 1), TRICKLE_PER_S):
            time.sleep(wait_s)
            found["savepoint after the limit"] = marks.in_savepoint(job)
        state = job.state()
    checks = {
        "the search finds marks that are there": {"user", "item"}
        <= set(itertools.chain(*found["tables before"].values()))
        and {*MARKS, "place"} <= found["savepoint before"],
        f"the erasures took less than {LIMIT_S:.0f} s": seconds < LIMIT_S,
        "the job runs": state == "RUNNING",
        "the audit is clean": audit["ok"],
        "all other users equal the reference": comparison.ok
        and comparison.job == comparison.reference,
        "tables: nothing but proofs": found["tables"].keys() <= KEPT_TABLES,
        "topics: nothing that the job has sent since": not any(
            what for setting, what in found["topics"].items() if setting not in AS_SENT_TOPICS
        ),
        "savepoint: nothing of open windows": not OPEN_WINDOWS_ONLY & found["savepoint"],
        "savepoint after the state's limit: nothing but the key of counts of windows": (
            found["savepoint after the limit"] <= COUNTED_LONGER
        ),
        "no user's state has ended during the load": load_s < STATE_TTL_S,
    }
    return {
        "ok": all(checks.values()),
        "checks": checks,
        "erased": len(gone),
        "events": sent.result(),
        "erasures_s": round(seconds, 1),
        "audit": audit,
        "comparison": comparison.as_json(),
        "found": repr(found),
    }
