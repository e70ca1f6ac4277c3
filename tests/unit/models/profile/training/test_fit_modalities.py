"""Modalities: kept where they help, dropped where they do not, and read with their windows."""

import dataclasses

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.load.workload import EventMessage
from liveprofile.errors import InputError
from liveprofile.events.modalities import PLACE, TEXT, Modality
from liveprofile.events.window import parse_training_window
from liveprofile.units import DAY_MS
from models.profile import checkpoint, text_encoder
from models.profile.data import training_rows
from models.profile.data.prepared import prepare, prepare_refit
from models.profile.model_card import WEIGHTS
from models.profile.training import fit_modalities
from models.profile.training.train import fit as fit_trunk
from models.profile.training.train import train
from models.trained_users import user_key
from tests.unit.models.profile.miniature import FIRST_DAY_MS, MINIATURE, daily_batches, rows_table

pytestmark = pytest.mark.slow

USERS, DAYS = 60, 32
TINY = dataclasses.replace(
    MINIATURE,
    name="tiny",
    epochs=1,
    validation_windows=100,
    batch_rows=64,
    learning_rate=3e-3,
    enriched_share=0.0,
    layers=1,
    ranker_epochs=1,
    ranker_ndcg_windows=100,
    curve_moments=4,
    curve_epochs=1,
    seed=2,
)
CATEGORIES, MEDIA = 24, Modality("clip-tiny", 12)
NOUNS = (
    "bread", "shoes", "guitars", "tents", "cameras", "roses", "bicycles", "lamps", "novels",
    "cheese", "laptops", "perfume", "tyres", "sofas", "whisky", "dolls", "sunglasses", "paint",
    "coffee", "aquariums", "candles", "skis", "jeans", "knives",
)  # fmt: skip
CENTRES = np.random.default_rng(1).normal(size=(CATEGORIES, MEDIA.numbers))
CENTRES /= np.linalg.norm(CENTRES, axis=1, keepdims=True)
NOISE_STD = 0.3  # of each number of a vector, whose centre has length 1


def signal(kind, category, random, common):
    """The field of an event that tells a category. Towns of places are at least a degree apart."""
    if kind == "media":
        vector = CENTRES[category] + random.normal(0, NOISE_STD, MEDIA.numbers)
        vector[0] += common
        return {"media_embedding": {"encoder": MEDIA.name, "vector": vector.round(4).tolist()}}
    if kind == "place":
        lat, lon = random.uniform(0, 0.02, 2).tolist()
        return {"place": {"lat": 40.01 + category + lat, "lon": 10.01 - 2 * category + lon}}
    return {"query": f"where do I find good {NOUNS[category]}?"} if kind == "text" else {}


def write_shop(file, kind, users=USERS, shuffled=False, common=0.0):
    """Rows of users who buy a random category each day: `kind` tells that of the next day.

    kind: media, place, text or nothing. shuffled: it tells that of an unrelated purchase.
    common: added to the first number of every vector, so that all are alike.
    """
    random = np.random.default_rng(5)
    category = random.integers(0, CATEGORIES, (DAYS + 1, users))
    predicted = random.permuted(category) if shuffled else category
    events = [
        {
            "event_id": f"5-{user}-{day}",
            "user_id": f"u5-{user}",
            "event_type": "purchase",
            "event_time": FIRST_DAY_MS + day * DAY_MS + 600_000,
            "item_id": f"i{category[day, user]}",
            "category_id": f"c{category[day, user]}",
            "price": 10,
            **signal(kind, int(predicted[day + 1, user]), random, common),
        }
        for day in range(DAYS)
        for user in range(users)
    ]
    messages = (EventMessage(each["user_id"].encode(), orjson.dumps(each)) for each in events)
    pq.write_table(rows_table(daily_batches(messages)), file)


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
            write_shop(root / f"{name}.parquet", kind, shuffled=shuffled)
            encode_texts = text_encoder.encode if kind == "text" else None
            train(TINY, root / f"{name}.parquet", root / name, encode_texts=encode_texts)
            done[name] = root / name
        return done[name]

    return train_with


@pytest.mark.parametrize(
    ("kind", "modality"),
    [("media", MEDIA), ("place", PLACE), ("text", TEXT)],
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
    write_shop(tmp_path / "rows.parquet", "media", shuffled=True, common=4.0)
    data = prepare(TINY, tmp_path / "rows.parquet")
    model = fit_trunk(TINY, data).model
    with torch.no_grad():
        model.category_bias[1 : 1 + CATEGORIES // 2] += 3
    (trial,) = fit_modalities.fit(model, data.corpus, data.split, TINY)
    assert trial.metrics["loss_difference_without"][2] < 0
    assert trial.metrics["loss"] == pytest.approx(trial.metrics["loss_shuffled"], abs=0.1)
    assert not trial.kept and not model.fusion.modalities


def test_modality_with_too_few_windows_is_not_tried(tmp_path):
    write_shop(tmp_path / "rows.parquet", "media", users=12)
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
        parse_training_window(row["events"]).modalities.vectors[MEDIA]
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
