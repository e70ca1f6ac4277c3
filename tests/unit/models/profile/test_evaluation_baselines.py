"""The baselines of models.profile.evaluation.baselines, each against a plain computation of the same."""

from functools import partial

import numpy as np
import pytest
import torch
from lifetimes import BetaGeoFitter
from scipy.stats import spearmanr
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, roc_auc_score

from liveprofile.units import DAY_MS
from models.profile.data.examples import PURCHASE, VIEW, build
from models.profile.data.prepared import Split
from models.profile.data.training_rows import Streams
from models.profile.encoding import Vocabulary
from models.profile.evaluation import baselines
from models.profile.evaluation.baselines import bgnbd, boosting, linear, lstm, user_frequency
from models.profile.evaluation.baselines.data import Data, absolute_error, choose, ranking_loss
from models.profile.evaluation.baselines.rfm import COLUMNS, features
from models.profile.evaluation.intervals import Bootstrap

START_MS = 17_167 * DAY_MS  # 2017-01-01


def streams(user_N, time_ms_N, type_N, amount_N, item_N, window_ms=DAY_MS):
    """Windows of these events; items' names are their codes, item 0 has none."""
    order = np.lexsort((time_ms_N, user_N))
    user_N, time_ms_N, type_N, amount_N, item_N = (
        np.asarray(column)[order] for column in (user_N, time_ms_N, type_N, amount_N, item_N)
    )
    window_N = time_ms_N // window_ms
    new_N = (np.diff(user_N, prepend=-1) != 0) | (np.diff(window_N, prepend=-1) != 0)
    first_W = np.flatnonzero(new_N)
    known = {
        "users": int(user_N.max()) + 1,
        "items": ["" if code == 0 else str(code) for code in range(int(item_N.max()) + 1)],
        "categories": [str(code) for code in range(5)],
        "item_N": item_N,
        "category_N": item_N % 5,
        "type_N": type_N,
        "amount_N": amount_N,
        "time_ms_N": time_ms_N,
        "user_W": user_N[first_W],
        "end_ms_W": (window_N[first_W] + 1) * window_ms,
        "first_W": first_W,
        "last_W": np.append(first_W[1:], len(user_N)),
        "unusable_events": 0,
    }
    return Streams(**{name: known.get(name) for name in Streams._fields})


def mixed(window_ms=DAY_MS // 2, events=900, seed=1):
    """Views and purchases of eleven users over 120 days; user 7 only looks."""
    random = np.random.default_rng(seed)
    user = np.concatenate([np.arange(11), random.integers(0, 11, events - 11)])
    kind = np.where((random.random(events) < 0.3) | (user == 7), VIEW, PURCHASE)
    return streams(
        user,
        START_MS + random.integers(0, 120 * DAY_MS, events) // 3_600_000 * 3_600_000,
        kind,
        np.round(random.lognormal(2, 1, events), 2) * (kind == PURCHASE),
        random.integers(0, 30, events),
        window_ms,
    )


def customers(users=80, days=200, seed=2):
    """Purchases by a rate and an amount of each user's own, until they leave, half of them early.

    Who is about to leave buys item 1 on their last days.
    """
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        rate, amount = random.uniform(0.02, 0.5), random.lognormal(2, 0.7)
        leaves = random.integers(20, days) if user % 2 else days
        for day in range(days):
            if day < leaves and (day == 0 or random.random() < rate):
                last = leaves < days and day > leaves - 8
                for _ in range(3):
                    item = 1 if last and random.random() < 0.8 else random.integers(2, 40)
                    time_ms = START_MS + day * DAY_MS + random.integers(DAY_MS)
                    rows.append((user, time_ms, PURCHASE, amount * random.lognormal(0, 0.3), item))
    return streams(*(np.array(column) for column in zip(*rows, strict=True)))


def labelled(made):
    corpus = build(made, Vocabulary([], 1), Vocabulary([], 1), 30)
    end_ms_W = np.asarray(made.end_ms_W)
    at_ms = [START_MS + day * DAY_MS for day in (110, 150, 200)]
    parts = Split(
        np.flatnonzero(end_ms_W <= at_ms[0]),
        np.flatnonzero((end_ms_W > at_ms[0]) & (end_ms_W <= at_ms[1])),
        np.flatnonzero(end_ms_W > at_ms[1]),
        *at_ms,
    )
    return corpus, parts


@pytest.fixture(scope="module")
def data():
    return Data.of(*labelled(customers()))


def no_news(done, total):
    pass


def test_rfm_is_what_a_loop_finds():
    made = mixed()
    found = features(made)
    assert found.names == list(COLUMNS)
    for window in range(len(made.user_W)):
        user, now = made.user_W[window], (made.end_ms_W[window] - 1) // DAY_MS
        begin = made.first_W[np.flatnonzero(made.user_W == user)[0]]
        tokens = np.arange(begin, made.last_W[window])
        tokens = tokens[made.type_N[tokens] == PURCHASE]
        values = dict(zip(found.names, found.values_WF[window], strict=True))
        if not len(tokens):
            assert set(values.values()) == {0.0}
            continue
        day, amount = made.time_ms_N[tokens] // DAY_MS, made.amount_N[tokens]
        days = np.unique(day)
        gaps = np.diff(days)
        expected = {
            "recency": now - days[-1],
            "frequency": len(days),
            "age": now - days[0],
            "monetary": amount.sum() / len(days),
            "gap_mean": gaps.mean() if len(gaps) else 0,
            "gap_std": gaps.std() if len(gaps) else 0,
            "gap_last": gaps[-1] if len(gaps) else 0,
            "window_amount": amount[tokens >= made.first_W[window]].sum(),
        }
        for lately in (7, 30, 90):
            inside = day > now - lately
            expected[f"purchases_{lately}d"] = inside.sum()
            expected[f"spend_{lately}d"] = amount[inside].sum()
            expected[f"days_{lately}d"] = len(np.unique(day[inside]))
        assert values == pytest.approx(expected, abs=1e-6), window


def test_rfm_of_the_past_does_not_know_the_future():
    made = mixed()
    kept = made.time_ms_N < START_MS + 60 * DAY_MS
    user_N = np.repeat(made.user_W, made.last_W - made.first_W)
    columns = (user_N, made.time_ms_N, made.type_N, made.amount_N, made.item_N)
    past = streams(*(column[kept] for column in columns), DAY_MS // 2)
    before = made.end_ms_W <= START_MS + 60 * DAY_MS
    np.testing.assert_allclose(
        features(past).values_WF, features(made).values_WF[before], atol=1e-6
    )


@pytest.fixture(scope="module")
def regressors():
    """Correlated columns of different scales, one of them constant."""
    random = np.random.default_rng(3)
    x_NF = random.normal(size=(600, 5)) @ random.normal(size=(5, 5)) * [1, 10, 0.1, 5, 1] + 3
    x_NF[:, 4] = 7.0
    return x_NF, x_NF[:, 0] - 0.3 * x_NF[:, 1] + random.normal(size=600)


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_linear_regression_is_scikit_learns(regressors, l2):
    x_NF, y_N = regressors
    found = linear.linear_regression(x_NF, 1_000 + 50 * y_N, l2)
    std_F = np.where(x_NF.std(0) > 0, x_NF.std(0), 1)
    expected = (Ridge(alpha=600 * l2) if l2 else LinearRegression()).fit(
        x_NF / std_F, 1_000 + 50 * y_N
    )
    np.testing.assert_allclose(found.weight_F * std_F, expected.coef_, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(found(x_NF), expected.predict(x_NF / std_F), rtol=1e-3)
    assert found.weight_F[4] == 0


@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_logistic_regression_is_scikit_learns(regressors, l2):
    x_NF, y_N = regressors
    true_N = y_N > np.median(y_N) + 0.5
    found = linear.logistic_regression(x_NF, true_N, l2)
    std_F = np.where(x_NF.std(0) > 0, x_NF.std(0), 1)
    centred_NF = (x_NF - x_NF.mean(0)) / std_F
    strength = 1 / (600 * l2) if l2 else np.inf
    expected = LogisticRegression(C=strength, tol=1e-8, max_iter=1_000).fit(centred_NF, true_N)
    np.testing.assert_allclose(found.weight_F * std_F, expected.coef_[0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found(x_NF), expected.decision_function(centred_NF), atol=1e-2)


def test_a_regression_that_does_not_converge_says_so(regressors, monkeypatch):
    monkeypatch.setattr(linear, "MAX_STEPS", 3)
    with pytest.raises(ArithmeticError, match="larger l2"):
        linear.linear_regression(*regressors)


def test_parts_know_only_labels_of_their_time(data):
    end_ms_W, days = data.corpus.streams.end_ms_W, 30 * DAY_MS
    assert end_ms_W[data.train.windows_W].max() + days <= data.train_until_ms
    validation_ms = end_ms_W[data.validation.windows_W]
    assert validation_ms.min() + days > data.train_until_ms
    assert validation_ms.max() + days <= START_MS + 150 * DAY_MS
    test_ms = end_ms_W[data.test_W]
    assert test_ms.min() > START_MS + 150 * DAY_MS
    assert test_ms.max() + days <= START_MS + 200 * DAY_MS
    np.testing.assert_array_equal(
        data.train.left_W, data.corpus.purchases_W[data.train.windows_W] == 0
    )


def test_the_settings_with_the_least_loss_on_validation_are_chosen(data):
    def fit(settings):
        return lambda windows_W: np.full(len(windows_W), settings["value"])

    def loss(part, value_W):
        assert len(value_W) == len(part.windows_W) == len(data.validation.windows_W)
        return abs(value_W[0] - 3)

    tried = []
    settings = [{"value": value, "name": name} for name, value in enumerate((9, 4, 2, 7))]
    chosen, predict = choose(data, settings, fit, loss, lambda *news: tried.append(news))
    assert chosen == {"value": 4, "name": 1} and predict(np.arange(2)).tolist() == [4, 4]
    assert tried == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(("a", "b"), [(0.8, 2.5), (0.2, 0.5)])
def test_bg_nbd_is_the_mean_over_what_a_user_may_be(a, b):
    """Over draws from the prior, weighted by the likelihood of the history (their equation 3)."""
    model = BetaGeoFitter()
    model.params_ = dict(zip(("r", "alpha", "a", "b"), (1.2, 10.0, a, b), strict=True))
    random = np.random.default_rng(4)
    rate, p = random.gamma(1.2, 1 / 10.0, 2_000_000), random.beta(a, b, 2_000_000)
    history = bgnbd.History(*np.array([[0, 2, 2, 4], [0, 15, 40, 50], [50, 60, 40, 60], [1] * 4]))
    for user, (x, recency, age, _) in enumerate(zip(*history, strict=True)):
        lives = (1 - p) ** x * rate**x * np.exp(-rate * age)
        left = p * (1 - p) ** (x - 1) * rate**x * np.exp(-rate * recency) if x else 0 * p
        total = (lives + left).sum()
        expected = {
            bgnbd.alive: lives.sum() / total,
            bgnbd.no_purchase: (left + lives * np.exp(-rate * 30)).sum() / total,
            bgnbd.expected_purchases: (lives * -np.expm1(-rate * p * 30) / p)[p > 0].sum() / total,
        }
        for function, value in expected.items():
            days = () if function is bgnbd.alive else (30.0,)
            assert function(model, history, *days)[user] == pytest.approx(value, rel=0.02)


def test_bg_nbd_learns_from_each_user_once_as_of_the_end_of_training(data):
    users, made = bgnbd.History.at_the_end_of_training(data), data.corpus.streams
    assert len(users.repeats_W) == made.users
    user_N = np.repeat(made.user_W, made.last_W - made.first_W)
    for user in range(made.users):
        time_ms = made.time_ms_N[(user_N == user) & (made.time_ms_N < data.train_until_ms)]
        days = np.unique(time_ms // DAY_MS)
        known = [column[user] for column in users[:3]]
        last_day = data.train_until_ms // DAY_MS - 1
        assert known == [len(days) - 1, days[-1] - days[0], last_day - days[0]]


def test_bg_nbd_ranks_who_leaves_and_knows_what_is_spent(data):
    found = bgnbd.predictions(data, no_news)
    assert found.chosen["churn"]["score"] in bgnbd.CHURN_SCORES
    assert ranking_loss(data.validation, found.validation.churn_W) < 0.4
    average = np.full(len(data.validation.spend_W), data.train.spend_W.mean())
    lost = absolute_error(data.validation, found.validation.spend_W)
    assert lost < 0.8 * absolute_error(data.validation, average)


def test_bg_nbd_is_left_out_where_no_fit_converges(data, monkeypatch, capsys):
    class Hopeless:
        def __init__(self, penalizer):
            pass

        def fit(self, *known):
            print("all that scipy knows")
            raise ValueError("did not converge")

    monkeypatch.setattr(bgnbd, "BetaGeoFitter", Hopeless)
    assert bgnbd.predictions(data, no_news) is None
    assert capsys.readouterr().out == ""


def test_lstm_reads_the_last_named_items(data):
    made = mixed()
    sequences = lstm.Sequences(data._replace(corpus=data.corpus._replace(streams=made)), rows=12)
    found = sequences(np.arange(len(made.user_W))).numpy()
    counts = np.bincount(made.item_N[made.time_ms_N <= data.train_until_ms], minlength=30)
    frequent = sorted(range(1, 30), key=lambda code: (-counts[code], code))[:10]
    for window in range(0, len(made.user_W), 13):
        begin = made.first_W[np.flatnonzero(made.user_W == made.user_W[window])[0]]
        codes = [int(code) for code in made.item_N[begin : made.last_W[window]] if code][-31:]
        rows = [1 + frequent.index(code) if code in frequent else 11 for code in codes]
        assert found[window].tolist() == rows + [0] * (31 - len(rows))


def test_lstm_learns_what_leaving_users_buy(data):
    found = lstm.predictions(data, no_news, epochs=3)
    assert 1 <= found.chosen["churn"]["round"] <= 3
    assert ranking_loss(data.validation, found.validation.churn_W) < 0.3


def test_the_lstm_is_repeatable(data):
    runs = [lstm.predictions(data, no_news, 0.1, windows_per_round=100) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].test.churn_W, runs[1].test.churn_W)


def test_padding_does_not_change_the_lstm():
    torch.manual_seed(0)
    network = lstm.Classifier(20)
    short, padded = torch.tensor([[3, 4, 5]]), torch.tensor([[3, 4, 5, 0, 0]])
    torch.testing.assert_close(network(short), network(padded))


@pytest.mark.parametrize("half_life", [20.0, np.inf])
@pytest.mark.parametrize("smoothing", [0.0, 1.0, 40.0])
def test_own_ranks_are_what_a_dense_ranking_finds(half_life, smoothing, monkeypatch):
    monkeypatch.setattr(user_frequency, "TARGETS_AT_ONCE", 7)
    made, classes = mixed(), 45  # of which 15 never come
    trained = np.flatnonzero(made.end_ms_W < START_MS + 50 * DAY_MS)
    count_C = user_frequency.popularity(made, made.item_N, classes, trained)
    random = np.random.default_rng(5)
    targets = random.choice(len(made.item_N), 300, replace=False)
    settings = user_frequency.Settings(half_life, smoothing)
    found = user_frequency.ranks(made, made.item_N, count_C, targets, settings)
    user_N = np.repeat(made.user_W, made.last_W - made.first_W)
    share_C = (count_C + 0.5) / (count_C + 0.5).sum()
    order = sorted(range(classes), key=lambda code: (-count_C[code], code))
    for target, rank in zip(targets, found, strict=True):
        past = np.arange(target)[user_N[:target] == user_N[target]]
        ago = (made.time_ms_N[target] - made.time_ms_N[past]) / DAY_MS
        score_C = np.bincount(made.item_N[past], 0.5 ** (ago / half_life), classes)
        score_C = np.round(score_C + smoothing * share_C, 12)
        ranked = sorted(order, key=lambda code: -score_C[code])
        assert rank == ranked.index(made.item_N[target])
    popular = user_frequency.popularity_ranks(count_C, made.item_N[targets])
    assert [order[rank] for rank in popular] == made.item_N[targets].tolist()


def test_own_settings_are_the_best_on_the_targets_given():
    made = mixed()
    count_C = user_frequency.popularity(made, made.item_N, 30, np.arange(len(made.user_W)))
    targets = np.flatnonzero(made.time_ms_N > START_MS + 80 * DAY_MS)
    settings, rank_M = user_frequency.choose(made, made.item_N, count_C, targets)
    np.testing.assert_array_equal(
        rank_M, user_frequency.ranks(made, made.item_N, count_C, targets, settings)
    )
    for half_life in user_frequency.HALF_LIVES_DAYS:
        for smoothing in user_frequency.SMOOTHING_EVENTS:
            other = user_frequency.Settings(half_life, smoothing)
            rank_other = user_frequency.ranks(made, made.item_N, count_C, targets, other)
            assert user_frequency.gains(rank_other).mean() <= user_frequency.gains(rank_M).mean()


@pytest.fixture(scope="module")
def judged():
    """Two scores of 400 predictions of 30 users, with ties, and what is true."""
    random = np.random.default_rng(6)
    truth = random.lognormal(2, 1, 400)
    one, other = (np.round(np.log(truth) + random.normal(0, s, 400), 1) for s in (0.5, 1.5))
    return one, other, truth, random.integers(100, 130, 400)


def test_intervals_are_those_of_samples_written_out(judged):
    one, other, truth, user = judged
    bootstrap = Bootstrap(user, resamples=50)
    rows = {code: np.flatnonzero(user == code) for code in np.unique(user)}
    true = truth > 8
    measures = {
        "mean": lambda score, at: score[at].mean(),
        "mae": lambda score, at: np.abs(score[at] - truth[at]).mean(),
        "auc": lambda score, at: roc_auc_score(true[at], score[at]),
        "average_precision": lambda score, at: average_precision_score(true[at], score[at]),
        "spearman": lambda score, at: spearmanr(score[at], truth[at])[0],
    }
    given = {"mean": (), "mae": (truth,), "auc": (true,), "average_precision": (true,),
             "spearman": (truth,)}  # fmt: skip
    for name, measure in measures.items():
        differences = []
        for drawn in bootstrap._drawn_RU:
            at = np.concatenate([np.tile(rows[c], n) for c, n in zip(rows, drawn, strict=True)])
            differences.append(measure(one, at) - measure(other, at))
        low, high = np.quantile(differences, [0.025, 0.975])
        everyone = measure(one, np.arange(400)) - measure(other, np.arange(400))
        found = getattr(bootstrap, name)(one, other, *given[name])
        assert found == pytest.approx((everyone, low, high), abs=1e-9), name


def test_intervals_are_repeatable_and_nothing_differs_from_itself(judged):
    one, other, truth, user = judged
    found = [Bootstrap(user).mae(one, other, truth) for _ in range(2)]
    assert found[0] == found[1] and found[0].low < found[0].difference < found[0].high
    assert Bootstrap(user, 20).auc(one, one, truth > 8) == (0, 0, 0)


def small_grids(monkeypatch):
    monkeypatch.setattr(linear, "SETTINGS", linear.SETTINGS[2:4])
    monkeypatch.setattr(boosting, "CHURN", boosting.CHURN[:1])
    monkeypatch.setattr(boosting, "SPEND", [boosting.SPEND[0], boosting.SPEND[-1]])
    monkeypatch.setattr(lstm, "predictions", partial(lstm.predictions, epochs=1))


def test_every_baseline_tells_what_it_promises(monkeypatch):
    small_grids(monkeypatch)
    corpus, parts = labelled(customers())
    news = []
    found = baselines.values(corpus, parts, lambda *one: news.append(one))
    heads = {
        "linear_regression": ["spend"],
        "logistic_regression": ["churn"],
        "xgboost": ["churn", "spend"],
        "bg_nbd": ["churn", "spend"],
        "lstm": ["churn"],
    }
    data = Data.of(corpus, parts)
    average = absolute_error(data.validation, np.full(len(data.validation.spend_W), 100.0))
    for name, told in heads.items():
        assert sorted(found[name].chosen) == told
        assert news[-1][0] == "lstm" and any(one[0] == name and one[1] == one[2] for one in news)
        for part, windows in (("validation", data.validation.windows_W), ("test", data.test_W)):
            values = getattr(found[name], part)
            np.testing.assert_array_equal(values.windows_W, windows)
            for head in ("churn", "spend"):
                value = getattr(values, f"{head}_W")
                assert (value is not None) == (head in told)
                assert value is None or (len(value) == len(windows) and np.isfinite(value).all())
    for name in ("linear_regression", "xgboost", "bg_nbd"):
        assert absolute_error(data.validation, found[name].validation.spend_W) < average
        assert found[name].test.spend_W.min() >= 0
    assert "rounds" in found["xgboost"].chosen["spend"]


def test_nothing_is_chosen_by_what_validation_cannot_know(monkeypatch):
    small_grids(monkeypatch)
    corpus, parts = labelled(customers())
    found = baselines.values(corpus, parts)
    random = np.random.default_rng(7)
    late_N = corpus.streams.time_ms_N >= parts.validation_until_ms
    changed = corpus.streams._replace(
        item_N=np.where(late_N, random.permutation(corpus.streams.item_N), corpus.streams.item_N),
        amount_N=np.where(late_N, 1e6, corpus.streams.amount_N),
    )
    other = baselines.values(build(changed, Vocabulary([], 1), Vocabulary([], 1), 30), parts)
    for name, one in found.items():
        assert one.chosen == other[name].chosen
        for value, again in zip(one.validation, other[name].validation, strict=True):
            if value is not None:
                np.testing.assert_allclose(value, again, rtol=1e-6, atol=1e-6)


def test_one_kind_of_window_is_nothing_to_learn_from():
    corpus, parts = labelled(customers())
    kept = corpus._replace(purchases_W=np.maximum(corpus.purchases_W, 1))
    assert baselines.values(kept, parts) == {}
    assert baselines.values(corpus, parts._replace(test_until_ms=parts.validation_until_ms)) == {}
    made = mixed()
    looking = made._replace(type_N=np.full_like(made.type_N, VIEW))
    assert baselines.values(*labelled(looking)) == {}
