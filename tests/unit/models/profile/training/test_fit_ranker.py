"""The ranker learns what a user has again, and serving ranks as training does."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from liveprofile.errors import InputError
from liveprofile.units import DAY_MS
from liveprofile.wire.histories import (
    MEMORY_WINDOWS,
    MemoryToken,
    of_windows,
    read_end_ms,
    read_window,
    window_text,
)
from liveprofile.wire.tokens import TYPE_INDEX
from models.profile import checkpoint, vocabulary_expansion
from models.profile.data.examples import PURCHASE, build_corpus
from models.profile.data.prepared import PreparedData, Split
from models.profile.data.ranking_examples import RankingExamples
from models.profile.encoding import Vocabulary
from models.profile.evaluation import next_basket, served
from models.profile.evaluation.next_basket_baselines import OwnCounts
from models.profile.inference import ProfileModel
from models.profile.network import BehaviourTransformer, Shape
from models.profile.training import fit_ranker
from models.profile.values.head import ValueCurveHead
from models.profile.values.inputs import INPUTS
from tests.unit.models.profile.miniature import MINIATURE
from tests.unit.models.profile.synthetic_streams import START_MS, make_streams

USERS, DAYS, ITEMS, EVERY_DAYS = 30, 45, 40, 3
RETURN = TYPE_INDEX["return"]
RECIPE = dataclasses.replace(
    MINIATURE, ranker_epochs=5, ranker_batch_rows=48, ranker_learning_rate=1e-2
)


def periodic_shop() -> PreparedData:
    """Users have twelve items each, four of them on each third day. Counts tell nothing."""
    random = np.random.default_rng(4)
    rows = []
    for user in range(USERS):
        own = 1 + random.permutation(ITEMS)[:12]
        for day in range(DAYS):
            for item in random.permutation(own[day % EVERY_DAYS :: EVERY_DAYS]):
                rows.append((user, START_MS + day * DAY_MS, PURCHASE, 1.0, item))
    streams = make_streams(*(np.array(column) for column in zip(*rows, strict=True)))
    # Most items have no name in the model: a memory names them.
    items, categories = streams.items[1:9], streams.categories[:4]
    corpus = build_corpus(streams, Vocabulary(items, 4), Vocabulary(categories, 2), 7)
    until = [START_MS + day * DAY_MS for day in (33, DAYS, DAYS)]
    end_ms_W = np.asarray(streams.end_ms_W)
    train = np.flatnonzero(end_ms_W <= until[0])
    split = Split(train, np.flatnonzero(end_ms_W > until[0]), np.empty(0, int), *until)
    ones = np.ones
    return PreparedData(corpus, split, items, ones(len(items)), categories, ones(4), None)


@pytest.fixture(scope="module")
def shop() -> PreparedData:
    return periodic_shop()


@pytest.fixture(scope="module")
def network(shop: PreparedData) -> BehaviourTransformer:
    torch.manual_seed(3)
    shape = Shape(len(shop.items), 4, len(shop.categories), 2, dim=16, layers=1, heads=2)
    model = BehaviourTransformer(shape).eval().requires_grad_(False)
    report = fit_ranker.fit(model, shop, RECIPE)
    assert report["windows"] == USERS * 32
    assert min(report["validation_losses"]) == report["validation_losses"][report["epoch"] - 1]
    assert report["ndcg"]["windows"] < report["windows"]
    assert report["ndcg"]["kept"] == (report["ndcg"]["after"] > report["ndcg"]["before"])
    model.value_curves = ValueCurveHead(len(INPUTS), 1, 1)
    return model


def profile_model(network: BehaviourTransformer, shop: PreparedData) -> ProfileModel:
    card = {"version": "x", "revision": 1, "decay_days": 30.0, "ranked_items": 4096}
    options: dict[str, Any] = {"device": torch.device("cpu"), "batch_rows": 50}
    return ProfileModel(network, shop.items, shop.categories, card, length_buckets=(8,), **options)


def ndcg(shop: PreparedData, ranking: np.ndarray, baskets: next_basket.NextBaskets) -> float:
    return float(np.nanmean(next_basket.basket_scores(baskets, ranking).ndcg_at_10))


@pytest.mark.slow
def test_stored_items_are_better_than_counts_where_gaps_tell_more(
    network: BehaviourTransformer, shop: PreparedData
) -> None:
    streams = shop.corpus.streams
    baskets = next_basket.next_baskets(streams, "item", shop.split.validation)
    model = profile_model(network, shop)
    ranking = served.served_rankings(model, streams, baskets.window_W, 8)
    baskets_of = next_basket.Baskets.from_streams(streams, "item")
    popularity_C = baskets_of.popularity(shop.split.train)
    own = OwnCounts(30.0, 0.0, False).rank(baskets_of, baskets.window_W, popularity_C)
    counts = ndcg(shop, own, baskets)
    assert ndcg(shop, ranking.item, baskets) > 0.85 > 0.6 > counts


@pytest.mark.slow
def test_one_window_of_each_user_in_validation_is_enough(shop: PreparedData) -> None:
    """As in data where each user's last baskets are held out."""
    streams, split = shop.corpus.streams, shop.split
    first = split.validation[np.diff(streams.user_W[split.validation], prepend=-1) != 0]
    before = RankingExamples(streams, [], []).before(first)
    assert before.tolist() == (first - 1).tolist() and np.isin(before, split.train).all()
    held_out = shop._replace(split=split._replace(validation=first))
    shape = Shape(len(shop.items), 4, len(shop.categories), 2, dim=16, layers=1, heads=2)
    model = BehaviourTransformer(shape).eval().requires_grad_(False)
    report = fit_ranker.fit(model, held_out, dataclasses.replace(RECIPE, ranker_epochs=1))
    assert report["windows"] == USERS * 32 and model.ranker is not None


def test_without_next_windows_the_order_is_the_transformer_s(shop: PreparedData) -> None:
    streams, split = shop.corpus.streams, shop.split
    first = np.flatnonzero(np.diff(streams.user_W, prepend=-1))
    alone = shop._replace(split=split._replace(train=first, validation=np.empty(0, int)))
    shape = Shape(len(shop.items), 4, len(shop.categories), 2, dim=16, layers=1, heads=2)
    model = BehaviourTransformer(shape).eval().requires_grad_(False)
    assert fit_ranker.fit(model, alone, RECIPE) == {}
    model.value_curves = ValueCurveHead(len(INPUTS), 1, 1)
    h_BD = torch.randn(6, 16)
    with torch.inference_mode():
        ranked = profile_model(model, shop)._ranker.rank(served._memories(streams, first[:6]), h_BD)
        expected = model.category_logits(h_BD, torch.zeros(6, 7))[:, 1:5].argsort(1, True)
    # The last named category is level with those that only the memory names.
    np.testing.assert_array_equal(ranked.interests_after[:, :3], expected[:, :3])


@pytest.mark.slow
def test_epoch_for_ndcg_that_does_not_help_is_undone(shop: PreparedData) -> None:
    shape = Shape(len(shop.items), 4, len(shop.categories), 2, dim=16, layers=1, heads=2)
    weights = []
    for learning_rate in (0.0, 100.0):  # no step, and steps that destroy the ranker
        torch.manual_seed(3)
        model = BehaviourTransformer(shape).eval().requires_grad_(False)
        recipe = dataclasses.replace(RECIPE, ranker_ndcg_learning_rate=learning_rate)
        assert not fit_ranker.fit(model, shop, recipe)["ndcg"]["kept"]
        weights.append(model.ranker.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=0)


def test_order_of_events_in_a_window_changes_no_ranking(
    network: BehaviourTransformer, shop: PreparedData
) -> None:
    model, random = profile_model(network, shop), np.random.default_rng(1)
    texts = served._memories(shop.corpus.streams, shop.split.validation[:40])
    shuffled = []
    for text in texts.windows:
        tokens = read_window(text)
        order = random.permutation(len(tokens))
        shuffled.append(window_text(read_end_ms(text), [tokens[index] for index in order]))
    other = texts._replace(windows=shuffled)
    assert other.windows != texts.windows
    h_BD = torch.zeros(40, 16)
    with torch.inference_mode():
        for one, two in zip(
            *(model._ranker.rank(each, h_BD) for each in (texts, other)), strict=True
        ):
            np.testing.assert_array_equal(one, two)


def test_memories_of_training_equal_those_of_serving(shop: PreparedData) -> None:
    streams = shop.corpus.streams
    examples = RankingExamples(streams, shop.items, shop.categories)
    windows = np.flatnonzero(np.arange(len(streams.user_W)) % 7 == 0)
    trained = examples.memory(windows)
    reader = profile_model_reader(shop)
    read = reader.read(served._memories(streams, windows))
    assert trained.windows_ago_T.max() == MEMORY_WINDOWS - 1
    for name in ("rows", "row_T", "age_days_T", "windows_ago_T", "row_features_BU"):
        np.testing.assert_array_equal(getattr(trained, name), getattr(read, name))
    names = [reader.items.names[code - 1] for code in read.item_T]
    code_of = dict(zip(names, trained.item_T.tolist(), strict=True))
    assert [code_of[name] for name in names] == trained.item_T.tolist()
    assert all(shop.items[code - 1] == name for name, code in code_of.items() if code <= 8)


def profile_model_reader(shop: PreparedData) -> Any:
    from models.profile.ranker.memory import MemoryReader

    return MemoryReader(shop.items, shop.categories)


def test_targets_are_the_sets_of_the_next_window_without_returns() -> None:
    kinds = [PURCHASE, PURCHASE, PURCHASE, RETURN, PURCHASE]
    days, items = [0, 1, 1, 1, 2], [1, 2, 2, 3, 1]
    time_ms = START_MS + np.array(days) * DAY_MS
    streams = make_streams(np.zeros(5, int), time_ms, np.array(kinds), np.ones(5), np.array(items))
    examples = RankingExamples(streams, ["2"], [])
    windows = examples.with_target(np.arange(3))
    assert windows.tolist() == [0, 1]
    target = examples.target(windows)
    rows, codes = np.divmod(np.arange(2 * target.item_width), target.item_width)
    held = target.has_item(rows, codes)
    found = [(int(row), int(code)) for row, code in zip(rows[held], codes[held], strict=True)]
    assert found == [(0, 1), (1, 2)]  # codes: 1 is the name "2", then "1", then "3"


def test_checkpoint_and_added_items_keep_the_ranking(
    network: BehaviourTransformer, shop: PreparedData, tmp_path: Path
) -> None:
    checkpoint.round_weights(network)
    card: dict[str, Any] = {
        "name": "x", "version": "x-1", "revision": 1, "horizon_days": 7, "decay_days": 30.0,
        "ranked_items": 8, "recipe": {}, "data": {}, "metrics": {}, "surprise_quantiles": {},
        "modalities": [], "libraries": {},
    }  # fmt: skip
    checkpoint.save(tmp_path, network, shop.items, shop.categories, **card)
    loaded = checkpoint.load(tmp_path)[0]
    unknown = copy.deepcopy(network)
    unknown.ranker.item_category[2] = 5
    checkpoint.save(tmp_path / "unknown", unknown, shop.items, shop.categories, **card)
    with pytest.raises(InputError, match=r"categories of items from \d to 5, but there are 4"):
        checkpoint.load(tmp_path / "unknown")
    new = vocabulary_expansion.hash_bucket_rows(loaded, shop.items, ["90", "91"])
    grown = vocabulary_expansion.add_items(loaded, new)
    texts = of_windows([[(0, [MemoryToken(PURCHASE, "3", "1"), MemoryToken(PURCHASE, "90", "2")])]])
    more = shop._replace(items=[*shop.items, "90", "91"])
    models = [
        profile_model(model, data)
        for model, data in ((network, shop), (loaded, shop), (grown, more))
    ]
    h_BD = torch.ones(1, 16)
    with torch.inference_mode():
        ranked = [model._ranker.rank(texts, h_BD) for model in models]
    names = [
        [model.items[index] for index in each.next_items[0] if model.items[index] not in "9091"]
        for model, each in zip(models, ranked, strict=True)
    ]
    assert names[0] == names[1]
    assert set(names[2]) == set(names[0])
    np.testing.assert_allclose(ranked[1].interests_after_p, ranked[2].interests_after_p, 1e-5)
