"""The job stops with a savepoint and resumes from it with other settings.

It resumes at another parallelism, then with a changelog of its state (`job.changelog`), and again
from a savepoint with the changelog. There a Python worker is killed (kill -9). Last, it resumes
without the changelog at parallelism 1.

Load: steady before and after. While the job is stopped the first time, late events are sent, so
that the resumed job reads them first.
Must hold: no event is lost or used twice, every profile equals the reference's.
Recovery: automatic after the kill; the tasks read the savepoint and the changelog after it.
"""

import itertools
from contextlib import ExitStack
from pathlib import Path

import pytest

from liveprofile.flink import rest
from tests.faults.jobs.loaded_job import LATE_BY_MS, STEP_MS, USERS, LoadedJob
from tests.support.job_under_test import run_cli
from tests.support.streams.seeded import Message
from tests.support.streams.shop import shop_events, to_message

pytestmark = pytest.mark.faults

LATE_EVENTS = 40


def late_events(loaded_job: LoadedJob) -> list[Message]:
    stream = shop_events(99, USERS, STEP_MS, loaded_job.clock_ms - LATE_BY_MS)
    return [
        to_message(event | {"event_id": f"late-after-savepoint-{event['event_id']}"})
        for event in itertools.islice(stream, LATE_EVENTS)
    ]


def test_job_resumes_at_other_parallelism_with_late_events_first(
    loaded_job: LoadedJob, tmp_path: Path
) -> None:
    job = loaded_job.job
    with loaded_job.load():
        pass  # leaves windows open when the job stops
    # The load continues when the job does, until after its recovery.
    with (
        ExitStack() as load,
        loaded_job.recovery("stopped with a savepoint, resumed at parallelism 3"),
    ):
        savepoint = rest.stop_with_savepoint(job.rest_url, job.id, tmp_path.as_uri())
        job.send(late_events(loaded_job))
        job.submit("--savepoint", savepoint, "--parallelism", "3")
        load.enter_context(loaded_job.load())
    loaded_job.check()


def test_job_with_changelog_recovers_when_python_worker_is_killed(
    loaded_job: LoadedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = loaded_job.job
    savepoint = rest.stop_with_savepoint(job.rest_url, job.id, tmp_path.as_uri())
    monkeypatch.setenv("LIVEPROFILE_JOB__CHANGELOG", "true")
    options = ("--config", job.config_file, "--savepoint", savepoint)
    with monkeypatch.context() as changed:
        changed.setenv("LIVEPROFILE_SCORING__HISTORY", "64")
        refused = run_cli("job", "submit", "--parallelism", "3", *options, ok=False)
    assert refused.returncode != 0
    assert "setting scoring.history = 64" in refused.stderr and "Set it to 128" in refused.stderr
    refused = run_cli("job", "submit", "--parallelism", "2", *options, ok=False)
    assert refused.returncode != 0
    assert "has parallelism 3, the job 2; start at parallelism 3" in refused.stderr
    job.submit("--savepoint", savepoint, "--parallelism", "3")
    savepoint = rest.stop_with_savepoint(job.rest_url, job.id, tmp_path.as_uri())
    job.submit("--savepoint", savepoint, "--parallelism", "3")
    # `load` waits for a checkpoint: in claim mode NO_CLAIM Flink would refuse the first one.
    with loaded_job.load(), loaded_job.recovery("Python worker killed, state with a changelog"):
        loaded_job.kill_worker()
    loaded_job.check()
    checkpoint_config = rest.request(job.rest_url, f"/jobs/{job.id}/checkpoints/config")
    assert checkpoint_config["state_changelog_enabled"]


def test_job_resumes_at_parallelism_1(loaded_job: LoadedJob, tmp_path: Path) -> None:
    """Flink then chains the last operator of the scoring pipeline; its state must stay its own."""
    job = loaded_job.job
    with (
        ExitStack() as load,
        loaded_job.recovery("stopped with a savepoint, resumed at parallelism 1"),
    ):
        savepoint = rest.stop_with_savepoint(job.rest_url, job.id, tmp_path.as_uri())
        job.submit("--savepoint", savepoint, "--parallelism", "1")
        load.enter_context(loaded_job.load())
    loaded_job.check()
