"""The disk with the checkpoints is full.

Load: steady. Fault: a file fills the file system of the checkpoints for 15 s, about 7 checkpoints.
Must hold: the job runs on without a restart, `liveprofile job status` warns, no event is lost or
used twice, and every profile equals the reference's.
Recovery: automatic with the first checkpoint after there is space.

Needs the right to mount a file system in memory; skipped without it.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.jobs.loaded_job import WINDOW, LoadedJob, open_loaded_job
from tests.faults.monitoring.alerts import Fires
from tests.support.job_under_test import BUSY_JOB, JobUnderTest, run_cli

pytestmark = pytest.mark.faults

FULL_S = 15
DISK_MB = 192
BLOCK = bytes(64 * 1024)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path_factory.mktemp("disk")
    command = shutil.which("mount")
    if command is None:
        pytest.skip("there is no command `mount`")
    mount = [command, "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def job_on_disk(new_job: Callable[..., JobUnderTest], disk: Path) -> Iterator[LoadedJob]:
    job = new_job(
        "full_disk",
        window=WINDOW,
        scoring={"enabled": False},
        job=BUSY_JOB | {"checkpoint_dir": disk.as_uri()},
    )
    job.submit()
    with open_loaded_job(job, with_scoring=False) as loaded_job:
        yield loaded_job


@contextmanager
def full(disk: Path) -> Iterator[Callable[[], None]]:
    """Fills the disk. The function fills it again: the end of a checkpoint may free some space."""
    filler = disk / "filler"

    def fill() -> None:
        with filler.open("ab", buffering=0) as file:
            while True:
                try:
                    file.write(BLOCK)
                except OSError as error:
                    assert error.errno == errno.ENOSPC
                    return

    fill()
    try:
        yield fill
    finally:
        filler.unlink()


def test_job_runs_on_when_the_disk_is_full(
    job_on_disk: LoadedJob, disk: Path, fires: Fires
) -> None:
    job = job_on_disk.job
    restarts = job.restarts()
    with job_on_disk.load():
        with (
            fires(job, "LiveprofileCheckpointFailed"),
            full(disk) as fill,
            job_on_disk.recovery(f"checkpoints' disk full for {FULL_S} s"),
        ):
            end_s = time.monotonic() + FULL_S
            while time.monotonic() < end_s:
                fill()
                time.sleep(0.1)
            status = run_cli("job", "status", "--config", job.config_file, ok=False)
        job.wait_for_checkpoint(180)
    assert status.returncode == 1 and "no checkpoint has completed" in status.stderr
    assert job.restarts() == restarts
    job_on_disk.check()
    job.wait_for_checkpoint(180)
    assert run_cli("job", "status", "--config", job.config_file).stderr == ""
