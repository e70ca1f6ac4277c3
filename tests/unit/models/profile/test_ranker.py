"""The ranker: what it reads of a memory, its losses, what it learns, and that serving ranks so."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

from liveprofile.units import DAY_MS
from liveprofile.wire.histories import MEMORY_WINDOWS, MemoryToken, of_windows, read_memories
from liveprofile.wire.tokens import EVENT, TYPE_INDEX
from models.profile.data.examples import build_corpus
from models.profile.data.prepared import PreparedData
from models.profile.encoding import Vocabulary
from models.profile.evaluation import next_basket, served
from models.profile.evaluation.next_basket_baselines import OwnCounts
from models.profile.inference import RANKED_ROWS, TOP_K, ProfileModel
from models.profile.network import BehaviourTransformer, Shape
from models.profile.ranker.memory import PAIR_FEATURES, MemoryReader, Pairs, pairs
from models.profile.ranker.network import Ranker, category_of_item
from models.profile.ranking import rank_memories
from models.profile.training import fit_ranker
from models.profile.training.fit_ranker import RankingExamples, ndcg_at_10, ndcg_loss, set_loss
from models.profile.values import INPUTS, ValueCurveHead
from tests.unit.models.profile.miniature import MINIATURE
from tests.unit.models.profile.synthetic_streams import START_MS, split_at, streams_of_rows

PURCHASE, RETURN = TYPE_INDEX["purchase"], TYPE_INDEX["return"]


def token(item, category="c", kind=PURCHASE):
    return MemoryToken(kind, item, category)


def read(rows, reader=None):
    reader = reader or MemoryReader(["a", "b"], ["c", "d"])
    return reader.index(of_windows(rows)).tokens()


def test_counts_recency_and_gaps_of_an_item():
    row = [
        (0, [token("a")]),
        (10 * DAY_MS, [token("a"), token("a"), token("b")]),
        (30 * DAY_MS, [token("b")]),
    ]
    tokens = read([[(9 * DAY_MS, [token("b")])], row])
    found = pairs(tokens, tokens.item_T)

    def features(row, code):
        [index] = np.flatnonzero((found.row_M == row) & (found.code_M == code))
        return dict(zip(PAIR_FEATURES, found.features_MF[index].tolist(), strict=True))

    expected = {
        "windows_7_days": math.log1p(2 ** (-30 / 7) + 2 ** (-20 / 7)),
        "windows_30_days": math.log1p(2**-1 + 2 ** (-20 / 30)),
        "windows_90_days": math.log1p(2 ** (-30 / 90) + 2 ** (-20 / 90)),
        "windows_10_windows": math.log1p(2 ** (-2 / 10) + 2 ** (-1 / 10)),
        "windows_30_windows": math.log1p(2 ** (-2 / 30) + 2 ** (-1 / 30)),
        "events_30_days": math.log1p(2**-1 + 2 * 2 ** (-20 / 30)),
        "windows": math.log1p(2),
        "share_of_windows": 2 / 3,
        "last_days": math.log1p(20),
        "last_windows": math.log1p(1),
        "in_last_window": 0.0,
        "gap_days": math.log1p(10),
        "last_over_gap": math.log(21 / 11),
        "once": 0.0,
        "first_days": math.log1p(30),
    }
    assert features(row=1, code=1) == pytest.approx(expected, rel=1e-5)
    once = features(row=0, code=2)
    assert once["once"] == once["in_last_window"] == 1 and once["last_over_gap"] == 0


def test_returns_and_missing_ids_count_as_no_id():
    tokens = read([[(0, [token("a", kind=RETURN), token("", ""), token("b")])]])
    assert tokens.item_T.tolist() == [0, 0, 2] and tokens.category_T.tolist() == [0, 0, 1]
    assert pairs(tokens, tokens.item_T).code_M.tolist() == [2]


def test_tokens_without_five_fields_are_refused():
    with pytest.raises(ValueError, match="five fields"):
        read_memories([f"5{EVENT}0", "6"])


def test_further_ids_follow_the_names_of_the_model():
    reader = MemoryReader(["a", "b"], ["c"])
    tokens = read([[(0, [token("new"), token("b", "other")])]], reader)
    assert [reader.items[code - 1] for code in tokens.item_T] == ["new", "b"]
    assert reader.categories == ["c", "other"]
    tokens = read([[(0, [token("5", ""), token("a", "")])]], reader)
    assert reader.items == ["a", "b", "5"]
    assert [reader.items[code - 1] for code in tokens.item_T] == ["5", "a"]


def test_equal_ids_are_ordered_by_their_names_only():
    ties = []
    for order in ("xy", "yx"):
        reader = MemoryReader(["a"], ["a"])
        read([[(0, [token(name, name) for name in order])]], reader)
        for names, tie in (
            (reader.items, reader.item_ties),
            (reader.categories, reader.category_ties),
        ):
            ties.append([tie[1 + names.index(name)] for name in "axy"])
    assert ties[0] == ties[1] == ties[2] == ties[3]
    assert ties[0][0] == 0 and ties[0][1] != ties[0][2]


def ranked_rows(ranker, rows):
    """The logit of each category and item of each row, by name, and the `other` ones."""
    reader = MemoryReader(["a", "b"], ["c", "d"])
    tokens = read(rows, reader)
    with torch.inference_mode():
        ranked = ranker.eval()(tokens)
    logits = [{} for _ in rows]
    for pairs_of, logit_M, names in (
        (ranked.category, ranked.category_M, reader.categories),
        (ranked.item, ranked.item_M, reader.items),
    ):
        columns = pairs_of.row_M, pairs_of.code_M, logit_M.tolist()
        for row, code, logit in zip(*columns, strict=True):
            logits[row][names[code - 1]] = logit
    return logits


def random_ranker():
    torch.manual_seed(2)
    ranker = Ranker(2, 1)
    for weight in ranker.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return ranker.requires_grad_(False)


def renamed(row, names):
    return [
        (
            end_ms,
            [
                each._replace(
                    **{
                        k: names.get(v, v)
                        for k, v in (("item", each.item), ("category", each.category))
                    }
                )
                for each in tokens
            ],
        )
        for end_ms, tokens in row
    ]


ROW = [(0, [token("a", "c"), token("b", "d")]), (9 * DAY_MS, [token("a", "c"), token("new", "")])]


def test_only_names_of_the_model_s_shop_change_the_order():
    ranker = random_ranker()
    foreign = renamed(ROW, {"c": "x", "d": "y", "b": "z"})  # but item a, a name by chance
    own, other = ranked_rows(ranker, [ROW, foreign])
    nameless = copy.deepcopy(ranker)
    for table in nameless.tables():
        table.copy_(table[:1].expand_as(table).clone())
    [plain] = ranked_rows(nameless, [ROW])
    translated = {"a": "a", "z": "b", "new": "new", "x": "c", "y": "d"}
    for name, expected in translated.items():
        assert other[name] == pytest.approx(plain[expected], abs=1e-5)
        assert abs(own[expected] - plain[expected]) > 1e-3


def test_an_item_has_the_features_of_its_newest_category():
    rows = [ROW, [(0, [token("a", "d")]), (DAY_MS, [token("a", "c"), token("b", "")])], []]
    reader = MemoryReader(["a", "b"], ["c", "d"])
    tokens = read(rows, reader)
    item, category = pairs(tokens, tokens.item_T), pairs(tokens, tokens.category_T)
    found = [
        (
            row,
            reader.items[code - 1],
            index >= 0 and reader.categories[category.code_M[index] - 1],
        )
        for row, code, index in zip(
            item.row_M, item.code_M, category_of_item(item, category), strict=True
        )
    ]
    assert found == [
        (0, "a", "c"),
        (0, "b", "d"),
        (0, "new", False),
        (1, "a", "c"),
        (1, "b", False),
    ]
    assert category.row_M[category_of_item(item, category)[[0, 1, 3]]].tolist() == [0, 0, 1]


def test_set_loss_is_the_cross_entropy_with_all_positives():
    logit = torch.tensor([1.0, 2.0, 0.5, 0.1, -1.0])
    row, positive = np.array([0, 0, 0, 1, 1]), np.array([True, False, True, False, False])
    total = math.log(sum(math.exp(value) for value in (1.0, 2.0, 0.5)))
    expected = ((total - 1.0) + (total - 0.5)) / 2 / 2  # the second row has no positive
    assert set_loss(logit, row, positive, rows=2).item() == pytest.approx(expected, rel=1e-6)


def pairs_of_rows(row_M):
    row_M = np.array(row_M)
    return Pairs(row_M, np.arange(len(row_M)), np.empty((len(row_M), 0)), np.zeros(len(row_M)))


def test_ndcg_loss_weighs_each_pair_by_the_ndcg_that_a_swap_changes():
    # Row 0 ranks negative, positive, negative; row 1 has a single candidate.
    logit, positive = torch.tensor([0.5, -1.0, 2.0, 0.3]), np.array([True, False, False, True])
    loss = ndcg_loss(pairs_of_rows([0, 0, 0, 1]), logit, positive, np.array([1, 2]))
    first, second, third = (1 / math.log2(place + 1) for place in (1, 2, 3))
    expected = (first - second) * math.log1p(math.exp(2.0 - 0.5))
    expected += (second - third) * math.log1p(math.exp(-1.0 - 0.5))
    assert loss.item() == pytest.approx(expected / 2, rel=1e-6)


def test_ndcg_is_that_of_the_evaluation():
    random, rows, codes = np.random.default_rng(5), 20, 60
    logit_RC = random.normal(size=(rows, codes)).astype(np.float32)
    member_RC = random.random((rows, codes)) < random.uniform(0.02, 0.5, (rows, 1))
    member_RC[:, 0] = True
    row_M, code_M = np.nonzero(member_RC)
    baskets = next_basket.NextBaskets(
        np.arange(rows), np.arange(rows), row_M, code_M, np.ones(len(row_M), bool), codes
    )
    ranking = np.argsort(-logit_RC, axis=1)[:, :10]
    expected = next_basket.basket_scores(baskets, ranking).ndcg_at_10
    candidates = pairs_of_rows(np.repeat(np.arange(rows), codes))
    logit = torch.from_numpy(logit_RC.ravel())
    actual = ndcg_at_10(candidates, logit, member_RC.ravel(), member_RC.sum(1))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5)


USERS, DAYS, ITEMS, EVERY_DAYS = 30, 45, 40, 3
RECIPE = dataclasses.replace(
    MINIATURE, ranker_epochs=5, ranker_batch_rows=48, ranker_learning_rate=1e-2
)


@pytest.fixture(scope="module")
def shop():
    """Users have twelve items each, four of them on each third day. Counts tell nothing."""
    random = np.random.default_rng(4)
    rows = []
    for user in range(USERS):
        own = 1 + random.permutation(ITEMS)[:12]
        for day in range(DAYS):
            for item in random.permutation(own[day % EVERY_DAYS :: EVERY_DAYS]):
                rows.append((user, START_MS + day * DAY_MS, PURCHASE, 1.0, item))
    streams = streams_of_rows(rows)
    # Most items have no name in the model: a memory names them.
    items, categories = streams.items[1:9], streams.categories[:4]
    corpus = build_corpus(streams, Vocabulary(items, 4), Vocabulary(categories, 2))
    split = split_at(streams, 33, DAYS, DAYS)
    return PreparedData(corpus, split, items, np.ones(8), categories, np.ones(4), None)


def new_network(shop):
    torch.manual_seed(3)
    shape = Shape(len(shop.items), 4, len(shop.categories), 2, dim=16, layers=1, heads=2)
    model = BehaviourTransformer(shape).eval().requires_grad_(False)
    model.value_curves = ValueCurveHead(len(INPUTS), 1, 1)
    return model


@pytest.fixture(scope="module")
def network(shop):
    model = new_network(shop)
    report = fit_ranker.fit(model, shop, RECIPE)
    assert report["windows"] == USERS * 32
    assert min(report["validation_losses"]) == report["validation_losses"][report["epoch"] - 1]
    assert report["ndcg"]["windows"] < report["windows"]
    assert report["ndcg"]["kept"] == (report["ndcg"]["after"] > report["ndcg"]["before"])
    return model


def profile_model(network, shop):
    card = {"version": "x", "revision": 1, "decay_days": 30.0}
    options = {"device": torch.device("cpu"), "batch_rows": 50}
    return ProfileModel(network, shop.items, shop.categories, card, length_buckets=(8,), **options)


@pytest.mark.slow
def test_stored_items_are_better_than_counts_where_gaps_tell_more(network, shop):
    streams = shop.corpus.streams
    targets = next_basket.next_baskets(streams, "item", shop.split.validation)
    ranking = served.served_rankings(profile_model(network, shop), streams, targets.window_W, 8)
    baskets = next_basket.Baskets.from_streams(streams, "item")
    popularity_C = baskets.popularity(shop.split.train)
    counts = OwnCounts(30.0, 0.0, False).rank(baskets, targets.window_W, popularity_C)
    served_ndcg, counts_ndcg = (
        np.nanmean(next_basket.basket_scores(targets, each).ndcg_at_10)
        for each in (ranking.item, counts)
    )
    assert served_ndcg > 0.85 > 0.6 > counts_ndcg


def test_one_window_of_each_user_in_validation_is_enough(shop):
    """As in data where each user's last baskets are held out."""
    streams, split = shop.corpus.streams, shop.split
    first = split.validation[np.diff(streams.user_W[split.validation], prepend=-1) != 0]
    before = RankingExamples(streams, [], []).before(first)
    assert before.tolist() == (first - 1).tolist() and np.isin(before, split.train).all()
    held_out = shop._replace(split=split._replace(validation=first))
    model = new_network(shop)
    report = fit_ranker.fit(model, held_out, dataclasses.replace(RECIPE, ranker_epochs=1))
    assert report["windows"] == USERS * 32 and model.ranker is not None


def test_without_next_windows_the_order_is_that_of_decayed_counts(shop):
    streams, split = shop.corpus.streams, shop.split
    first = np.flatnonzero(np.diff(streams.user_W, prepend=-1))
    alone = shop._replace(split=split._replace(train=first, validation=np.empty(0, int)))
    model = new_network(shop)
    assert fit_ranker.fit(model, alone, RECIPE) == {}
    row = [
        (0, [token("often"), token("new")]),
        (9 * DAY_MS, [token("often"), token("old")]),
        (9 * DAY_MS + 1, [token("new")]),
        (9 * DAY_MS + 2, [token("often")]),
    ]
    [found] = ranked_rows(model.ranker, [row])
    assert sorted(found, key=found.get, reverse=True)[:4] == ["c", "often", "new", "old"]


@pytest.mark.slow
def test_epoch_for_ndcg_that_does_not_help_is_undone(shop):
    weights = []
    for learning_rate in (0.0, 100.0):  # no step, and steps that destroy the ranker
        model = new_network(shop)
        recipe = dataclasses.replace(
            RECIPE, ranker_epochs=1, ranker_ndcg_learning_rate=learning_rate
        )
        assert not fit_ranker.fit(model, shop, recipe)["ndcg"]["kept"]
        weights.append(model.ranker.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=0)


def test_order_of_events_in_a_window_changes_no_ranking(network, shop):
    model, random = profile_model(network, shop), np.random.default_rng(1)
    texts = served._memories(shop.corpus.streams, shop.split.validation[:40])
    window_T = np.repeat(np.arange(len(texts.end_ms)), texts.token_counts)
    order = np.lexsort((random.random(len(window_T)), window_T))
    columns = {name: getattr(texts, name) for name in ("type_index", "item", "category")}
    other = texts._replace(**{name: column.take(order) for name, column in columns.items()})
    assert other.item != texts.item
    both = []
    for memories in (texts, other):
        with torch.inference_mode():
            parts = model.reader.index(memories).parts(RANKED_ROWS)
            ranking = rank_memories(network, model.reader, parts, None, TOP_K).values()
        # Codes of further ids follow their order.
        names = np.array([*model.categories, ""]), np.array([*model.items, ""])
        category_BK, p_BK, item_BK = ranking
        both.append((names[0][category_BK], p_BK, names[1][item_BK]))
    for one, two in zip(*both, strict=True):
        np.testing.assert_array_equal(one, two)


def test_memories_of_training_equal_those_of_serving(shop):
    streams = shop.corpus.streams
    windows = np.flatnonzero(np.arange(len(streams.user_W)) % 7 == 0)
    trained = RankingExamples(streams, shop.items, shop.categories).memory(windows)
    reader = MemoryReader(shop.items, shop.categories)
    read = reader.index(served._memories(streams, windows)).tokens()
    assert trained.windows_ago_T.max() == MEMORY_WINDOWS - 1
    for name in ("rows", "row_T", "age_days_T", "windows_ago_T", "row_features_BU"):
        np.testing.assert_array_equal(getattr(trained, name), getattr(read, name))
    names = [reader.items[code - 1] for code in read.item_T]
    code_of = dict(zip(names, trained.item_T.tolist(), strict=True))
    assert [code_of[name] for name in names] == trained.item_T.tolist()
    assert all(shop.items[code - 1] == name for name, code in code_of.items() if code <= 8)
