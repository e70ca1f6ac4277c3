"""Items that a model never saw: texts as vectors, their rows, and how well they are ranked."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from liveprofile.cli import app
from liveprofile.errors import InputError
from models import checkpoint, recipes, sides
from models.catalogue import Catalogue, encode_texts
from models.cold import Ranked
from models.runtime import ProfileModel
from models.train import train
from tests.unit.test_model_training import MINIATURE, assert_same, people, score, write_rows

ITEMS = [f"i{category}-{rank}" for category in range(6) for rank in range(3)]


def vector(category, rank=0):
    """Items of one category are alike."""
    return np.eye(8)[category] + 0.05 * rank * np.eye(8)[6]


def write_catalogue(file, new=(), items=ITEMS):
    names, categories = [*items, *(name for name, _ in new)], [int(name[1]) for name in items]
    vectors = [vector(c, n % 3) for n, c in enumerate([*categories, *(c for _, c in new)])]
    table = {"item_id": names, "picture_embedding": [list(one) for one in vectors]}
    pq.write_table(pa.table(table), file)
    return file


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sides")
    write_rows(folder / "rows")
    train(MINIATURE, folder / "rows", folder / "model")
    write_catalogue(folder / "catalogue.parquet", new=[("new-2", 2), ("new-5", 5)])
    return folder


def test_a_new_item_is_as_the_items_like_it(shop):
    model, items, _, _ = checkpoint.load(shop / "model")
    catalogue = Catalogue.read(shop / "catalogue.parquet")
    rows_ND, bias_N = sides.like(model, items, catalogue, ["new-2", "new-5"])
    start = model.shape.layout.item + 1
    row_ID = model.table[start : start + len(items)]
    for row_D, category in zip(rows_ND, (2, 5), strict=True):
        alike = [place for place, name in enumerate(items) if name.startswith(f"i{category}-")]
        assert torch.cosine_similarity(row_D, row_ID[alike].mean(0), dim=0) > 0.99
        assert row_D.norm() == pytest.approx(row_ID[alike].norm(dim=1).mean().item(), rel=0.02)
    assert (bias_N >= model.item_bias.min()).all() and (bias_N <= model.item_bias.max()).all()
    with pytest.raises(InputError, match="describes none of the items"):
        sides.like(model, ["x"] * len(items), catalogue, ["new-2"])


def test_added_items_change_nothing_else_and_come_up(shop, tmp_path):
    card = sides.add(shop / "model", shop / "catalogue.parquet", tmp_path)
    old = checkpoint.load(shop / "model")
    assert card.revision == old[3].revision + 1 and card.version.startswith("miniature-1+")
    assert card.ranked_items == old[3].ranked_items + 2
    assert card.data["catalogue"]["items_added"] == 2
    one, other = (ProfileModel.load(folder, device="cpu") for folder in (shop / "model", tmp_path))
    assert set(other.items) == {*one.items, "new-2", "new-5"}
    histories, windows = people()
    scores = [score(model, histories, windows) for model in (one, other)]
    ranked = [
        [[model.items[i] for i in row] for row in found.next_items.tolist()]
        for model, found in zip((one, other), scores, strict=True)
    ]
    kept = [[name for name in row if not name.startswith("new-")] for row in ranked[1]]
    assert all(new == old[: len(new)] for old, new in zip(ranked[0], kept, strict=True))
    assert any(len(row) < 10 for row in kept)
    assert_same(*(found._replace(next_items=found.next_items * 0) for found in scores))
    write_catalogue(tmp_path / "known.parquet")
    with pytest.raises(InputError, match="names all items that it describes"):
        sides.add(shop / "model", tmp_path / "known.parquet", tmp_path / "none")


def test_texts_of_like_meaning_are_near(tmp_path):
    rows = [("a", "fresh whole milk", "1 gal"), ("b", "milk, low fat", None), ("c", "dog food", "")]
    (tmp_path / "items.csv").write_text(
        "id,name,size\n" + "".join(f'{i},"{n}",{s or ""}\n' for i, n, s in rows)
    )
    out = tmp_path / "catalogue.parquet"
    assert encode_texts(tmp_path / "items.csv", "id", ["name", "size"], out) == 3
    catalogue = Catalogue.read(out)
    assert catalogue.modalities["text_embedding"].width == 384
    a, b, c, unknown = catalogue.vectors(["a", "b", "c", "?"])
    assert a @ b > 0.5 > 0.3 > a @ c
    np.testing.assert_allclose([a @ a, b @ b, unknown @ unknown], [1, 1, 0], atol=1e-5)
    with pytest.raises(InputError, match="column weight is missing"):
        encode_texts(tmp_path / "items.csv", "id", ["weight"], out)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"item_id": ["a"]}, r"column \*_embedding is missing"),
        ({"x_embedding": [[1.0]]}, "column item_id is missing"),
        ({"item_id": ["a", "a"], "x_embedding": [[1.0], [2.0]]}, "each item once"),
        ({"item_id": ["a", "b"], "x_embedding": [[1.0], [2.0, 3.0]]}, "must have one length"),
        ({"item_id": ["a"], "x_embedding": [[float("nan")]]}, "not finite"),
        ({"item_id": ["a"], "x_embedding": ["text"]}, "must be lists of numbers"),
    ],
)
def test_a_bad_catalogue_is_one_clear_line(tmp_path, table, message):
    pq.write_table(pa.table(table), tmp_path / "bad.parquet")
    with pytest.raises(InputError, match=message):
        Catalogue.read(tmp_path / "bad.parquet")


def test_ties_count_as_if_broken_at_random():
    ranked = Ranked(above_M=np.array([0, 9, 8, 10]), ties_M=np.array([0, 1, 3, 0]))
    hits = np.ones(10)
    np.testing.assert_allclose(ranked.mean(hits), [1, 0.5, 0.5, 0])


def test_the_catalogue_commands(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "general", MINIATURE)
    folder = write_rows(tmp_path / "rows")
    # An item is cold if training does not have it: so its first days are taken out.
    table = pq.read_table(folder / "part-0.parquet").to_pylist()
    early = sorted({row["window_end_ms"] for row in table})[:17]
    for row in table:
        if row["window_end_ms"] in early:
            row["events"] = row["events"].replace("i3-0", "i3-1")
    pq.write_table(pa.Table.from_pylist(table), folder / "part-0.parquet")
    train(MINIATURE, folder, tmp_path / "model")
    write_catalogue(tmp_path / "catalogue.parquet")
    arguments = ["--rows", str(folder), "--checkpoint", str(tmp_path / "model")]
    arguments += ["--catalogue", str(tmp_path / "catalogue.parquet")]
    result = CliRunner().invoke(app, ["catalogue", "evaluate", "general", *arguments])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["cold_items"] == 1 and report["events"] > 0
    assert set(report["cold_among_all"]) >= {"vectors", "category", "hash_bucket"}
    assert report["cold_among_cold"]["vectors"]["recall_at_10"] == 1
    added = ["catalogue", "add", str(tmp_path / "model"), "--out", str(tmp_path / "more"), "--json"]
    result = CliRunner().invoke(app, [*added, *arguments[-2:]])
    assert json.loads(result.stdout.splitlines()[-1])["items_added"] == 1
