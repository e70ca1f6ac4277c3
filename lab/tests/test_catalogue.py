"""Cold-start items: catalogue files, embedding rows from side information, and their evaluation."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from lab.__main__ import app
from lab.catalogue import item_side_info
from lab.catalogue.catalogue import Catalogue, encode_texts
from lab.catalogue.cold_start import POSITION_GAINS, TargetRanks
from liveprofile.errors import InputError
from models.profile import checkpoint, recipes, text_encoder
from models.profile.inference import ProfileModel
from models.profile.network import BehaviourTransformer, Shape
from models.profile.ranker.network import Ranker
from models.profile.training.train import train
from tests.unit.models.profile.miniature import (
    MINIATURE,
    assert_scores_equal,
    purchase_token,
    random_tokens,
    score,
    write_rows,
)

pytestmark = pytest.mark.slow

CATEGORIES, OLD_RANKS, NEW_RANKS = 6, 3, 12


def write_catalogue(file, vectors, **others):
    table = {"item_id": [*vectors], "image_embedding": [*vectors.values()], **others}
    pq.write_table(pa.table(table), file)
    return file


def vectors_by_category(ranks, prefix, seed=0):
    """Vectors of items: noisy copies of one unit vector per category."""
    random = np.random.default_rng(seed)
    return {
        f"{prefix}{category}-{rank}": (
            np.eye(CATEGORIES)[category] + 0.1 * random.standard_normal(CATEGORIES)
        ).tolist()
        for category in range(CATEGORIES)
        for rank in range(ranks)
    }


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Rows, a model checkpoint, and a catalogue of its items and of new ones."""
    folder = tmp_path_factory.mktemp("shop")
    write_rows(folder / "rows")
    train(MINIATURE, folder / "rows", folder / "model")
    vectors = vectors_by_category(OLD_RANKS, "i") | vectors_by_category(NEW_RANKS, "n", 1)
    write_catalogue(folder / "catalogue.parquet", vectors)
    return folder


def test_catalogue_holds_unit_vectors_of_all_columns(tmp_path):
    voice = pa.array([[0.0, 2.0], None, [1.0, 0.0]], pa.list_(pa.float32()))
    vectors = {"a": [3.0, 0.0, 4.0], "b": None, "c": None}
    read = Catalogue.read(write_catalogue(tmp_path / "c.parquet", vectors, voice_embedding=voice))
    assert {name: column.width for name, column in read.columns.items()} == {
        "image_embedding": 3,
        "voice_embedding": 2,
    }
    expected = np.array([[0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0.6, 0, 0.8, 0, 1], [0] * 5])
    np.testing.assert_allclose(read.vectors(["c", "b", "a", "unknown"]), expected, 1e-6)
    assert read.items_with_vectors() == ["a", "c"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": ["a"], "x_embedding": [[1.0]]}, "column item_id is missing"),
        ({"item_id": ["a"], "x": [[1.0]]}, r"column \*_embedding is missing"),
        ({"item_id": ["a", "a"], "x_embedding": [[1.0], [1.0]]}, "each item once"),
        ({"item_id": ["a", None], "x_embedding": [[1.0], [1.0]]}, "item_id must name each row's"),
        ({"item_id": ["a", "b"], "x_embedding": [[1.0], [1.0, 2.0]]}, r"one length, not \[1, 2\]"),
        ({"item_id": ["a"], "x_embedding": [[float("nan")]]}, "x_embedding has a number that"),
        ({"item_id": ["a"], "x_embedding": [[None]]}, "x_embedding has a number that"),
        ({"item_id": ["a"], "x_embedding": ["text"]}, "must be lists of numbers"),
        ({"item_id": ["a"], "x_embedding": [["text"]]}, "must be lists of numbers"),
    ],
)
def test_invalid_catalogue_is_rejected(tmp_path, table, message):
    pq.write_table(pa.table(table), tmp_path / "c.parquet")
    with pytest.raises(InputError, match=message):
        Catalogue.read(tmp_path / "c.parquet")


def test_missing_or_unreadable_catalogue_is_rejected(tmp_path):
    with pytest.raises(InputError, match=r"catalogue .*none"):
        Catalogue.read(tmp_path / "none.parquet")
    (tmp_path / "c.parquet").write_text("no Parquet")
    with pytest.raises(InputError, match="catalogue"):
        Catalogue.read(tmp_path / "c.parquet")


def test_csv_with_texts_becomes_catalogue(tmp_path, monkeypatch):
    def encode(texts, on_progress):
        lengths = np.array([len(text) for text in texts], np.float32)
        return np.repeat(lengths[:, None], text_encoder.WIDTH, 1)

    monkeypatch.setattr(text_encoder, "encode", encode)
    (tmp_path / "c.csv").write_text("sku,kind,size\n007,milk,\n12,,\n13,milk,1 l\n")
    columns = ["kind", "size"]
    assert encode_texts(tmp_path / "c.csv", "sku", columns, tmp_path / "c.parquet") == 3
    written = pq.read_table(tmp_path / "c.parquet").to_pydict()
    lengths = dict(zip(written["item_id"], (v[0] for v in written["text_embedding"]), strict=True))
    assert lengths == {"007": len("milk"), "12": 0, "13": len("milk 1 l")}
    read = Catalogue.read(tmp_path / "c.parquet")
    assert read.columns["text_embedding"] == (text_encoder.WIDTH, text_encoder.ENCODER)
    assert read.items_with_vectors() == ["007", "13"]
    with pytest.raises(InputError, match="column colour is missing"):
        encode_texts(tmp_path / "c.csv", "sku", ["colour"], tmp_path / "c.parquet")


def test_encoding_texts_keeps_other_vectors(tmp_path, monkeypatch):
    monkeypatch.setattr(
        text_encoder, "encode", lambda texts, _: np.ones((len(texts), text_encoder.WIDTH))
    )
    vectors = {"b": [1.0, 0.0], "a": [0.0, 1.0]}
    file = write_catalogue(tmp_path / "c.parquet", vectors, text=["z", "a"])
    for _ in range(2):
        encode_texts(file, "item_id", ["text"], file)
        table = pq.read_table(file)
        pq.write_table(table.append_column("text", pa.array(["a", "z"])), file)
    read = Catalogue.read(file)
    assert [*read.columns] == ["text_embedding", "image_embedding"]
    assert read.vectors(["a"])[0, -2:].tolist() == [0, 1]


def test_new_item_gets_the_mean_row_of_its_neighbours(tmp_path):
    torch.manual_seed(0)
    names = [f"old{n}" for n in range(6)]
    model = BehaviourTransformer(Shape(6, 2, 2, 1, dim=8, heads=1, max_len=4))
    model.item_bias.data = torch.arange(6.0)
    model.ranker = Ranker(8, 2, 6, 6)
    x, y = [1.0, 0.0], [0.0, 1.0]
    vectors = dict(zip(names, [x, x, x, y, y, None], strict=True))
    read = Catalogue.read(write_catalogue(tmp_path / "c.parquet", vectors | {"new": x}))
    rows, bias, _ = item_side_info.rows_from_neighbours(model, names, read, ["new"])
    neighbours = model.table.detach()[1:4]
    cosine = torch.cosine_similarity(rows[0], neighbours.mean(0), 0)
    torch.testing.assert_close(cosine, torch.tensor(1.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(rows[0].norm(), neighbours.norm(dim=1).mean(), atol=1e-2, rtol=0)
    # Half the mean bias of its neighbours (0, 1 and 2), since the rarest item has bias 0.
    assert bias[0].item() == pytest.approx(0.5, abs=1e-2)
    with pytest.raises(InputError, match="none of the items"):
        item_side_info.rows_from_neighbours(model, ["x"] * 6, read, ["new"])


def test_added_items_behave_like_similar_items(shop, tmp_path):
    before = checkpoint.load(shop / "model")
    card = item_side_info.add_catalogue_items(
        shop / "model", shop / "catalogue.parquet", tmp_path / "grown"
    )
    assert card.version.startswith("miniature-1+") and card.revision == before[3].revision + 1
    assert card.data["catalogue"]["items_added"] == CATEGORIES * NEW_RANKS
    assert card.ranked_items == CATEGORIES * (OLD_RANKS + NEW_RANKS)
    model = ProfileModel.load(tmp_path / "grown", device="cpu")
    # Users alternate between two categories of the same parity.
    history = [purchase_token(n, 1 + 2 * (n % 2), n) for n in range(8)]
    old = score(ProfileModel.load(shop / "model", device="cpu"), [[]], [history])
    new = score(model, [[]], [[token._replace(item=f"n{token.item[1:]}") for token in history]])
    similarity = old.embedding_after[0] @ new.embedding_after[0]
    assert similarity > 0.9
    next_items = {model.items[item] for item in new.next_items[0]}
    before_items = {before[1][item] for item in old.next_items[0]}
    # Nine items of the model have the parity, so it ranks another one as well. No new item may be
    # of another parity.
    assert {name[1] for name in next_items - before_items} <= {"1", "3", "5"}
    assert sum(name[1] in "135" for name in next_items) >= 9
    assert {name[0] for name in next_items} == {"i", "n"}
    grown, items, *_ = checkpoint.load(tmp_path / "grown")
    category = dict(zip(items, grown.ranker.item_category.tolist(), strict=True))
    assert all(category[name] == category[f"i{name[1]}-0"] for name in items)
    with pytest.raises(InputError, match="already names all items"):
        item_side_info.add_catalogue_items(
            tmp_path / "grown", shop / "catalogue.parquet", tmp_path / "again"
        )


def test_new_candidates_precede_items_that_are_no_candidates(shop, tmp_path):
    shutil.copytree(shop / "model", tmp_path / "few")
    card = json.loads((tmp_path / "few" / "card.json").read_text())
    (tmp_path / "few" / "card.json").write_text(json.dumps({**card, "ranked_items": 12}))
    items = checkpoint.load(tmp_path / "few")[1]
    new = [*vectors_by_category(NEW_RANKS, "n")]
    for as_candidates, ranked, expected in (
        (True, 12 + len(new), [*items[:12], *new, *items[12:]]),
        (False, 12, [*items, *new]),
    ):
        out = tmp_path / str(as_candidates)
        card = item_side_info.add_catalogue_items(
            tmp_path / "few", shop / "catalogue.parquet", out, as_candidates
        )
        assert card.ranked_items == ranked and checkpoint.load(out)[1] == expected


def test_added_items_leave_scores_of_other_items_unchanged(shop, tmp_path):
    item_side_info.add_catalogue_items(
        shop / "model", shop / "catalogue.parquet", tmp_path / "grown", as_candidates=False
    )
    histories, windows = random_tokens()
    before, after = (
        score(ProfileModel.load(folder, device="cpu"), histories, windows)
        for folder in (shop / "model", tmp_path / "grown")
    )
    assert_scores_equal(before, after, 0)


def test_tied_ranks_score_the_mean_over_random_orders():
    ranked = TargetRanks(np.arange(4), np.array([0, 3, 9, 20]), np.array([0, 0, 4, 9]))
    assert ranked.mean_gain(POSITION_GAINS["recall_at_10"]).tolist() == [1, 1, 0.2, 0]
    gains = 1 / np.log2(np.arange(2, 22))
    np.testing.assert_allclose(
        ranked.mean_gain(POSITION_GAINS["ndcg_at_10"]), [1, gains[3], gains[9] / 5, 0], rtol=1e-12
    )


def with_new_items(rows, out):
    """Copies the rows; after the training split, half of the items are replaced by new ones."""
    table = pq.read_table(rows / "part-0.parquet")
    ends = np.array(table["window_end_ms"])
    random = np.random.default_rng(0)

    def renamed(packed, end_ms):
        if end_ms <= np.quantile(ends, 0.7):
            return packed
        for category in range(CATEGORIES):
            for rank in range(OLD_RANKS):
                if random.random() < 0.5:
                    new = f"n{category}-{random.integers(NEW_RANKS)}"
                    packed = packed.replace(f'"i{category}-{rank}"', f'"{new}"')
        return packed

    events = [renamed(*row) for row in zip(table["events"].to_pylist(), ends, strict=True)]
    place = table.column_names.index("events")
    out.mkdir()
    pq.write_table(table.set_column(place, "events", [events]), out / "part-0.parquet")
    return out


def test_catalogue_evaluate_compares_vectors_with_hash_buckets(shop, tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "general", MINIATURE)
    rows = with_new_items(shop / "rows", tmp_path / "rows")
    arguments = [
        "catalogue",
        "evaluate",
        "general",
        "--rows",
        str(rows),
        "--part",
        "validation",
    ]
    arguments += ["--checkpoint", str(shop / "model")]
    arguments += ["--catalogue", str(shop / "catalogue.parquet")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert 30 < report["cold_items"] <= CATEGORIES * NEW_RANKS
    among_cold = report["cold_among_cold"]
    assert among_cold["vectors"]["recall_at_10"] > among_cold["hash_bucket"]["recall_at_10"] + 0.1
    assert among_cold["vectors_over_hash_bucket"]["recall_at_10"][1] > 0
    assert among_cold["events"] == report["cold_among_all"]["events"] > 0
    assert report["named_among_all"]["events"] > 0


def test_similar_texts_get_similar_vectors():
    vectors = text_encoder.encode(
        ["yogurt with fruit", "", "motor oil", "fruit yoghurt", "motor oil"]
    )
    assert vectors.shape == (5, text_encoder.WIDTH) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0, 1, 1, 1], atol=1e-5)
    assert vectors[2].tolist() == vectors[4].tolist()
    assert vectors[0] @ vectors[3] > vectors[0] @ vectors[2] + 0.3
