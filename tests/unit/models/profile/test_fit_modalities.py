"""What windows bring beside tokens: learned where it helps, left out where it doesn't."""

import dataclasses
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.load.rows import batches
from benchmarks.models.training_rows import as_table
from liveprofile.config import load
from liveprofile.errors import InputError
from liveprofile.events.modalities import PLACE, TEXT, Modality
from liveprofile.events.window import read_training, read_windows
from liveprofile.units import DAY_MS
from liveprofile.wire.token_columns import read_histories
from models.profile import checkpoint, text_encoder, vocabulary_expansion
from models.profile.data import external_sort, training_rows
from models.profile.data.external_sort import user_key
from models.profile.data.modality_vectors import Vectors
from models.profile.experiments.report import report
from models.profile.inference import ProfileModel
from models.profile.recipes import recipe
from models.profile.training import fit_modalities
from models.profile.training.train import fit as fit_trunk
from models.profile.training.train import prepare, train
from tests.support import modality_shop
from tests.support.modality_shop import CATEGORIES, ENCODER, NUMBERS
from udfs.profile import assemble

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
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The checkpoint folder for what events bring."""
    root, done = tmp_path_factory.mktemp("fuse"), {}

    def of(brings, shuffled=False):
        name = f"{brings}-{shuffled}"
        if name not in done:
            messages = modality_shop.messages(USERS, DAYS, brings, shuffled=shuffled)
            tables = map(as_table, batches(messages, SETTINGS, 1_000))
            pq.write_table(pa.concat_tables(tables), root / f"{name}.parquet")
            encode_texts = text_encoder.encode if brings == "text" else None
            train(TINY, root / f"{name}.parquet", root / name, encode_texts=encode_texts)
            done[name] = root / name
        return done[name]

    return of


@pytest.mark.parametrize(
    ("brings", "modality"),
    [("media", Modality(ENCODER, NUMBERS)), ("place", PLACE), ("text", TEXT)],
)
def test_what_foretells_the_next_category_is_kept(trained, brings, modality):
    (entry,) = checkpoint.load(trained(brings))[3].modalities
    assert (entry.name, entry.numbers, entry.kept) == (*modality, True)
    for other in ("without", "dealt_anew"):
        assert entry.metrics["loss"] < 0.85 * entry.metrics[f"loss_{other}"]
        assert entry.metrics[f"category_ndcg_at_10_difference_{other}"][1] > 0.2


@pytest.mark.parametrize("brings", ["media", "place", "text"])
def test_what_tells_nothing_is_not_kept_and_the_rest_is_as_without(trained, brings):
    folder = trained(brings, shuffled=True)
    (entry,) = checkpoint.load(folder)[3].modalities
    assert not entry.kept
    weights = [(one / checkpoint.WEIGHTS).read_bytes() for one in (folder, trained("nothing"))]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("brings", ["media", "place"])
def test_users_that_training_never_saw_gain_from_it_too(trained, brings):
    model = ProfileModel.load(trained(brings), device="cpu")
    gains = {True: [], False: []}
    days = list(batches(modality_shop.messages(40, 6, brings, seed=9), SETTINGS, 1_000))
    for day, following in itertools.pairwise(days):
        windows = read_windows(day.events, model.modalities)[0]
        inputs = assemble.Inputs(
            day.user_id, day.window_start_ms, day.window_end_ms, windows,
            read_histories(day.history),
            *assemble.read_baselines(
                day.added, day.sums, day.window_start_ms, day.window_end_ms, 30.0
            ),
        )  # fmt: skip
        bought = read_windows(following.events)[0].tokens.category
        come = dict(zip(following.user_id, bought, strict=True))
        vectors = [window.beside.vectors for window in windows.rows]
        tokens = (inputs.histories.tokens, windows.tokens)
        for told in gains:
            scores = model.score(*tokens, *assemble.numbers(inputs), vectors if told else ())
            for user, ranked in zip(day.user_id, scores.interests_after, strict=True):
                names = [model.categories[index] for index in ranked]
                rank = names.index(come[user]) if come[user] in names else None
                gains[told].append(0.0 if rank is None else 1 / np.log2(rank + 2))
    assert len(gains[True]) == 200
    assert np.mean(gains[True]) > np.mean(gains[False]) + 0.2


def test_what_only_mends_the_trunk_is_not_kept(tmp_path):
    """Vectors with much in common can serve as one more bias of the categories."""
    messages = modality_shop.messages(USERS, DAYS, "media", shuffled=True, common=4.0)
    tables = map(as_table, batches(messages, SETTINGS, 1_000))
    pq.write_table(pa.concat_tables(tables), tmp_path / "rows.parquet")
    data = prepare(TINY, tmp_path / "rows.parquet")
    model = fit_trunk(TINY, data).model
    with torch.no_grad():
        model.category_bias[1 : 1 + CATEGORIES // 2] += 3
    (entry,) = fit_modalities.fit(model, data.corpus, data.parts, TINY)
    found = entry.metrics
    assert found["loss"] < found["loss_without"] - 0.3
    assert found["loss"] == pytest.approx(found["loss_dealt_anew"], abs=0.1)
    assert not entry.kept and not model.fusion.modalities


@pytest.mark.parametrize(("brings", "name"), [("media", ENCODER), ("text", TEXT.name)])
def test_evaluation_says_what_a_modality_is_worth(trained, brings, name):
    folder = trained(brings)
    found = report(TINY, folder.with_suffix(".parquet"), folder, "test")["modalities"]
    (about,) = found.values()
    assert found.keys() == {name} and about["windows"] > 100
    assert about["category_ndcg_at_10_difference_without"][1] > 0.2


def test_too_few_windows_are_not_tried(tmp_path):
    tables = map(as_table, batches(modality_shop.messages(12, DAYS, "media"), SETTINGS, 1_000))
    pq.write_table(pa.concat_tables(tables), tmp_path / "rows.parquet")
    card = train(TINY, tmp_path / "rows.parquet", tmp_path / "model")
    assert card["modalities"] == []


def test_vectors_stay_with_their_windows_however_rows_lie(trained, tmp_path, monkeypatch):
    whole = training_rows.read(trained("media").with_suffix(".parquet"))
    table = pq.read_table(trained("media").with_suffix(".parquet"))
    monkeypatch.setattr(external_sort, "RUN_BYTES", 20_000)
    monkeypatch.setattr(external_sort, "PART_BYTES", 7_000)
    mixed = table.take(np.random.default_rng(0).permutation(len(table)))
    pq.write_table(mixed, tmp_path / "rows.parquet")
    other = training_rows.read(tmp_path / "rows.parquet")
    assert other.fingerprint() == whole.fingerprint()
    (brought,) = other.beside.values()
    asked = np.array([5, 0, len(other.user_W) - 1])
    place, vector_KW = brought.of(asked)
    expected = [
        read_training(row["events"]).beside.vectors[Modality(ENCODER, NUMBERS)]
        for row in sorted(
            table.to_pylist(), key=lambda row: (user_key(row["user_id"]), row["window_end_ms"])
        )
    ]
    assert place.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(vector_KW, [expected[window] for window in asked])
    without = training_rows.read(trained("nothing").with_suffix(".parquet"))
    assert without.beside == {} and without.fingerprint() != whole.fingerprint()


def test_texts_are_read_where_they_are_asked_for(trained):
    file = trained("text").with_suffix(".parquet")
    assert training_rows.read(file).beside == {}
    (brought,) = training_rows.read(file, encode_texts=text_encoder.encode).beside.values()
    np.testing.assert_allclose(np.linalg.norm(brought.vector_KW, axis=1), 1, 1e-5)


def test_a_name_for_each_event_is_no_encoder():
    with Vectors() as vectors, pytest.raises(InputError, match="more than 64 encoders"):
        for number in range(65):
            vectors.add({Modality(f"e-{number}", 1): np.ones(1, np.float32)})


def test_more_items_leave_what_is_fused_as_it_is(trained):
    model = checkpoint.load(trained("media"))[0]
    grown = vocabulary_expansion.with_items(model, torch.zeros(2, model.shape.dim), torch.zeros(2))
    assert grown.fusion.modalities == model.fusion.modalities
    assert torch.equal(grown.fusion.weights[0], model.fusion.weights[0])
