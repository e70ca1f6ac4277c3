"""Cassandra is suspended (SIGSTOP), then killed, while the read API answers a client.

Must hold: every request is answered within 2 s, with the profile or 503 and Retry-After; the
process stays alive and ready for health checks; the alert of the suspension fires within a minute.
Recovery: automatic, without a restart of the API.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest

from liveprofile.storage.connection import open_session
from stack.local import Stack
from tests.support.api_server import api_server
from tests.support.job_under_test import JobUnderTest
from tests.support.prometheus import prometheus
from tests.support.summary import LINES
from tests.support.waiting import until

ALERT_WITHIN_S = 60.0
LONGEST_ANSWER_S = 2.0
READY_TIMEOUT_S = 120.0
RECOVERY_TIMEOUT_S = 60.0
FIRING = 'ALERTS{alertname="LiveprofileSourceDown",alertstate="firing",source="cassandra"}'
ANSWERS = 'liveprofile_source_up{source="cassandra"} == 1'


class Answer(NamedTuple):
    status: int
    seconds: float
    retry_after: str


@pytest.fixture(scope="module")
def job(new_job: Callable[..., JobUnderTest]) -> JobUnderTest:
    """Not submitted; it has one profile."""
    job = new_job("serve_faults", serve={"authentication": "none"})
    with open_session(job.settings.cassandra) as session:
        session.execute(
            "INSERT INTO user_profile (user_id, window_start, window_end, model_version,"
            " feature_version, churn, expected_spend, purchases_decayed, amount_decayed,"
            " events_total, profile) VALUES ('42', 0, 1, 'm', 1, 0.5, 1, 1, 1, 1, '{}')"
            " USING TTL 3600"
        )
    return job


@pytest.fixture(scope="module")
def url(job: JobUnderTest) -> Iterator[str]:
    with api_server(job.config_file) as url:
        wait_for(url, 200, READY_TIMEOUT_S)
        yield url


def read(url: str, path: str = "/v1/users/42") -> Answer:
    with httpx2.Client(timeout=30) as client:
        started_s = time.monotonic()  # a client takes a while to make
        answer = client.get(url + path)
        seconds = time.monotonic() - started_s
    return Answer(answer.status_code, seconds, answer.headers.get("retry-after", ""))


def wait_for(url: str, status: int, timeout_s: float) -> float:
    """Returns the seconds until the profile is answered with this status."""
    started_s = time.monotonic()
    until(lambda: read(url).status == status, timeout_s)
    return time.monotonic() - started_s


@contextmanager
def client(url: str, fault: str) -> Iterator[None]:
    """Reads one after the other in a thread while the block runs, and checks the answers."""
    answers: list[Answer] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.05):
            answers.append(read(url))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        until(lambda: any(each.status == 200 for each in answers))  # one before the fault
        yield
        recovery_s = wait_for(url, 200, RECOVERY_TIMEOUT_S)
    finally:
        stop.set()
        thread.join()
    refused = [answer for answer in answers if answer.status == 503]
    slowest_s = max(answer.seconds for answer in answers)
    LINES.append(
        f"read API, {fault}: {len(refused)} of {len(answers)} requests answered 503, slowest answer"
        f" {slowest_s:.2f} s, recovered in {recovery_s:.1f} s"
    )
    assert {answer.status for answer in answers} == {200, 503}
    assert all(answer.retry_after == "1" for answer in refused)
    assert slowest_s < LONGEST_ANSWER_S


def test_suspended_cassandra_is_answered_with_503_and_raises_its_alert(
    job: JobUnderTest, url: str, stack: Stack, tmp_path: Path
) -> None:
    with (
        api_server(job.config_file, "metrics") as exporter,
        prometheus(tmp_path, exporter.split("/")[2]) as server,
    ):
        server.wait_for(ANSWERS)
        assert server.values("liveprofile_cassandra_nodes") == {("down",): 0.0, ("up",): 1.0}
        with client(url, "Cassandra suspended"):
            stack.cassandra.pause()
            suspended_s = time.monotonic()
            try:
                until(lambda: server.values(FIRING), ALERT_WITHIN_S)
                seconds = time.monotonic() - suspended_s
                assert read(url, "/health/live").status == 200
                assert read(url, "/health/ready").status == 503
            finally:
                stack.cassandra.resume()
        LINES.append(f"alert LiveprofileSourceDown: fires {seconds:.1f} s after the suspension")
        server.wait_for(ANSWERS)


def test_killed_cassandra_is_answered_with_503(url: str, stack: Stack) -> None:
    with client(url, "Cassandra killed"):
        stack.cassandra.kill()
        wait_for(url, 503, LONGEST_ANSWER_S)
        stack.cassandra.start()
