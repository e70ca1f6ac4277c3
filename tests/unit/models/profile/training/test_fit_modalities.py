"""Modalities: kept where they help, dropped where they do not, and read with their windows."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.load.rows import as_table, batches
from liveprofile.errors import InputError
from liveprofile.events.modalities import PLACE, TEXT, Modality
from liveprofile.events.window import parse_training_window
from liveprofile.privacy.trained_users import user_key
from liveprofile.settings import load
from liveprofile.units import DAY_MS
from models.profile import checkpoint, text_encoder
from models.profile.data import training_rows
from models.profile.data.prepared import prepare, prepare_refit
from models.profile.model_card import WEIGHTS
from models.profile.recipes import recipe
from models.profile.training import fit_modalities
from models.profile.training.train import fit as fit_trunk
from models.profile.training.train import train
from tests.support.streams import modality_shop
from tests.support.streams.modality_shop import CATEGORIES, ENCODER, VECTOR_LENGTH

pytestmark = pytest.mark.slow

SETTINGS = load(window={"length_ms": DAY_MS})
USERS, DAYS = 60, 32
TINY = dataclasses.replace(
    recipe("general-7-days"),
    name="tiny",
    epochs=1,
    windows_per_epoch=400,
    validation_windows=100,
    batch_rows=64,
    item_negatives=16,
    item_buckets=16,
    category_buckets=8,
    enriched_share=0.0,
    dim=16,
    layers=1,
    ranker_epochs=1,
    ranker_ndcg_windows=100,
    curve_moments=4,
    curve_epochs=1,
    seed=2,
)


def write_rows(file, messages):
    tables = map(as_table, batches(messages, SETTINGS, 1_000))
    pq.write_table(pa.concat_tables(tables), file)


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_modalities, "MIN_STEPS", 250)
        patch.setattr(fit_modalities, "LEARNING_RATE", 0.1)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains once per kind of vectors and returns the folder of the model checkpoint.

    The training rows are in the file of the same name with the suffix .parquet.
    """
    root, done = tmp_path_factory.mktemp("fuse"), {}

    def train_with(kind, shuffled=False):
        name = f"{kind}-{shuffled}"
        if name not in done:
            messages = modality_shop.messages(USERS, DAYS, kind, shuffled=shuffled)
            write_rows(root / f"{name}.parquet", messages)
            encode_texts = text_encoder.encode if kind == "text" else None
            train(TINY, root / f"{name}.parquet", root / name, encode_texts=encode_texts)
            done[name] = root / name
        return done[name]

    return train_with


@pytest.mark.parametrize(
    ("kind", "modality"),
    [("media", Modality(ENCODER, VECTOR_LENGTH)), ("place", PLACE), ("text", TEXT)],
)
def test_modality_that_predicts_the_next_category_is_kept(trained, kind, modality):
    (trial,) = checkpoint.load(trained(kind))[3].modalities
    assert (trial.name, trial.numbers, trial.kept) == (*modality, True)
    for control in ("without", "shuffled"):
        assert trial.metrics["loss"] < 0.85 * trial.metrics[f"loss_{control}"]
        assert trial.metrics[f"loss_difference_{control}"][2] < -0.1


def test_uninformative_modality_is_dropped_and_leaves_the_weights_unchanged(trained):
    folder = trained("media", shuffled=True)
    (trial,) = checkpoint.load(folder)[3].modalities
    assert not trial.kept
    weights = [(path / WEIGHTS).read_bytes() for path in (folder, trained("nothing"))]
    assert weights[0] == weights[1]


def test_modality_that_only_corrects_biases_is_dropped(tmp_path):
    """A component that all vectors share acts as an additional bias of the categories."""
    messages = modality_shop.messages(USERS, DAYS, "media", shuffled=True, common=4.0)
    write_rows(tmp_path / "rows.parquet", messages)
    data = prepare(TINY, tmp_path / "rows.parquet")
    model = fit_trunk(TINY, data).model
    with torch.no_grad():
        model.category_bias[1 : 1 + CATEGORIES // 2] += 3
    (trial,) = fit_modalities.fit(model, data.corpus, data.split, TINY)
    assert trial.metrics["loss_difference_without"][2] < 0
    assert trial.metrics["loss"] == pytest.approx(trial.metrics["loss_shuffled"], abs=0.1)
    assert not trial.kept and not model.fusion.modalities


def test_modality_with_too_few_windows_is_not_tried(tmp_path):
    write_rows(tmp_path / "rows.parquet", modality_shop.messages(12, DAYS, "media"))
    data = prepare(TINY, tmp_path / "rows.parquet")
    assert fit_modalities.fit(fit_trunk(TINY, data).model, data.corpus, data.split, TINY) == []


def test_vectors_stay_with_their_windows_in_any_row_order(trained, tmp_path, monkeypatch):
    file = trained("media").with_suffix(".parquet")
    streams, table = training_rows.read(file), pq.read_table(file)
    monkeypatch.setattr(training_rows, "PART_WINDOWS", 50)
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    pq.write_table(shuffled, tmp_path / "rows.parquet")
    shuffled_streams = training_rows.read(tmp_path / "rows.parquet")
    assert shuffled_streams.fingerprint() == streams.fingerprint()
    (window_vectors,) = shuffled_streams.window_vectors.values()
    windows = np.array([5, 0, len(shuffled_streams.user_W) - 1])
    index, vector_KV = window_vectors.select(windows)
    expected = [
        parse_training_window(row["events"]).modalities.vectors[Modality(ENCODER, VECTOR_LENGTH)]
        for row in sorted(
            table.to_pylist(), key=lambda row: (user_key(row["user_id"]), row["window_end_ms"])
        )
    ]
    assert index.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(vector_KV, [expected[window] for window in windows])


def test_texts_are_encoded_only_with_an_encoder(trained):
    file = trained("text").with_suffix(".parquet")
    assert training_rows.read(file).window_vectors == {}
    streams = training_rows.read(file, encode_texts=text_encoder.encode)
    (window_vectors,) = streams.window_vectors.values()
    np.testing.assert_allclose(np.linalg.norm(window_vectors.vector_KV, axis=1), 1, 1e-5)


def test_more_encoder_names_than_the_limit_are_rejected(trained, monkeypatch):
    monkeypatch.setattr(training_rows, "MAX_MODALITIES", 0)
    with pytest.raises(InputError, match="more than 0 encoders"):
        training_rows.read(trained("media").with_suffix(".parquet"))


def test_refit_repeats_the_kept_modality_for_its_best_epochs(trained):
    folder = trained("media")
    stored, *_, card = checkpoint.load(folder)
    data = prepare(TINY, folder.with_suffix(".parquet"))
    again = prepare_refit(TINY, data, "validation")
    model = fit_trunk(TINY, again).model
    dropped = card.modalities[0].model_copy(update={"name": "dropped", "kept": False})
    trials = [dropped, *card.modalities]
    epochs = []
    refitted = fit_modalities.fit(
        model, again.corpus, again.split, TINY, lambda *step: epochs.append(step[:2]), trials
    )
    assert refitted == trials and model.fusion.modalities == stored.fusion.modalities
    assert model.fusion.weights[0].abs().max() > 0
    assert 0 < len(epochs) <= card.modalities[0].metrics["epoch"]
