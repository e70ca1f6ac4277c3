"""A miniature training run on synthetic rows, and what must hold of every checkpoint."""

import dataclasses
import json
import shutil

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.load.events import Message
from benchmarks.load.rows import batches
from liveprofile.config import load
from liveprofile.errors import InputError
from liveprofile.events.window import read_windows
from liveprofile.units import DAY_MS
from liveprofile.wire.token_columns import TokenColumns, read_histories
from liveprofile.wire.tokens import EVENT, FIELD, TYPE_INDEX, Token
from models.profile import checkpoint, user_features
from models.profile.data import training_rows
from models.profile.data.churn_spend_samples import numbers_at
from models.profile.data.examples import build, cut, enrich, examples
from models.profile.data.external_sort import user_key
from models.profile.data.prepared import split
from models.profile.device import ModelError
from models.profile.encoding import Vocabulary
from models.profile.inference import ProfileModel
from models.profile.network import top_k
from models.profile.recipes import recipe
from models.profile.training.train import train
from models.profile.training.trainer import schedule
from udfs.profile import assemble

FIRST_DAY_MS = 1_483_228_800_000  # 2017-01-01
PURCHASE = TYPE_INDEX["purchase"]
MINIATURE = dataclasses.replace(
    recipe("general-7-days"),
    name="miniature",
    epochs=6,
    windows_per_epoch=400,
    validation_windows=60,
    batch_rows=32,
    learning_rate=1e-2,
    item_negatives=16,
    item_buckets=16,
    category_buckets=8,
    enriched_share=0.1,
    short_history_share=0.1,
    dim=16,
)


def purchase(user, day, rank):
    """Every user goes round their own two of six categories; users from 12 on leave on day 20."""
    category = (user + 2 * (rank % 2)) % 6
    return {
        "event_id": f"{user}-{day}-{rank}",
        "user_id": f"u{user}",
        "event_type": "purchase",
        "event_time": FIRST_DAY_MS + day * DAY_MS + 600_000 * (rank + 1),
        "item_id": f"i{category}-{rank % 3}",
        "category_id": f"c{category}",
        "price": 10 + category,
    }


def job_batches(users=16, days=40):
    """As the job's operator gets the purchases."""
    events = [
        purchase(user, day, rank)
        for day in range(0, days, 2)
        for rank in range(4)
        for user in range(users)
        if user < 12 or day < 20
    ]
    messages = (Message(b"", orjson.dumps(event)) for event in events)
    return batches(messages, load(window={"length_ms": DAY_MS}), batch_rows=1_000)


def write_rows(folder, users=16, days=40):
    folder.mkdir()
    table = {"user_id": [], "window_end_ms": [], "events": [], "added": [], "sums": []}
    for batch in job_batches(users, days):
        table["user_id"] += batch.user_id
        table["window_end_ms"] += batch.window_end_ms.tolist()
        # Newest first: the order in which the SQL packs them is not the order of time.
        table["events"] += [EVENT.join(reversed(one.split(EVENT))) for one in batch.events]
        table["added"] += batch.added.tolist()
        table["sums"] += batch.sums.tolist()
    pq.write_table(pa.table(table), folder / "part-0.parquet")
    return folder


@pytest.fixture(scope="module")
def rows_folder(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("training") / "rows")


@pytest.fixture(scope="module")
def trained(rows_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    return folder, train(MINIATURE, rows_folder, folder)


@pytest.fixture(scope="module")
def model(trained):
    return ProfileModel.load(trained[0], device="cpu")


def bought(minutes, category=1, rank=0, kind=PURCHASE):
    time_ms = FIRST_DAY_MS + 30 * DAY_MS + 600_000 * minutes
    return Token(time_ms, kind, f"i{category}-{rank % 3}", f"c{category}", 10.0 + category)


def usual(user=1, events=8, start=0):
    return [bought(start + n, (user + 2 * (n % 2)) % 6, n) for n in range(events)]


def people(count=40, seed=3):
    random = np.random.default_rng(seed)
    histories = [usual(user % 6, int(random.integers(0, 50))) for user in range(count)]
    windows = [
        usual(user % 6, int(random.integers(1, 40)), len(history))
        for user, history in enumerate(histories)
    ]
    return histories, windows


def score(model, histories, windows):
    """As a job would call it, if the windows ended with their last events."""
    tokens = TokenColumns.of(histories), TokenColumns.of(windows)
    numbers = [
        np.log1p(
            np.full((len(rows), len(user_features.NUMBERS)), [[len(row)] for row in rows] or 0)
        )
        for rows in (histories, [h + w for h, w in zip(histories, windows, strict=True)])
    ]
    return model.score(*tokens, *(side.astype(np.float32) for side in numbers))


def assert_same(one, other, tolerance=1e-5):
    for name, value in one._asdict().items():
        if name != "batches":
            np.testing.assert_allclose(
                value, getattr(other, name), tolerance, tolerance, err_msg=name
            )


def test_the_loss_falls_and_the_curves_say_so(trained):
    folder, card = trained
    lines = (folder / "curves.csv").read_text().splitlines()
    at = lines[0].split(",").index("validation_loss")
    first, last = float(lines[1].split(",")[at]), float(lines[-1].split(",")[at])
    assert last < first - 0.5
    category = card["metrics"]["validation"]["next_event"]["category"]
    assert category["model"]["ndcg_at_10"] > category["popularity"]["ndcg_at_10"]


def test_the_card_tells_what_the_model_is(trained, model):
    card = json.loads((trained[0] / "card.json").read_text())
    assert card["recipe"]["seed"] == MINIATURE.seed
    assert card["data"]["users"] == 16
    assert card["data"]["events"] == 4 * card["data"]["windows"]
    assert sorted(card["surprise_quantiles"]) == ["p50", "p90", "p99", "p99.5", "p99.9"]
    assert (model.version, model.revision) == ("miniature-1", 1)
    assert (model.max_len, model.dim, len(model.categories)) == (32, 16, 6)


def test_the_same_recipe_gives_the_same_weights(rows_folder, tmp_path):
    short = dataclasses.replace(MINIATURE, epochs=1, windows_per_epoch=64)
    cards = [train(short, rows_folder, tmp_path / str(run)) for run in range(2)]
    assert cards[0]["sha256"] == cards[1]["sha256"]


def test_a_saved_model_is_the_loaded_model(trained, tmp_path):
    network, items, categories, card = checkpoint.load(trained[0])
    fields = card.model_dump(exclude={"format", "shape", "sha256"})
    again = checkpoint.save(tmp_path / "again", network, items, categories, **fields)
    assert again == card
    histories, windows = people()
    one, two = (ProfileModel.load(f, device="cpu") for f in (trained[0], tmp_path / "again"))
    assert_same(score(one, histories, windows), score(two, histories, windows), 0)


def test_before_knows_nothing_of_the_window(model):
    histories = [usual(), usual(2, 3), []]
    windows = [[bought(100)], [bought(100, 2)], [bought(100, 3)]]
    others = [[bought(105, 4, 2), bought(107)], [bought(101, 0)], [bought(300, 1)]]
    one, two = score(model, histories, windows), score(model, histories, others)
    for name in one._fields:
        if "before" in name:
            np.testing.assert_allclose(getattr(one, name), getattr(two, name), 1e-5, 1e-5)
    assert np.abs(one.embedding_after - two.embedding_after).max() > 1e-3


def test_a_row_scores_the_same_alone_and_in_any_batch(model, trained):
    histories, windows = people()
    together = score(model, histories, windows)
    alone = [
        score(model, [history], [window])
        for history, window in zip(histories, windows, strict=True)
    ]
    for name in together._fields[:-1]:
        stacked = np.concatenate([getattr(scores, name) for scores in alone])
        np.testing.assert_allclose(getattr(together, name), stacked, 1e-5, 1e-5, err_msg=name)
    small = ProfileModel.load(trained[0], device="cpu", batch_rows=7, length_buckets=(4, 5, 20))
    assert_same(together, score(small, histories, windows))
    assert sum(batch.rows for batch in together.batches) == len(histories)


def test_scores_have_the_promised_shapes_and_ranges(model):
    histories, windows = people()
    scores = score(model, histories, windows)
    count, known = len(histories), len(model.categories)
    assert scores.embedding_after.shape == (count, model.dim)
    np.testing.assert_allclose(np.linalg.norm(scores.embedding_before, axis=1), 1, 1e-5)
    assert scores.interests_after.shape == scores.interests_after_p.shape == (count, known)
    assert (np.diff(scores.interests_after_p, axis=1) <= 0).all()
    assert (scores.interests_after_p.sum(1) <= 1 + 1e-5).all()
    assert scores.next_items.shape == (count, 10)
    assert scores.next_items.min() >= 0 and scores.next_items.max() < len(model.items)
    assert ((scores.churn_after >= 0) & (scores.churn_after <= 1)).all()
    assert (scores.spend_before >= 0).all() and np.isfinite(scores.spend_after).all()
    assert {value.dtype.name for value in scores[:-1]} == {"float32", "int32"}


def test_unknown_ids_and_missing_history_work(model):
    strange = [Token(FIRST_DAY_MS, kind, f"?{kind}", "\ud800 new", -3.0) for kind in range(12)]
    empty = [Token(0, 0, "", "", 1e9)]
    scores = score(model, [[], [], strange, []], [strange, empty, [], []])
    assert all(np.isfinite(value).all() for value in scores[:-1])
    assert scores.surprise[2:].tolist() == [0, 0]
    assert scores.embedding_before[3].tolist() == scores.embedding_after[3].tolist()
    assert len(score(model, [], []).surprise) == 0


def test_an_odd_event_is_more_surprising_than_the_usual_one(model):
    history = usual(1, 8)
    usually, odd = bought(8, 1, 8), bought(8, 4, 8)
    odd_type = usually._replace(type_index=TYPE_INDEX["return"])
    surprise = score(model, [history] * 3, [[usually], [odd], [odd_type]]).surprise
    assert surprise[1] > surprise[0] + 1
    assert surprise[2] > surprise[0] + 1


def test_serving_sees_what_training_saw(model, rows_folder, trained):
    streams = training_rows.read(rows_folder)
    corpus = build(
        streams,
        Vocabulary(model.items, MINIATURE.item_buckets),
        Vocabulary(model.categories, MINIATURE.category_buckets),
        7,
    )
    window = int(np.flatnonzero(corpus.position_W == 12)[0])
    layout = checkpoint.load(trained[0])[0].shape.layout
    segments = cut(corpus, np.array([window]), np.array([8]), 32)
    expected = examples(corpus, segments, layout, 30.0)

    def tokens(first, last):
        return [
            Token(
                int(streams.time_ms_N[n]),
                int(streams.type_N[n]),
                streams.items[streams.item_N[n]],
                streams.categories[streams.category_N[n]],
                float(streams.amount_N[n]),
            )
            for n in range(streams.first_W[first], streams.last_W[last])
        ]

    history, now = tokens(window - 8, window - 1), tokens(window, window)
    encoder = model._encoder
    known = encoder.known(TokenColumns.of([history]), TokenColumns.of([now]))
    batch = encoder.encode(known, np.array([0]), (32,))
    np.testing.assert_array_equal(batch.features_P7, expected.features_P7)
    np.testing.assert_allclose(
        batch.had_before_BC, expected.had_category_B.dense(1, encoder.categories.rows), 1e-6
    )
    # What stands after this window stands before the next.
    following = examples(corpus, cut(corpus, np.array([window + 1]), np.array([9]), 32), layout, 30)
    np.testing.assert_allclose(
        batch.had_after_BC, following.had_category_B.dense(1, encoder.categories.rows), 1e-6
    )
    for ours, theirs in zip(batch.had_items, following.had_item_B, strict=True):
        np.testing.assert_allclose(ours, theirs, 1e-6)


def test_serving_reads_the_numbers_that_training_read(rows_folder, trained):
    streams = training_rows.read(rows_folder)
    corpus = build(streams, Vocabulary([], 1), Vocabulary([], 1), 7)
    windows = np.arange(len(streams.user_W))
    trained_on = numbers_at(corpus, MINIATURE, windows, streams.end_ms_W)
    served = []
    for batch in job_batches():
        kept = read_windows(batch.events)[0]
        sides = assemble.read_baselines(
            batch.added, batch.sums, batch.window_start_ms, batch.window_end_ms, 30.0
        )
        histories = read_histories(batch.history)
        inputs = (batch.user_id, batch.window_start_ms, batch.window_end_ms, kept, histories)
        served.append(assemble.numbers(assemble.Inputs(*inputs, *sides))[1])
    served = np.concatenate(served)
    assert len(served) == len(trained_on)
    one, other = (table[np.lexsort(table.round(4).T)] for table in (served, trained_on))
    np.testing.assert_allclose(one, other, 1e-5, 1e-5)


def test_labels_look_ahead_by_the_horizon(rows_folder):
    streams = training_rows.read(rows_folder)
    corpus = build(streams, Vocabulary([], 1), Vocabulary([], 1), 7)
    users = sorted((f"u{user}" for user in range(16)), key=user_key)
    first, last = (
        np.flatnonzero(streams.user_W == users.index(user))[place]
        for user, place in (("u0", 0), ("u12", -1))
    )
    assert corpus.purchases_W[last] == 0 and corpus.spend_W[last] == 0
    assert corpus.purchases_W[last - 1] == 4
    # Days 2, 4 and 6 after a window that ends on day 1 lie inside its seven days.
    assert corpus.purchases_W[first] == 12
    assert corpus.spend_W[first] == pytest.approx(3 * (10 + 12 + 10 + 12))


def test_enriched_segments_hold_every_type_in_order(rows_folder):
    streams = training_rows.read(rows_folder)
    corpus = build(streams, Vocabulary(["i1-0"], 4), Vocabulary(["c1"], 2), 7)
    windows = np.arange(len(streams.user_W))
    plain = cut(corpus, windows, np.full(len(windows), 8), 32)
    rich = enrich(plain, 1.0, 32, np.random.default_rng(0))
    assert set(rich.type_N.tolist()) == set(range(12))
    assert np.bincount(rich.row_N).max() == 31
    assert (rich.history_B >= plain.history_B).all()
    same_row = np.diff(rich.row_N) == 0
    assert (np.diff(rich.time_ms_N)[same_row] > 0).all()
    assert set(rich.row_N[rich.scored_N]) == set(windows)
    untouched = enrich(plain, 0.0, 32, np.random.default_rng(0))
    for one, other in zip(plain, untouched, strict=True):
        np.testing.assert_array_equal(one, other)


def test_top_k_is_torchs():
    torch.manual_seed(0)
    for width, k in ((5, 10), (40, 10), (303, 10), (4096, 10), (2500, 3)):
        scores = torch.randn(33, width)
        for ours, theirs in zip(top_k(scores, k), scores.topk(min(k, width)), strict=True):
            assert torch.equal(ours, theirs)


def test_the_schedule_warms_up_and_decays():
    rates = [schedule(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1.0
    assert rates[-1] < 0.06


def test_a_split_follows_the_recipes_days():
    days = np.arange(1, 366) * DAY_MS + FIRST_DAY_MS
    parts = split(recipe("complete-journey"), days)
    assert [len(part) for part in parts[:3]] == [273, 31, 61]
    with pytest.raises(InputError, match="no window for test"):
        split(recipe("complete-journey"), days[:300])


def test_a_bad_checkpoint_is_one_clear_line(trained, tmp_path):
    with pytest.raises(InputError, match=r"card\.json is missing"):
        ProfileModel.load(tmp_path)
    folder = tmp_path / "broken"
    shutil.copytree(trained[0], folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-8] + b"\x00" * 8)
    with pytest.raises(InputError, match=r"not the file that card\.json describes"):
        ProfileModel.load(folder)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "revision": 1000}))
    with pytest.raises(InputError, match="revision"):
        ProfileModel.load(folder)
    (folder / "card.json").write_text(json.dumps({**card, "format": 9}))
    with pytest.raises(InputError, match="format = 9"):
        ProfileModel.load(folder)
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="no CUDA card"):
            ProfileModel.load(trained[0], device="cuda")


def test_bad_rows_are_one_clear_line(rows_folder, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        training_rows.read(tmp_path / "nothing")
    table = pq.read_table(rows_folder / "part-0.parquet")
    for name in ("events", "added", "sums"):
        pq.write_table(table.drop_columns([name]), tmp_path / "a.parquet")
        with pytest.raises(InputError, match=f"column {name} is missing"):
            training_rows.read(tmp_path / "a.parquet")
    good = {"user_id": "u", "window_end_ms": 5, "events": "", "added": [0] * 10, "sums": [0] * 10}
    for bad, message in (
        ({"a": 1}, "user_id is NoneType, must be str"),
        (good | {"sums": None}, "sums is NoneType, must be list"),
        (good | {"sums": [0] * 9}, "sums must begin with 10 finite numbers"),
        (good | {"added": [None] * 10}, "added must begin with 10 finite numbers"),
    ):
        (tmp_path / "lines").write_bytes(orjson.dumps(good) + b"\n" + orjson.dumps(bad))
        with pytest.raises(InputError, match=f"line 2: {message}"):
            training_rows.read(tmp_path / "lines")
    pq.write_table(pa.concat_tables([table, table.slice(0, 2)]), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="2 windows come twice"):
        training_rows.read(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="horizon of 300 days"):
        train(dataclasses.replace(MINIATURE, horizon_days=300), rows_folder, tmp_path / "out")


def test_json_lines_are_the_same_rows(rows_folder, tmp_path):
    table = pq.read_table(rows_folder / "part-0.parquet").to_pylist()
    for part in range(2):
        lines = b"".join(orjson.dumps(row) + b"\n" for row in table[part::2])
        (tmp_path / f"part-{part}").write_bytes(lines)
    (tmp_path / "_SUCCESS").touch()
    assert (
        training_rows.read(tmp_path).fingerprint() == training_rows.read(rows_folder).fingerprint()
    )


def test_unusable_events_are_counted_and_left_out(tmp_path):
    payloads = ("[1]", '{"event_type":"view","event_id":"a"}')
    packed = EVENT.join(FIELD.join(["5", "0", "0", text]) for text in payloads)
    baselines = {"added": [1.0] * 41, "sums": [1.0] * 41}
    row = {"user_id": "u", "window_end_ms": 10, "events": packed, **baselines}
    (tmp_path / "rows").write_bytes(orjson.dumps(row))
    streams = training_rows.read(tmp_path / "rows")
    assert (len(streams.time_ms_N), streams.unusable_events) == (1, 1)


def test_train_command_prints_its_metrics(rows_folder, tmp_path, monkeypatch):
    from cli.main import app
    from models.profile import recipes

    monkeypatch.setitem(recipes.RECIPES, "general", MINIATURE)
    arguments = ["train", "general", "--rows", str(rows_folder), "--out", str(tmp_path / "m")]
    result = CliRunner().invoke(app, [*arguments, "--epochs", "1", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["epochs"] == 1
    result = CliRunner().invoke(app, [*arguments, "--epochs", "1"])
    assert "churn AUC" in result.stdout and "miniature-1" in result.stdout
    result = CliRunner().invoke(app, ["train", "none"])
    assert result.exit_code == 2 and "none" in result.output
