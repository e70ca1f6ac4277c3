"""The user model changes while the job runs under load: canary, all users, refusal, rollback."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from liveprofile.storage.connection import open_session
from models.profile.model_card import WEIGHTS, ModelCard
from tests.support.job_under_test import BUSY_JOB, JobUnderTest
from tests.support.model_folders import SHIPPED, copy_model
from tests.support.streams.seeded import Message
from udfs.profile import deployment
from udfs.profile.deployment import FIRST_REVISION, in_canary
from udfs.profile.model_feed import read_user_models, write_user_models

pytestmark = pytest.mark.services

WINDOW_MS = 1_000
USERS = [f"user-{number}" for number in range(50)]
TIMEOUT_S = 180.0


@contextmanager
def load_on(job: JobUnderTest) -> Iterator[None]:
    """An event of each user every 250 ms, stamped with the present time."""
    stopped, failures = threading.Event(), list[BaseException]()

    def send() -> None:
        try:
            for number in itertools.count():
                if stopped.wait(0.25):
                    return
                now_ms = int(time.time() * 1_000)
                job.send([_view(user, f"{number}-{user}", now_ms) for user in USERS])
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
    assert not failures


def _view(user: str, event_id: str, time_ms: int) -> Message:
    event = {"event_id": event_id, "user_id": user, "event_type": "view", "event_time": time_ms}
    return Message(user.encode(), json.dumps(event | {"item_id": "i", "category": "c"}).encode())


def write_times_by_version(job: JobUnderTest, since_ms: int) -> dict[str, dict[str, set[int]]]:
    """version -> user -> the revisions in the write times of windows that end after `since_ms`.

    Only versions that the user's profile or delta rows carry; both tables are read.
    """
    keyspace = job.settings.cassandra.keyspace
    found: dict[str, dict[str, set[int]]] = {}
    with open_session(job.settings.cassandra) as session:
        for table in ("user_profile", "profile_delta"):
            rows = session.execute(
                "SELECT user_id, model_version, to_unix_timestamp(window_end) AS end_ms,"
                f" WRITETIME(model_version) AS us FROM {keyspace}.{table}"
            )
            for row in rows:
                if row.end_ms > since_ms:
                    of_user = found.setdefault(row.model_version, {})
                    of_user.setdefault(row.user_id, set()).add(row.us - row.end_ms * 1_000)
    return found


def wait_for(job: JobUnderTest, expected: Callable[[str], str], revision: int) -> None:
    """Returns when windows that close from now on have the expected version for each user."""
    deadline_s = time.monotonic() + TIMEOUT_S
    wanted = {user: {expected(user): {revision}} for user in USERS}
    while True:
        since_ms = int(time.time() * 1_000)
        time.sleep(4 * WINDOW_MS / 1_000)
        stored: dict[str, dict[str, set[int]]] = {}
        for version, revisions in write_times_by_version(job, since_ms).items():
            for user, of_user in revisions.items():
                stored.setdefault(user, {})[version] = of_user
        if stored == wanted:
            return
        assert time.monotonic() < deadline_s, stored


def status(job: JobUnderTest) -> dict[str, Any]:
    return job.run("job", "status", ok=False)


def wait_for_status(job: JobUnderTest, is_reached: Callable[[dict[str, Any]], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_reached(report := status(job)):
        assert time.monotonic() < deadline_s, report
        time.sleep(1)


def model_command(job: JobUnderTest, *arguments: str | Path) -> dict[str, Any]:
    return job.run("model", *map(str, arguments))


def served_by_all(revision: int, refused: int) -> dict[str, int]:
    """What `status` reports if all workers serve one deployment."""
    return {"lowest_revision": revision, "highest_revision": revision, "refused": refused}


def apply_and_damage(job: JobUnderTest, folder: Path) -> None:
    """Does what `model apply` does, but a file changes before the workers read it."""
    reference = deployment.reference_to(str(folder))
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    models = deployment.apply(read_user_models(job.settings), reference, None, "test")
    write_user_models(job.settings, models)


@pytest.fixture
def job(new_job: Callable[..., JobUnderTest]) -> Iterator[JobUnderTest]:
    window = {"length_ms": WINDOW_MS, "out_of_orderness_ms": 100}
    job = new_job("swap", job=BUSY_JOB, window=window, scoring={"enabled": False})
    job.submit()
    yield job
    job.cancel()


def test_model_changes_under_load_without_a_restart(job: JobUnderTest, tmp_path: Path) -> None:
    shipped = ModelCard.read(SHIPPED)
    second = copy_model(tmp_path, "second")
    with load_on(job):
        wait_for(job, lambda user: shipped.version, shipped.revision)

        applied = model_command(job, "apply", second, "--canary", "20", "--by", "anna")
        assert (applied["revision"], applied["canary_percent"]) == (FIRST_REVISION, 20)
        assert 0 < sum(in_canary(user, "second", 20) for user in USERS) < len(USERS)
        wait_for(
            job,
            lambda user: "second" if in_canary(user, "second", 20) else shipped.version,
            FIRST_REVISION,
        )

        model_command(job, "apply", second)
        wait_for(job, lambda user: "second", FIRST_REVISION + 1)
        apply_and_damage(job, copy_model(tmp_path, "damaged"))
        wait_for_status(
            job, lambda report: report["models"] == served_by_all(FIRST_REVISION + 1, refused=1)
        )
        wait_for(job, lambda user: "second", FIRST_REVISION + 1)

        model_command(job, "rollback")
        wait_for(job, lambda user: "second", FIRST_REVISION + 3)
        model_command(job, "rollback")
        wait_for(job, lambda user: shipped.version, FIRST_REVISION + 4)
        wait_for_status(
            job, lambda report: report["models"] == served_by_all(FIRST_REVISION + 4, refused=0)
        )
        assert job.restarts() == 0
    listed = model_command(job, "list")["deployments"]
    assert [one["revision"] - FIRST_REVISION for one in listed] == [4, 3, 2, 1, 0]
    assert listed[-1]["applied_by"] == "anna"
