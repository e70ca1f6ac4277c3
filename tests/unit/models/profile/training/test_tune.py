"""Hyperparameter studies: resuming, the parameter file, and the search space."""

import dataclasses
import json

import pytest

from liveprofile.errors import InputError
from models.profile.data.prepared import prepare
from models.profile.recipes import RECIPES, override_from_toml, recipe
from models.profile.training import tune as tuning
from models.profile.training.tune import SEARCH_SPACE, tune
from tests.unit.models.profile.miniature import MINIATURE, run

pytestmark = pytest.mark.slow

TINY = dataclasses.replace(
    MINIATURE, epochs=2, windows_per_epoch=64, validation_windows=40, item_negatives=64
)


def test_killed_study_resumes_with_the_same_trials_and_never_reads_the_test_split(
    miniature_rows, tmp_path, monkeypatch
):
    class KilledError(Exception):
        pass

    def stop(stage, done, total):
        if stage == "train" and len(study_notes) == finished:
            raise KilledError  # during the next trial

    def without_test(*_):
        data = prepare(TINY, miniature_rows)
        return data._replace(split=data.split._replace(test=None))

    monkeypatch.setattr(tuning, "prepare", without_test)
    study_notes = []
    for finished in (0, 1):
        with pytest.raises(KilledError):
            tune(TINY, miniature_rows, tmp_path / "killed.db", 3, stop, study_notes.append)
        assert len(study_notes) == finished
    killed = tune(TINY, miniature_rows, tmp_path / "killed.db", 3, on_note=study_notes.append)
    whole_notes = []
    whole = tune(TINY, miniature_rows, tmp_path / "whole.db", 3, on_note=whole_notes.append)
    assert killed.complete + killed.pruned == len(study_notes) == 3
    assert "learning_rate 0.01," in study_notes[0]  # the first trial has the recipe's own values
    outcomes = [[note.partition(":")[2] for note in notes] for notes in (study_notes, whole_notes)]
    assert outcomes[0] == outcomes[1]
    assert len(set(outcomes[0])) == 3
    assert (killed.params, killed.validation_loss) == (whole.params, whole.validation_loss)
    assert tune(TINY, miniature_rows, tmp_path / "whole.db", 3) == whole
    with pytest.raises(InputError, match=r"recipe\.epochs was 2, is 1; name another file"):
        tune(dataclasses.replace(TINY, epochs=1), miniature_rows, tmp_path / "whole.db", 3)


def test_train_accepts_the_parameters_that_tune_writes(miniature_rows, tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "general", TINY)
    paths = {"rows": miniature_rows, "study": tmp_path / "study.db"}
    result = run("model tune general --trials 1 --epochs 1 --json", **paths)
    assert result.exit_code == 0, result.output
    best = json.loads(result.stdout.splitlines()[-1])
    assert best["params"] == {name: getattr(TINY, name) for name in SEARCH_SPACE}
    (tmp_path / "study.toml").write_text((tmp_path / "study.toml").read_text() + "epochs = 1\n")
    out = tmp_path / "out"
    paths = {"rows": miniature_rows, "out": out, "params": best["file"]}
    result = run("model train general --json", **paths)
    assert result.exit_code == 0, result.output
    assert json.loads((out / "card.json").read_text())["recipe"] == {
        **dataclasses.asdict(TINY),
        "epochs": 1,
    }


def test_file_that_is_not_a_study_is_rejected(miniature_rows, tmp_path):
    (tmp_path / "study.db").write_text("no database, but long enough to be taken for one" * 100)
    with pytest.raises(InputError, match=r"study\.db: .*not a database"):
        tune(TINY, miniature_rows, tmp_path / "study.db", 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rte = 0.1", "no 'learning_rte'; there are horizon_days, history_windows"),
        ('name = "mine"', "no 'name'"),
        ("dim = 32.0", r"dim = 32\.0 must be a whole number above 0"),
        ("layers = 0", "layers = 0 must be"),
        ("learning_rate = true", "learning_rate = True must be a number from 0 on"),
        ("learning_rate = nan", "must be a number from 0 on"),
        ("forgotten_share = 3", "must be a number from 0 to 1"),
        ("heads = 3", "dim = 32 must be a multiple of heads = 3"),
        ("dim =", "params.toml: "),
    ],
)
def test_invalid_parameter_file_is_rejected(tmp_path, text, message):
    file = tmp_path / "params.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        override_from_toml(recipe("general"), file)
