"""The job is stopped with a savepoint and goes on from it with other settings: at another
parallelism, then with a log of each change of its state (`job.changelog`), and again from a
savepoint with that. There a worker dies. At last it goes on without the log and at parallelism 1.

Load: steady before and after; while the job is away the first time, late events come, so that they
lie right behind the offsets it goes on from. The worker's end is a kill -9.
Holds: no event is lost or used twice, every profile is the reference's; what the windows drop of
the late events is found by the audit (see Shop.check).
Recovers: by itself from the kill; the tasks read the savepoint and the log behind it.
"""

import itertools
from contextlib import ExitStack
from pathlib import Path

import pytest

from liveprofile.flink import rest
from stack.local import Stack
from tests.faults.loaded_job import LATE_BY_MS, STEP_MS, USERS, LoadedJob
from tests.support.job_under_test import run_cli
from tests.support.seeded_streams import Message
from tests.support.shop import shop_events, to_message

pytestmark = pytest.mark.faults

LATE = 40


def late_events(shop: LoadedJob) -> list[Message]:
    stream = shop_events(99, USERS, STEP_MS, shop.clock_ms - LATE_BY_MS)
    return [
        to_message(event | {"event_id": f"late-behind-{event['event_id']}"})
        for event in itertools.islice(stream, LATE)
    ]


def test_another_parallelism_and_late_events_behind_the_restored_offset(
    shop: LoadedJob, tmp_path: Path
) -> None:
    job = shop.job
    with shop.open():
        pass  # windows are open when the job stops
    # The load goes on when the job does, and past its recovery.
    with ExitStack() as load, shop.recovery("stopped with a savepoint, resumed at parallelism 3"):
        savepoint = rest.stop_with_savepoint(job.rest_url, job.id, tmp_path.as_uri())
        job.send(late_events(shop))
        job.submit("--savepoint", savepoint, "--parallelism", "3")
        load.enter_context(shop.open())
    shop.check()


def test_a_log_of_changes_and_a_killed_python_worker(
    shop: LoadedJob, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = shop.job
    savepoint = rest.stop_with_savepoint(job.rest_url, job.id, tmp_path.as_uri())
    monkeypatch.setenv("LIVEPROFILE_JOB__CHANGELOG", "true")
    given = ("--config", job.config_file, "--savepoint", savepoint)
    refused = run_cli("submit", "--parallelism", "2", *given, ok=False)
    assert refused.returncode != 0
    assert "has parallelism 3, the job 2; start at parallelism 3" in refused.stderr
    job.submit("--savepoint", savepoint, "--parallelism", "3")
    savepoint = rest.stop_with_savepoint(job.rest_url, job.id, tmp_path.as_uri())
    job.submit("--savepoint", savepoint, "--parallelism", "3")
    restarts = job.restarts()
    # Waits for a checkpoint: in claim mode NO_CLAIM Flink would refuse the first one.
    with shop.open(), shop.recovery("Python worker killed, state with a changelog"):
        stack.taskmanager.workers()[0].kill()
        shop.wait_for_restart(since=restarts)
    shop.check()
    settings = rest.request(job.rest_url, f"/jobs/{job.id}/checkpoints/config")
    assert settings["state_changelog_enabled"]


def test_all_at_one_place(shop: LoadedJob, tmp_path: Path) -> None:
    """The event lane's last step is chained then to the one before, and its state stays its own."""
    job = shop.job
    with ExitStack() as load, shop.recovery("stopped with a savepoint, resumed at parallelism 1"):
        savepoint = rest.stop_with_savepoint(job.rest_url, job.id, tmp_path.as_uri())
        job.submit("--savepoint", savepoint, "--parallelism", "1")
        load.enter_context(shop.open())
    shop.check()
