"""Evaluation: measures of rankings and of values at any time, baselines, intervals, the log."""

import json
import math
import re

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from liveprofile.errors import InputError
from liveprofile.features.baselines import SUMS
from liveprofile.units import DAY_MS
from models.profile import recipes
from models.profile.data import training_rows
from models.profile.data.examples import PURCHASE, VIEW
from models.profile.data.moments import Outcomes, outcomes
from models.profile.data.prepared import split_by_time
from models.profile.evaluation.any_time import (
    HORIZONS_DAYS,
    Predictions,
    compare_values,
    linear_baselines,
    split_moments,
)
from models.profile.evaluation.intervals import UserBootstrap
from models.profile.evaluation.next_basket import (
    NO_CODE,
    RETURN,
    Baskets,
    basket_scores,
    compare_rankings,
    next_baskets,
)
from models.profile.evaluation.next_basket_baselines import OwnCounts, rank_baselines
from models.profile.evaluation.served import logged, served_rankings
from models.profile.inference import ProfileModel
from models.profile.training.train import train
from tests.unit.models.profile.miniature import MINIATURE, SHORT, run, write_rows
from tests.unit.models.profile.synthetic_streams import (
    START_MS,
    churning_customers,
    corpus_and_split,
    split_at,
    streams_of_rows,
)


def streams_of(*events):
    """Events as (user, day, item) or (user, day, item, type); item 0 has no name."""
    typed = ((*event, PURCHASE)[:4] for event in events)
    return streams_of_rows(
        [(user, START_MS + day * DAY_MS, kind, 1.0, item) for user, day, item, kind in typed]
    )


SHOP = streams_of(
    *((0, 0, 3), (0, 0, 4)),
    *((0, 2, 4), (0, 2, 4), (0, 2, 5, VIEW), (0, 2, 0, VIEW), (0, 2, 3, RETURN)),
    *((0, 5, 6), (1, 1, 6), (1, 3, 0)),
)
ALL = np.arange(5)


def basket_of(baskets, row):
    return baskets.code_M[baskets.row_M == row].tolist()


def test_target_is_the_set_of_the_following_window_without_returns_and_unnamed_items():
    baskets = next_baskets(SHOP, "item", ALL)
    assert baskets.window_W.tolist() == [0, 1]
    assert baskets.user_W.tolist() == [0, 0]
    assert basket_of(baskets, 0) == [4, 5]
    assert basket_of(baskets, 1) == [6]
    assert baskets.had_before_M.tolist() == [True, False, False]


def test_ndcg_recall_and_hit_of_a_known_ranking():
    baskets = next_baskets(SHOP, "item", ALL)
    scores = basket_scores(baskets, np.array([[3, 5, 1], [1, 2, 6]]))
    ideal = 1 + 1 / math.log2(3)
    np.testing.assert_allclose(scores.ndcg_at_10, [1 / math.log2(3) / ideal, 1 / math.log2(4)])
    np.testing.assert_allclose(scores.recall_at_10, [0.5, 1])
    np.testing.assert_allclose(scores.hit_rate, [1, 1])


def test_repeat_and_explore_count_only_their_members_of_the_same_ranking():
    baskets = next_baskets(SHOP, "item", ALL)
    ranking = np.array([[5, 4], [5, 4]])
    repeat, explore = (basket_scores(baskets, ranking, part) for part in ("repeat", "explore"))
    np.testing.assert_allclose(repeat.ndcg_at_10, [1 / math.log2(3), np.nan])
    np.testing.assert_allclose(explore.ndcg_at_10, [1, 0])
    np.testing.assert_allclose(repeat.recall_at_10, [1, np.nan])
    np.testing.assert_allclose(explore.hit_rate, [1, 0])


def test_best_ranking_has_the_score_1_also_for_more_than_ten_members():
    streams = streams_of((0, 0, 1), *((0, 1, item) for item in range(1, 15)))
    baskets = next_baskets(streams, "item", np.array([1]))
    scores = basket_scores(baskets, np.arange(1, 11)[None])
    np.testing.assert_allclose(scores.ndcg_at_10, [1])
    np.testing.assert_allclose(scores.recall_at_10, [10 / 14])


def random_shop(seed):
    random = np.random.default_rng(seed)
    return streams_of(*random.integers((0, 0, 1), (30, 40, 20), (2_000, 3)).tolist())


def test_permuting_the_events_of_a_window_changes_no_target():
    streams, random = random_shop(1), np.random.default_rng(2)
    spans = zip(streams.first_W, streams.last_W, strict=True)
    order = np.concatenate([random.permutation(np.arange(*span)) for span in spans])
    shuffled = streams._replace(item_N=streams.item_N[order])
    windows = np.arange(len(streams.user_W))
    first, second = (next_baskets(each, "item", windows) for each in (streams, shuffled))
    for actual, expected in zip(second[:5], first[:5], strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_comparison_has_scores_differences_and_intervals_by_part():
    streams = random_shop(3)
    baskets = next_baskets(streams, "item", np.arange(len(streams.user_W)))
    rows = len(baskets.window_W)
    truth = np.full((rows, 10), NO_CODE)
    place = np.arange(len(baskets.row_M)) - np.searchsorted(baskets.row_M, baskets.row_M)
    truth[baskets.row_M, place] = baskets.code_M
    report = compare_rankings(baskets, truth, {"none": np.full((rows, 10), NO_CODE)})
    everything = report["all"]
    assert everything["windows"] == rows
    assert everything["users"] == 30
    assert everything["scores"]["model"]["ndcg_at_10"] == [1, 1, 1]
    assert everything["scores"]["none"]["hit_rate"] == [0, 0, 0]
    assert everything["model_over"]["none"]["recall_at_10"] == [1, 1, 1]
    assert report["repeat"]["windows"] < rows
    value, low, high = report["repeat"]["scores"]["model"]["ndcg_at_10"]
    assert low <= value <= high < 1  # new members take places of the ranking


@pytest.fixture(scope="module")
def truth():
    random = np.random.default_rng(1)
    churned = random.random(600) < 0.4
    spend = np.where(churned, 0, random.lognormal(3, 1, 600))
    return Outcomes(churned, spend, np.where(churned, 30, random.uniform(0, 30, 600)))


USERS = np.repeat(np.arange(100), 6)


def test_perfect_model_beats_a_constant_with_the_interval_beyond_0(truth):
    perfect = Predictions(truth.churned_M.astype(float), truth.spend_M, truth.days_M)
    noise = np.random.default_rng(2).random(600)
    report = compare_values(USERS, truth, perfect, {"noise": Predictions(noise, noise, noise)})
    assert (report["moments"], report["users"]) == (600, 100)
    assert report["churn"]["model"] == {"auc": 1}
    difference, low, high = report["churn"]["noise"]["model_over"]
    assert 0 < low < difference < high
    for target in ("spend", "days"):
        assert report[target]["model"]["mae"] == 0
        assert report[target]["noise"]["model_over"][2] < 0


@pytest.mark.parametrize("days", HORIZONS_DAYS)
def test_horizons_end_in_their_split_and_those_of_training_before_all_others(days):
    corpus, split = corpus_and_split(churning_customers())
    streams = corpus.streams
    train, *later = split_moments(streams, split, days)
    ends_ms = (split.train_until_ms, split.validation_until_ms, split.test_until_ms)
    for moments, after_ms, until_ms in zip(later, ends_ms, ends_ms[1:], strict=False):
        horizon_end = moments.at_ms_M + days * DAY_MS
        assert (horizon_end > after_ms).all() and (horizon_end <= until_ms).all()
        assert train.at_ms_M.max(initial=0) + days * DAY_MS <= moments.at_ms_M.min()
        # The user's last window that has ended.
        window_M = moments.window_M
        same_user_M = streams.user_W[window_M] == np.append(streams.user_W, -1)[window_M + 1]
        next_ms_M = np.append(streams.end_ms_W, 0)[window_M + 1]
        assert (streams.end_ms_W[window_M] <= moments.at_ms_M).all()
        assert (~same_user_M | (next_ms_M > moments.at_ms_M)).all()
    if days < 90:
        assert train.at_ms_M.max() > split.train_until_ms - (2 * days + 5) * DAY_MS


def with_sums(streams):
    """What the SQL adds, all 0: the memory tells enough."""
    zeros_WS = np.zeros((len(streams.user_W), len(SUMS)))
    last_ms_W = np.zeros(len(streams.user_W), np.int64)
    return streams._replace(added_WS=zeros_WS, sums_WS=zeros_WS, last_purchase_ms_W=last_ms_W)


def fitted(streams):
    corpus, split = corpus_and_split(with_sums(streams))
    moments = split_moments(corpus.streams, split, 30)
    return moments, corpus.streams, linear_baselines(corpus, MINIATURE, *moments, 30)


def test_regressions_are_better_than_the_average_on_unseen_moments():
    moments, streams, found = fitted(churning_customers())
    truth = outcomes(streams, moments[2], 30)
    churn_M = found["logistic_regression"].predictions.churn_W
    assert churn_M[truth.churned_M].mean() > churn_M[~truth.churned_M].mean() + 0.3
    linear = found["linear_regression"]
    assert linear.predictions.churn_W is None and set(linear.settings) == {"spend", "days"}
    known = outcomes(streams, moments[0], 30)
    for target in ("spend", "days"):
        predicted_M = getattr(linear.predictions, f"{target}_W")
        true_M, average = getattr(truth, f"{target}_M"), getattr(known, f"{target}_M").mean()
        assert np.abs(predicted_M - true_M).mean() < 0.8 * np.abs(average - true_M).mean()
        assert predicted_M.min() >= 0
    assert linear.predictions.days_W.max() <= 30


def test_events_after_validation_change_no_choice():
    _, _, expected = fitted(churning_customers())
    streams = churning_customers()
    split = corpus_and_split(streams)[1]
    late_N = streams.time_ms_N >= split.validation_until_ms
    _, _, found = fitted(streams._replace(amount_N=np.where(late_N, 1e6, streams.amount_N)))
    assert {name: each.settings for name, each in found.items()} == {
        name: each.settings for name, each in expected.items()
    }


def test_nothing_is_fitted_without_both_classes():
    streams = churning_customers(users=8)
    assert fitted(streams._replace(type_N=np.full_like(streams.type_N, VIEW)))[2] == {}


def test_intervals_equal_those_of_written_out_resamples():
    """Scores of two models for 400 predictions of 30 users, with ties."""
    random = np.random.default_rng(6)
    truth, user = random.lognormal(2, 1, 400), random.integers(100, 130, 400)
    first, second = (np.round(np.log(truth) + random.normal(0, s, 400), 1) for s in (0.5, 1.5))
    bootstrap, true = UserBootstrap(user, resamples=50), truth > 8
    rows = {code: np.flatnonzero(user == code) for code in np.unique(user)}
    metrics = {
        "mean": ((), lambda score, index: score[index].mean()),
        "mae": ((truth,), lambda score, index: np.abs(score[index] - truth[index]).mean()),
        "auc": ((true,), lambda score, index: roc_auc_score(true[index], score[index])),
        "average_precision": (
            (true,),
            lambda score, index: average_precision_score(true[index], score[index]),
        ),
    }
    for name, (truths, metric) in metrics.items():
        differences = []
        for counts in bootstrap._counts_RU:
            index = np.concatenate([np.tile(rows[c], n) for c, n in zip(rows, counts, strict=True)])
            differences.append(metric(first, index) - metric(second, index))
        low, high = np.quantile(differences, [0.025, 0.975])
        difference = metric(first, np.arange(400)) - metric(second, np.arange(400))
        interval = getattr(bootstrap, name)(first, second, *truths)
        assert interval == pytest.approx((difference, low, high), abs=1e-9), name


def test_each_look_appends_a_line_with_date_commit_and_figures(tmp_path):
    log = tmp_path / "looks.jsonl"
    for value in (0.1, 0.2):
        report = {"version": "shop-1", "rows": "abc", "ndcg": value}
        assert logged(log, "general", lambda report=report: report) == report
    first, second = map(json.loads, log.read_text().splitlines())
    assert [first["figures"], second["figures"]] == [{"ndcg": 0.1}, {"ndcg": 0.2}]
    assert (first["recipe"], first["checkpoint"], first["rows"]) == ("general", "shop-1", "abc")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first["date"])
    assert re.fullmatch(r"([0-9a-f]{40}(\+changes)?)?", first["commit"])


def test_nothing_is_measured_if_the_log_cannot_be_written(tmp_path):
    def measure():
        raise AssertionError("looked at the test part")

    with pytest.raises(InputError, match=r"test log .*missing.*No such file"):
        logged(tmp_path / "missing" / "looks.jsonl", "general", measure)


DAYS, BUYERS = 80, 24


def shop(until=DAYS):
    """Each user buys three of the user's own six items every second day, after `until` any."""
    rows = []
    for user in range(BUYERS):
        own = np.random.default_rng(user).choice(np.arange(1, 60), 6, replace=False)
        for day in range(user % 2, DAYS, 2):
            random = np.random.default_rng((1, user, day))
            items = own if day < until else np.arange(1, 60)
            rows += [(user, day, item) for item in random.choice(items, 3, replace=False)]
    return streams_of(*rows)


@pytest.mark.slow
def test_baselines_rank_habits_above_popularity():
    streams = shop()
    split = split_at(streams, 50, 65, DAYS)
    targets = next_baskets(streams, "item", split.test)
    recall = {
        name: basket_scores(targets, each.ranking_RK).recall_at_10.mean()
        for name, each in rank_baselines(streams, "item", split, targets, True).items()
    }
    assert recall["popularity"] < 0.3 < recall["lstm"] and recall["own_counts"] > 0.9


@pytest.mark.slow
def test_purchases_after_a_window_change_none_of_its_rankings():
    first, changed = [], []
    for streams, found in ((shop(), first), (shop(until=70), changed)):
        split = split_at(streams, 50, 65, DAYS)
        targets = next_baskets(streams, "item", split.test)
        early = streams.end_ms_W[targets.window_W] <= START_MS + 70 * DAY_MS
        assert early.any() and not early.all()
        ranked = rank_baselines(streams, "item", split, targets, True)
        found += [ranked[name].ranking_RK[early] for name in sorted(ranked)]
    for expected, actual in zip(first, changed, strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.slow
def test_own_counts_decay_and_are_completed_by_popular_codes():
    # User 0: item 1 three times, item 2 later in two windows. User 1: item 3 in three windows.
    events = [(0, 0, 1)] * 3 + [(0, 30, 2), (0, 60, 2), (0, 60, 0), (0, 61, 5)]
    events += [(1, 0, 3), (1, 1, 3), (1, 2, 3), (0, 60, 4, RETURN)]
    baskets = Baskets.from_streams(streams_of(*events), "item")
    popularity_C = baskets.popularity(np.arange(len(baskets.user_W)))

    def rank(window, *settings):
        return OwnCounts(*settings).rank(baskets, np.array([window]), popularity_C)[0].tolist()

    assert rank(2, np.inf, 0, True)[:2] == [1, 2]
    assert rank(2, np.inf, 0, False)[:2] == [2, 1]
    assert rank(1, np.inf, 0, False)[:2] == [2, 1]  # equal counts: the more popular first
    assert rank(1, np.inf, 100.0, False)[0] == 3
    ranking = rank(2, np.inf, 0, False)
    assert ranking[:3] == [2, 1, 3] and ranking[3] == 5 and set(ranking[4:]) <= {NO_CODE}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with training rows of 60 days and a model checkpoint trained on them."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_rows(folder / "rows", days=60)
    train(SHORT, folder / "rows", folder / "model")
    return folder


@pytest.mark.slow
def test_served_rankings_are_those_of_each_windows_own_user(trained):
    streams = training_rows.read(trained / "rows")
    baskets = next_baskets(streams, "category", split_by_time(MINIATURE, streams.end_ms_W).test)
    model = ProfileModel.load(trained / "model", device="cpu")
    ranking = served_rankings(model, streams, baskets.window_W, MINIATURE.history_windows).category
    assert basket_scores(baskets, ranking).recall_at_10.mean() == 1  # six categories
    # Each user buys from two categories of six.
    assert basket_scores(baskets, ranking[:, :2]).ndcg_at_10.mean() > 0.95
    others = np.roll(ranking, 5, axis=0)
    assert basket_scores(baskets, others[:, :2]).ndcg_at_10.mean() < 0.8


@pytest.mark.slow
def test_evaluate_command_reports_what_is_served_and_logs_the_test_part(
    trained, monkeypatch, tmp_path
):
    monkeypatch.setitem(recipes.RECIPES, "general", MINIATURE)
    paths = {"rows": trained / "rows", "checkpoint": trained / "model", "part": "test"}
    result = run("model evaluate general", **paths, **{"test-log": tmp_path / "looks.jsonl"})
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert (report["part"], report["version"]) == ("test", "miniature-1")
    (look,) = map(json.loads, (tmp_path / "looks.jsonl").read_text().splitlines())
    assert look["figures"]["next_basket"] == report["next_basket"]
    category = report["next_basket"]["category"]["all"]["model_over"]
    assert {"popularity", "own_counts", "lstm"} == set(category)
    difference, low, high = category["popularity"]["ndcg_at_10"]
    assert 0 < low <= difference <= high
    assert set(report["any_time"]) == {"7_days", "30_days", "90_days"}
    week = report["any_time"]["7_days"]
    assert "auc" in week["churn"]["model"] and "model_over" in week["churn"]["logistic_regression"]
    assert report["any_time"]["90_days"] is None  # the rows cover 60 days
