"""Cassandra is suspended (SIGSTOP), then killed, while the read API answers.

Load: one client that reads profiles one after the other. Faults: Cassandra suspended for 10 s;
Cassandra killed and started again.
Must hold: every request is answered within 2 s, with the profile or 503 and Retry-After; the
process stays alive and ready for health checks.
Recovery: automatic, without a restart of the API.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import httpx
import pytest

from liveprofile.storage.connection import open_session
from stack.local import Stack
from tests.support.api_server import api_server
from tests.support.job_under_test import JobUnderTest
from tests.support.summary import LINES

pytestmark = pytest.mark.faults

PAUSE_S = 10.0
LONGEST_ANSWER_S = 2.0
READY_TIMEOUT_S = 120.0
RECOVERY_TIMEOUT_S = 60.0


class Answer(NamedTuple):
    status: int
    seconds: float
    retry_after: str


@pytest.fixture(scope="module")
def url(new_job: Callable[..., JobUnderTest]) -> Iterator[str]:
    job = new_job("serve_faults", serve={"authentication": "none"})
    with open_session(job.settings.cassandra) as session:
        session.execute(
            "INSERT INTO user_profile (user_id, window_start, window_end, model_version,"
            " feature_version, churn, expected_spend, purchases_decayed, amount_decayed,"
            " events_total, profile) VALUES ('42', 0, 1, 'm', 1, 0.5, 1, 1, 1, 1, '{}')"
            " USING TTL 3600"
        )
    with api_server(job.config_file) as url:
        wait_for(url, 200, READY_TIMEOUT_S)
        yield url


def read(url: str, path: str = "/v1/users/42") -> Answer:
    with httpx.Client(timeout=30) as client:
        started_s = time.monotonic()  # a client takes a while to make
        answer = client.get(url + path)
        seconds = time.monotonic() - started_s
    return Answer(answer.status_code, seconds, answer.headers.get("retry-after", ""))


def wait_for(url: str, status: int, timeout_s: float) -> float:
    """Returns the seconds until the profile is answered with this status."""
    started_s = time.monotonic()
    while read(url).status != status:
        assert time.monotonic() - started_s < timeout_s
        time.sleep(0.1)
    return time.monotonic() - started_s


@contextmanager
def load(url: str) -> Iterator[list[Answer]]:
    """Reads one after the other in a thread; yields the answers, complete after the with block."""
    answers: list[Answer] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.05):
            answers.append(read(url))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()


def check(name: str, answers: list[Answer], recovery_s: float) -> None:
    refused = [answer for answer in answers if answer.status == 503]
    slowest_s = max(answer.seconds for answer in answers)
    LINES.append(
        f"read API, {name}: {len(refused)} of {len(answers)} requests answered 503, slowest answer"
        f" {slowest_s:.2f} s, recovered in {recovery_s:.1f} s"
    )
    assert {answer.status for answer in answers} == {200, 503}
    assert all(answer.retry_after == "1" for answer in refused)
    assert slowest_s < LONGEST_ANSWER_S


def test_suspended_cassandra_is_answered_with_503(url: str, stack: Stack) -> None:
    with load(url) as answers:
        stack.cassandra.pause()
        try:
            time.sleep(PAUSE_S)
            assert read(url, "/health/live").status == 200
            assert read(url, "/health/ready").status == 503
        finally:
            stack.cassandra.resume()
        recovery_s = wait_for(url, 200, RECOVERY_TIMEOUT_S)
    check("Cassandra suspended", answers, recovery_s)


def test_killed_cassandra_is_answered_with_503(url: str, stack: Stack) -> None:
    with load(url) as answers:
        stack.cassandra.kill()
        wait_for(url, 503, LONGEST_ANSWER_S)
        stack.cassandra.start()
        recovery_s = wait_for(url, 200, RECOVERY_TIMEOUT_S)
    check("Cassandra killed", answers, recovery_s)
