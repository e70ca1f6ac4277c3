"""A job under a steady load of events, and the checks that must pass after every fault."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from cassandra.cluster import Session
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from intake.files.replay import closing_time_ms
from liveprofile.errors import ServiceError
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from tests.support import service_restarts, summary
from tests.support.compare import compare_with_reference
from tests.support.compare_scoring import assert_scoring
from tests.support.job_under_test import JobUnderTest, sending
from tests.support.local_stack import newest_worker
from tests.support.streams.seeded import Message, with_faults
from tests.support.streams.shop import (
    CARD_TEST_PURCHASES,
    CARD_TEST_RULE,
    HOT_USER,
    START_MS,
    card_test,
    shop_events,
    to_message,
)

WINDOW = {"length_ms": 120_000, "out_of_orderness_ms": 10_000}
EVENTS_PER_SECOND = 10
STEP_MS = 12_000  # event time between two events: a window closes every second
USERS = 10
CHUNK = 20  # events that faults are injected into at a time
LATE_BY_MS = 3_600_000
TESTER_PREFIX = "tester-"  # each chunk has one user who tests a stolen card
RECOVERY_TIMEOUT_S = 240.0
NOTICE_TIMEOUT_S = 50.0  # before a worker's guard suspends the TaskManager, which answers nothing
RESTART_TIMEOUT_S = 240.0
POLL_S = 0.3


@contextmanager
def open_loaded_job(job: JobUnderTest) -> Iterator[LoadedJob]:
    """Yields a LoadedJob of a running job, which is cancelled at the end."""
    try:
        with open_session(job.settings.cassandra) as session:
            loaded_job = LoadedJob(job, session)
            try:
                yield loaded_job
            finally:
                loaded_job.stop_load()
    finally:
        job.cancel()


class LoadedJob:
    """A job and the event time of its stream, `clock_ms`, which never goes back."""

    def __init__(self, job: JobUnderTest, session: Session):
        self.job = job
        self.session = session
        self.clock_ms = START_MS
        self._seeds = itertools.count(1)
        self._load: ExitStack | None = None
        self.copies: list[str] = []  # versions of models with the shipped weights

    def load(self, checkpoint: bool = True) -> None:
        """Starts the load unless it runs. Returns when a checkpoint covers part of it.

        So the job restores state after a fault. Without a checkpoint it would start from nothing.
        """
        if self._load is None:
            self._load = ExitStack()
            self._load.enter_context(sending(self.job, self._messages(), EVENTS_PER_SECOND))
        self.wait_for_newer_profile(since_ms=self.newest_window_end_ms())
        if checkpoint:
            self.job.wait_for_checkpoint(RECOVERY_TIMEOUT_S)

    def stop_load(self) -> None:
        """Leaves windows open. Raises AssertionError if Kafka has not accepted a record."""
        if self._load is not None:
            load, self._load = self._load, None
            load.close()

    def _messages(self) -> Iterator[Message]:
        """Events without end, with duplicates, late and broken events among them."""
        stream = shop_events(next(self._seeds), USERS, STEP_MS, self.clock_ms)
        while True:
            chunk = list(itertools.islice(stream, CHUNK))
            self.clock_ms = chunk[-1]["event_time"]
            yield from with_faults(chunk, next(self._seeds), late_by_ms=LATE_BY_MS).messages
            tester = f"{TESTER_PREFIX}{next(self._seeds)}"
            purchases = card_test(tester, self.clock_ms - CARD_TEST_PURCHASES)
            yield from map(to_message, purchases)

    @contextmanager
    def recovery(self, fault: str) -> Iterator[None]:
        """Adds the recovery time to the summary. The block causes a fault and repairs it.

        The time is from the start of the block to the first profile that is newer than all profiles
        stored at its end.
        """
        started_s = time.monotonic()
        yield
        repaired_s = time.monotonic() - started_s
        self.wait_for_newer_profile(since_ms=self.newest_window_end_ms())
        seconds = time.monotonic() - started_s
        summary.LINES.append(
            f"recovered in {seconds:.0f} s: {fault} (repaired after {repaired_s:.0f} s)"
        )

    # The node may still be down, or too slow to answer in time on a loaded machine.
    @retry(
        retry=retry_if_exception_type(ServiceError),
        stop=stop_after_delay(RECOVERY_TIMEOUT_S),
        wait=wait_fixed(POLL_S),
        reraise=True,
    )
    def newest_window_end_ms(self) -> int:
        """Returns the last stored window end of the hot user, who has every window; 0 if none."""
        deltas = queries.deltas(self.session, HOT_USER, 1)
        return deltas[0].window_end_ms if deltas else 0

    def wait_for_newer_profile(self, since_ms: int) -> None:
        deadline_s = time.monotonic() + RECOVERY_TIMEOUT_S
        while self.newest_window_end_ms() <= since_ms:
            # A cluster's supervisor does this too: Flink may stop a TaskManager if Python functions
            # are cancelled while they open (docs/architecture.md, known limits).
            service_restarts.restart_stopped_services(self.job.stack, "a recovery")
            if time.monotonic() > deadline_s:
                raise AssertionError(
                    f"no new profile after {RECOVERY_TIMEOUT_S:.0f} s, job {self.job.state()}:"
                    f" {self.job.failure()[-3_000:]}"
                )
            time.sleep(POLL_S)

    def wait_for_restart(self, since: int) -> None:
        """Returns when the job has restarted more often than `since`.

        Otherwise a profile that another worker stores before the restart would count as recovery.
        """
        restarted = self._restarted(since, RESTART_TIMEOUT_S)
        assert restarted, "the job did not restart after the fault"

    def kill_worker(self) -> bool:
        """Kills the newest Python worker and returns when the job has restarted.

        False if Flink did not notice, and the worker's guard restarted the job (docs/operate.md).
        """
        since = self.job.restarts()
        newest_worker(self.job.stack.taskmanager).kill()
        if self._restarted(since, NOTICE_TIMEOUT_S):
            return True
        summary.LINES.append("Flink did not notice the end of a Python worker")
        self.wait_for_restart(since)
        return False

    def _restarted(self, since: int, timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while self.job.restarts() <= since:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(POLL_S)
        return True

    def close_windows(self) -> None:
        """Ends the load. Returns when all windows are stored and all records are committed."""
        self.stop_load()
        self.clock_ms = closing_time_ms(self.clock_ms, self.job.settings.window)
        self.job.send_heartbeats(self.clock_ms)
        self.clock_ms += self.job.settings.window.length_ms
        self.job.wait_until_committed(RECOVERY_TIMEOUT_S)

    def compare(self) -> dict[str, Any]:
        """Asserts what must hold after all faults: all output is as the reference's, once each.

        Call it when the job has ended: an idle one would take the CPU time that this needs. Returns
        the audit's report.
        """
        audit_report = self.job.audit()
        assert audit_report["ok"] and not audit_report["open_windows"], audit_report
        comparison = compare_with_reference(self.job.settings, copies=self.copies)
        assert comparison.ok, comparison.as_json()
        assert comparison.job == comparison.reference
        assert_scoring(self.job.settings, TESTER_PREFIX, CARD_TEST_RULE)
        return audit_report
