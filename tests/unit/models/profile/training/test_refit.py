"""`train --refit`: what validation has chosen is repeated on more windows, and the card says so."""

import dataclasses

import numpy as np
import pytest
import torch

from liveprofile.errors import InputError
from liveprofile.units import DAY_MS
from models.profile import checkpoint, recipes
from models.profile.data.prepared import prepare, prepare_refit
from models.profile.training import fit_value_curves, training_state
from models.profile.training.parts import fit_parts
from models.profile.training.train import fit, train
from tests.unit.models.profile.miniature import MINIATURE, run, write_rows

pytestmark = pytest.mark.slow

SHORT = dataclasses.replace(MINIATURE, epochs=4, windows_per_epoch=128, learning_rate=0.05)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("refit") / "rows")


@pytest.fixture(scope="module")
def plain(rows, tmp_path_factory):
    """The folder and the card of a training without a refit."""
    folder = tmp_path_factory.mktemp("plain")
    return folder, train(SHORT, rows, folder)


@pytest.fixture(scope="module")
def refitted(rows, tmp_path_factory):
    """The folder and the card of a training that is repeated on training and validation."""
    folder = tmp_path_factory.mktemp("refitted")
    return folder, train(SHORT, rows, folder, refit="validation")


@pytest.fixture(scope="module")
def on_all_rows(rows, tmp_path_factory):
    """The folder and the card of a training that is repeated on all rows."""
    folder = tmp_path_factory.mktemp("on_all_rows")
    return folder, train(SHORT, rows, folder, refit="test")


def without_times(metrics):
    return {name: value for name, value in metrics.items() if name not in ("seconds", "refit")}


def test_card_of_a_refit_has_the_figures_before_and_says_what_it_was_trained_on(plain, refitted):
    before, card = plain[1], refitted[1]
    assert without_times(card["metrics"]) == without_times(before["metrics"])
    assert card["surprise_quantiles"] == before["surprise_quantiles"]
    assert (card["version"], before["version"]) == ("miniature-1-refit", "miniature-1")
    parts = before["data"]["windows_by_part"]
    assert card["data"]["windows_by_part"] == {
        "train": parts["train"] + parts["validation"],
        "validation": 0,
        "test": parts["test"],
    }
    assert card["data"]["train_until"] == before["data"]["validation_until"]
    said = card["data"]["refit"]
    assert said["part"] == "validation" and said["measured_by"] == "test"
    assert said["chosen_by_training_until"] == before["data"]["train_until"]
    assert card["sha256"] != before["sha256"]


def test_refit_repeats_the_choices_of_validation_on_all_windows(rows, refitted):
    """The stored weights are those of a training on both parts with the chosen epochs."""
    folder, card = refitted
    chosen = card["metrics"]
    data = prepare(SHORT, rows)
    split = data.split
    again = prepare_refit(SHORT, data, "validation")
    np.testing.assert_array_equal(again.split.train, np.union1d(split.train, split.validation))
    trunk = fit(SHORT, again, epochs=chosen["best_epoch"])
    assert len(trunk.curves) == chosen["best_epoch"]
    first = fit_parts(fit(SHORT, data).model, data, SHORT)
    repeated = fit_parts(trunk.model, again, SHORT, chosen=first)
    assert repeated.ranker["epoch"] == first.ranker["epoch"]
    assert repeated.ranker["windows"] > first.ranker["windows"]
    assert ("ndcg" in repeated.ranker) == first.ranker["ndcg"]["kept"]
    assert repeated.value_curves["horizons_days"] == first.value_curves["horizons_days"]
    stored, *_ = checkpoint.load(folder)
    for name, value in stored.state_dict().items():
        torch.testing.assert_close(trunk.model.state_dict()[name], value, rtol=1e-3, atol=1e-3)


def test_refit_learns_nothing_from_windows_after_its_part(rows, refitted, tmp_path):
    """Rows that lack the test part's purchases give the same weights."""
    data = prepare(SHORT, rows)
    until_ms = data.split.validation_until_ms
    dated = dataclasses.replace(
        SHORT,
        validation_from=day(data.split.train_until_ms),
        test_from=day(until_ms),
    )
    cards = []
    for name, days in (("all", 40), ("less", 36)):
        folder = write_rows(tmp_path / name, days=days)
        cards.append(train(dated, folder, tmp_path / f"{name}-model", refit="validation"))
    assert cards[0]["data"]["windows"] > cards[1]["data"]["windows"]
    assert cards[0]["sha256"] == cards[1]["sha256"]


def day(time_ms):
    return str(np.datetime64(int(time_ms), "ms").astype("datetime64[D]"))


def test_labels_of_the_value_curves_are_purged_only_if_a_part_is_left(rows):
    data = prepare(SHORT, rows)
    for part, horizons in (("validation", 2), ("test", 1)):
        split = prepare_refit(SHORT, data, part).split
        last_ms = fit_value_curves.last_moment_ms(data.corpus.streams, split, 7)
        assert last_ms == split.train_until_ms - horizons * 7 * DAY_MS


def test_killed_refit_resumes_and_ends_with_the_same_weights(rows, refitted, tmp_path):
    class Killed(Exception):
        """Stops a training in this process."""

    starts = []

    def kill_in_refit(stage, done, total):
        if stage == "train" and done == 1:
            starts.append(done)
        if len(starts) == 2 and stage == "ranker":
            raise Killed

    notes = []
    with pytest.raises(Killed):
        train(SHORT, rows, tmp_path, kill_in_refit, notes.append, refit="validation")
    assert not notes and (tmp_path / training_state.REFIT_FILE).is_file()
    with pytest.raises(InputError, match=r"refit-state\.pt: of another run: refit was validation"):
        train(SHORT, rows, tmp_path, on_note=notes.append, refit="test")
    card = train(SHORT, rows, tmp_path, on_note=notes.append, refit="validation")
    assert [str(tmp_path / training_state.REFIT_FILE) in note for note in notes] == [
        False,
        False,
        True,
    ]
    assert card["sha256"] == refitted[1]["sha256"]
    assert not [*tmp_path.glob("*.pt*")]


def test_evaluate_refuses_the_part_that_a_checkpoint_was_trained_on(
    rows, refitted, on_all_rows, tmp_path, monkeypatch
):
    monkeypatch.setitem(recipes.RECIPES, "general-7-days", SHORT)
    command = f"model evaluate general-7-days --rows {rows} --checkpoint "
    result = run(command + str(refitted[0]))
    assert isinstance(result.exception, InputError) and result.exception.exit_code == 2
    text = str(result.exception)
    assert "was trained on the validation part" in text and "\n" not in text
    looks = tmp_path / "looks.jsonl"
    result = run(f"{command}{on_all_rows[0]} --part test --test-log {looks}")
    assert "was trained on the test part" in str(result.exception)
    assert looks.read_text() == ""


def test_teacher_that_was_trained_on_validation_is_refused(rows, refitted, tmp_path):
    with pytest.raises(InputError, match="was trained on the validation part"):
        train(SHORT, rows, tmp_path, teacher_folder=refitted[0])
