"""Resumed training and training on two processes give the result of an undisturbed one."""

import csv
import dataclasses
import json
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext

import psutil
import pytest

from liveprofile.errors import InputError
from models.profile.training import curves, training_state
from models.profile.training.train import train
from models.profile.training.trainer import METRICS
from tests.unit.models.profile.miniature import MINIATURE, write_params

pytestmark = pytest.mark.slow

PROCESSES_S = 120
STEPS_PER_EPOCH = 7
SHORT = dataclasses.replace(MINIATURE, name="general-7-days", epochs=4, windows_per_epoch=200)


@pytest.fixture(scope="module")
def expected(miniature_rows, tmp_path_factory):
    """The model card and the curves of an undisturbed training."""
    folder = tmp_path_factory.mktemp("expected")
    return train(SHORT, miniature_rows, folder), read_curves(folder)


def read_curves(folder):
    with (folder / curves.TABLE).open(newline="") as lines:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(lines)]


@contextmanager
def start_training(rows, out, *launcher, options=()):
    """Runs the train command in a process that is killed at the end if it still runs."""
    command = [sys.executable, *launcher, "-m", "cli", "model", "train", "general-7-days"]
    command += ["--rows", str(rows), "--out", str(out), "--device", "cpu", "--json", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as training:
        try:
            yield training
        finally:
            if training.poll() is None:
                for child in psutil.Process(training.pid).children(recursive=True):
                    child.kill()
                training.kill()


def wait_for_state(training, out):
    until_s = time.monotonic() + PROCESSES_S
    while not (out / training_state.FILE).is_file():
        assert training.poll() is None and time.monotonic() < until_s, training.communicate()
        time.sleep(0.005)


class KilledError(Exception):
    """Stops a training in this process."""


def test_training_resumes_after_its_last_epoch_with_the_same_result(
    miniature_rows, expected, tmp_path
):
    notes = []
    for last in (1, STEPS_PER_EPOCH + 1, 2 * STEPS_PER_EPOCH + 2, None):

        def on_progress(stage, done, total, last=last):
            if (stage, done) == ("train", last):
                raise KilledError

        with nullcontext() if last is None else pytest.raises(KilledError):
            card = train(SHORT, miniature_rows, tmp_path, on_progress, notes.append)
    assert [int(note.split()[3]) for note in notes] == [1, 2]
    assert card["sha256"] == expected[0]["sha256"]


def test_state_of_another_run_is_rejected_until_it_is_removed(miniature_rows, tmp_path):
    one_epoch = dataclasses.replace(SHORT, epochs=1)
    state = training_state.StateFile(
        tmp_path / training_state.FILE, {"recipe": {"dim": 16}, "rows": "a"}
    )
    state.write({"step": 3})
    assert state.read() == {"step": 3}
    with pytest.raises(InputError, match=r"recipe\.name was None, is general.*more; remove it"):
        train(one_epoch, miniature_rows, tmp_path)
    state.file.write_bytes(state.file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"training-state\.pt: .*remove it"):
        train(one_epoch, miniature_rows, tmp_path)
    state.file.unlink()
    assert train(one_epoch, miniature_rows, tmp_path)["metrics"]["epochs"] == 1


def test_failed_write_keeps_the_old_state(tmp_path, monkeypatch):
    state = training_state.StateFile(tmp_path / training_state.FILE, {})
    state.write({"step": 1})

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(training_state.os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        state.write({"step": 2})
    assert state.read() == {"step": 1}


def test_two_processes_resume_after_a_kill_and_train_as_one_process(
    miniature_rows, expected, tmp_path, tmp_path_factory
):
    """Each process has half of the same batches: only the order of additions differs.

    Both also train the refit.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    params = write_params(tmp_path_factory.mktemp("params") / "params.toml", SHORT)
    options = ("--params", str(params), "--refit", "validation")
    with start_training(miniature_rows, tmp_path, *launcher, options=options) as training:
        wait_for_state(training, tmp_path)
        psutil.Process(training.pid).children()[-1].kill()
        _, notes = training.communicate(timeout=PROCESSES_S)
    assert training.returncode == 1 and not (tmp_path / "card.json").exists(), notes
    with start_training(miniature_rows, tmp_path, *launcher, options=options) as training:
        printed, notes = training.communicate(timeout=PROCESSES_S)
    assert training.returncode == 0, notes
    assert notes.count("resuming after epoch") == printed.count("\n") == 1
    expected_card, expected_curves = expected
    refitted = json.loads((tmp_path / "card.json").read_text())["data"]
    assert refitted["train_until"] == expected_card["data"]["validation_until"]
    assert json.loads(printed)["best_epoch"] == expected_card["metrics"]["best_epoch"]
    for row, expected_row in zip(read_curves(tmp_path), expected_curves, strict=True):
        losses = [name for name in row if name != "seconds" and not name.endswith(METRICS)]
        assert [row[name] for name in losses] == pytest.approx(
            [expected_row[name] for name in losses], rel=1e-4, abs=1e-6
        )
