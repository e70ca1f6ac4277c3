"""The shop that faults happen to: a job, a steady load, and what must hold afterwards."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cassandra.cluster import Session
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from liveprofile.errors import ServiceError
from liveprofile.ingest.replay import closing_time_ms
from liveprofile.kafka.records import read_topic
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from tests.support import service_restarts, summary
from tests.support.compare import compare_with_reference
from tests.support.compare_scoring import assert_scoring
from tests.support.job_under_test import JobUnderTest
from tests.support.seeded_streams import Message, with_faults
from tests.support.shop import HOT_USER, START_MS, shop_events, to_message

WINDOW = {"length_ms": 120_000, "out_of_orderness_ms": 10_000}
EVENTS_PER_SECOND = 150
STEP_MS = 400  # in event time: at this pace a window closes every two seconds
USERS = 10
CHUNK = 300  # events that are mixed with faults of their own at a time
LATE_BY_MS = 3_600_000
# One in each chunk, who tries a stolen card: the last purchase makes the rule true. Nothing is
# known of them and their device but their own events, so their flags are the same in every try.
TESTER, TESTS, TESTERS_RULE = "tester-", 5, "card_testing"
RECOVERY_TIMEOUT_S = 240.0
NOTICED_WITHIN_S = 60.0
POLL_S = 0.1


@contextmanager
def open_loaded_job(job: JobUnderTest, lane: bool = True) -> Iterator[LoadedJob]:
    """A shop on a running job, which is cancelled at the end. lane: it scores single events."""
    try:
        with open_session(job.settings.cassandra) as session:
            yield LoadedJob(job, session, lane)
    finally:
        job.cancel()


class LoadedJob:
    """The job and the clock of its stream, which only moves on."""

    def __init__(self, job: JobUnderTest, session: Session, lane: bool):
        self.job = job
        self.session = session
        self.lane = lane
        self.clock_ms = START_MS
        self._seeds = itertools.count(1)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Visitors come all the time: runs the block under load, which flows when it starts.

        A checkpoint knows that by then. Without one the job would start from nothing, and what it
        sent to the late topic before may well be in time after.
        """
        stop, failed = threading.Event(), []
        thread = threading.Thread(target=self._send_until, args=(stop, failed))
        thread.start()
        try:
            self.wait_for_news(since_ms=self.newest_ms())
            self.job.wait_for_checkpoint(RECOVERY_TIMEOUT_S)
            yield
        finally:
            stop.set()
            thread.join()
        assert not failed, failed[0]

    def _send_until(self, stop: threading.Event, failed: list[object]) -> None:
        """Copies, late and broken events are among those sent, as in every stream."""
        producer = self.job.producer()
        topic = self.job.settings.topics.events
        stream = shop_events(next(self._seeds), USERS, STEP_MS, self.clock_ms)
        started, count = time.monotonic(), 0
        while not stop.is_set():
            chunk = list(itertools.islice(stream, CHUNK))
            self.clock_ms = chunk[-1]["event_time"]
            messages = with_faults(chunk, next(self._seeds), late_by_ms=LATE_BY_MS).messages
            for message in messages + self._card_test():
                producer.produce(
                    topic,
                    message.value,
                    message.key,
                    on_delivery=lambda error, _: failed.append(error) if error else None,
                )
                count += 1
                producer.poll(max(0.0, started + count / EVENTS_PER_SECOND - time.monotonic()))
        if producer.flush(RECOVERY_TIMEOUT_S):
            failed.append("Kafka did not take the last records")

    def _card_test(self) -> list[Message]:
        user_id = f"{TESTER}{next(self._seeds)}"
        return [
            to_message(
                {
                    "event_id": f"{user_id}-{number}",
                    "user_id": user_id,
                    "event_type": "purchase",
                    "event_time": self.clock_ms - TESTS + number,
                    "amount": 1.0,
                    "device_id": f"device-{user_id}",
                }
            )
            for number in range(TESTS)
        ]

    @contextmanager
    def recovery(self, fault: str) -> Iterator[None]:
        """Notes the time from the block's start, a fault and its repair, to the first profile that
        is newer than all that are stored when it ends."""
        started = time.monotonic()
        yield
        repaired_s = time.monotonic() - started
        self.wait_for_news(since_ms=self.newest_ms())
        seconds = time.monotonic() - started
        summary.LINES.append(
            f"recovered in {seconds:.0f} s: {fault} (repaired after {repaired_s:.0f} s)"
        )

    # A node may not be back yet, or lack a core to answer in time.
    @retry(
        retry=retry_if_exception_type(ServiceError),
        stop=stop_after_delay(RECOVERY_TIMEOUT_S),
        wait=wait_fixed(POLL_S),
        reraise=True,
    )
    def newest_ms(self) -> int:
        """The end of the last stored window of a user who is there in each; 0 if there is none."""
        found = queries.deltas(self.session, HOT_USER, 1)
        return found[0].window_end_ms if found else 0

    def wait_for_news(self, since_ms: int) -> None:
        deadline_s = time.monotonic() + RECOVERY_TIMEOUT_S
        while self.newest_ms() <= since_ms:
            # As a cluster's supervisor does: Flink may end a TaskManager when Python functions are
            # cancelled while they open (docs/architecture.md, known limits).
            service_restarts.restart_stopped_services(self.job.stack, "a recovery")
            if time.monotonic() > deadline_s:
                raise AssertionError(
                    f"no new profile after {RECOVERY_TIMEOUT_S:.0f} s, job {self.job.state()}:"
                    f" {self.job.failure()[-3_000:]}"
                )
            time.sleep(POLL_S)

    def wait_for_restart(self, since: int) -> None:
        """Returns when the job has restarted more often than `since`: what another worker stores
        before the fault takes hold would pass for a recovery."""
        deadline_s = time.monotonic() + NOTICED_WITHIN_S
        while self.job.restarts() <= since:
            assert time.monotonic() < deadline_s, "the job did not notice the fault"
            time.sleep(POLL_S)

    def close(self) -> None:
        """Closes all windows, and waits until they are stored."""
        self.clock_ms = closing_time_ms(self.clock_ms, self.job.settings.window)
        self.job.send_heartbeats(self.clock_ms)
        self.clock_ms += self.job.settings.window.length_ms
        self.job.wait_until_caught_up(RECOVERY_TIMEOUT_S)

    def check(self) -> None:
        """What must hold after every fault: all is stored, once, as the reference has it.

        But for the known flaw: a restored job's source starts its watermark anew while its windows
        remember theirs, so until every partition has spoken a late event can pass the late split
        and be dropped by its window without a trace. The audit finds those, and `audit --repair`
        sends them where they belong.
        """
        self.close()
        account = self.job.audit()
        wrong = ("used_twice", "unknown", "late_and_used", "open_windows")
        assert not any(account[name] for name in wrong), account
        if lost := account["unaccounted"]:
            print(f"\nlate events that only the audit found: {lost}", flush=True)
            self.job.wait_until_committed(RECOVERY_TIMEOUT_S)
            account = self.job.audit("--repair")
            assert account["ok"] and account["repaired"] == lost, account
        assert all(event_id.startswith("late-") for event_id in self._repaired())
        found = compare_with_reference(self.job.settings)
        assert found.ok, found.as_json()
        assert found.job == found.reference
        if self.lane:
            assert_scoring(self.job.settings, TESTER, TESTERS_RULE)

    def _repaired(self) -> Iterator[str]:
        settings = self.job.settings
        for record in read_topic(settings, settings.topics.late):
            if "repaired" in record.headers:
                yield json.loads(record.value)["event_id"]
