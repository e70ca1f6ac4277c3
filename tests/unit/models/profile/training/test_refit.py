"""`train --refit`: what validation has chosen is repeated on more windows, and the card says so."""

import dataclasses

import numpy as np
import pytest
import torch

from liveprofile.errors import InputError
from liveprofile.units import DAY_MS
from models.profile import checkpoint, recipes
from models.profile.data.prepared import prepare, prepare_refit
from models.profile.training import fit_value_curves
from models.profile.training.train import fit, train
from tests.unit.models.profile.miniature import MINIATURE, run, write_rows

pytestmark = pytest.mark.slow

DAYS = {"validation_from": "2017-01-29", "test_from": "2017-02-04"}
SHORT = dataclasses.replace(MINIATURE, epochs=3, windows_per_epoch=96, learning_rate=0.05, **DAYS)


@pytest.fixture(scope="module")
def data(miniature_rows):
    return prepare(SHORT, miniature_rows)


@pytest.fixture(scope="module")
def refitted(miniature_rows, tmp_path_factory):
    """The folder and the card of a training that is repeated on training and validation."""
    folder = tmp_path_factory.mktemp("refitted")
    return folder, train(SHORT, miniature_rows, folder, refit="validation")


def without_times(metrics):
    return {name: value for name, value in metrics.items() if name not in ("seconds", "refit")}


def test_card_of_a_refit_has_the_figures_before_and_says_what_it_was_trained_on(
    miniature_rows, refitted, tmp_path
):
    plain, card = train(SHORT, miniature_rows, tmp_path), refitted[1]
    assert without_times(card["metrics"]) == without_times(plain["metrics"])
    assert card["surprise_quantiles"] == plain["surprise_quantiles"]
    assert (card["version"], plain["version"]) == ("miniature-1-refit", "miniature-1")
    parts = plain["data"]["windows_by_part"]
    assert card["data"]["windows_by_part"] == {
        "train": parts["train"] + parts["validation"],
        "validation": 0,
        "test": parts["test"],
    }
    assert card["data"]["train_until"] == plain["data"]["validation_until"]
    said = card["data"]["refit"]
    assert said["part"] == "validation" and said["measured_by"] == "test"
    assert said["chosen_by_training_until"] == plain["data"]["train_until"]


def test_refit_repeats_the_choices_of_validation_on_all_windows(data, refitted):
    """The stored network is that of a training on both parts with the chosen epochs."""
    folder, card = refitted
    chosen, again = card["metrics"], prepare_refit(SHORT, data, "validation")
    expected = np.union1d(data.split.train, data.split.validation)
    np.testing.assert_array_equal(again.split.train, expected)
    trainer = fit(SHORT, again, epochs=chosen["best_epoch"])
    assert len(trainer.curves) == chosen["best_epoch"]
    stored = checkpoint.load(folder)[0].state_dict()
    for name, value in trainer.model.state_dict().items():
        if name != "embed":  # fitted behind the network
            torch.testing.assert_close(stored[name], value, rtol=1e-3, atol=1e-3)
    ranker, repeated = chosen["ranker"], chosen["refit"]["ranker"]
    assert repeated["epoch"] == ranker["epoch"] and repeated["windows"] > ranker["windows"]
    assert ("ndcg" in repeated) == ranker["ndcg"]["kept"]
    curves, repeated = chosen["value_curves"], chosen["refit"]["value_curves"]
    assert repeated["horizons_days"] == curves["horizons_days"]


def test_refit_learns_nothing_from_windows_after_its_part(refitted, tmp_path):
    """Rows that lack the test part's purchases give the same weights."""
    less = write_rows(tmp_path / "less", days=36)
    card = train(SHORT, less, tmp_path / "model", refit="validation")
    assert card["data"]["windows"] < refitted[1]["data"]["windows"]
    assert card["sha256"] == refitted[1]["sha256"]


def test_labels_of_the_value_curves_are_purged_only_if_a_part_is_left(data):
    for part, horizons in (("validation", 2), ("test", 1)):
        split = prepare_refit(SHORT, data, part).split
        last_ms = fit_value_curves.last_moment_ms(data.corpus.streams, split, 7)
        assert last_ms == split.train_until_ms - horizons * 7 * DAY_MS


def test_part_that_a_checkpoint_was_trained_on_is_refused(
    miniature_rows, refitted, tmp_path, monkeypatch
):
    monkeypatch.setitem(recipes.RECIPES, "general-7-days", SHORT)
    paths = {"rows": miniature_rows, "checkpoint": refitted[0]}
    result = run("model evaluate general-7-days", **paths)
    assert isinstance(result.exception, InputError) and result.exception.exit_code == 2
    text = str(result.exception)
    assert "was trained on the validation part" in text and "\n" not in text
    with pytest.raises(InputError, match="was trained on the validation part"):
        train(SHORT, miniature_rows, tmp_path, teacher_folder=refitted[0])
