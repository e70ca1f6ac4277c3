"""The model of single events, its thresholds and its reasons."""

import json
import math
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import xgboost as xgb

from liveprofile.errors import InputError
from liveprofile.features.entity import NAMES, SCORED_TYPES
from liveprofile.features.entity.lists import ENTITIES
from liveprofile.resources import product_path
from liveprofile.simulator import Config, Shop
from liveprofile.units import DAY_MS
from models.fraud.card_transactions.data import Period
from models.fraud.datasets.entity_history import History
from models.fraud.datasets.part import sampled
from models.fraud.datasets.simulated_rows import Generated, generated, partly_hidden
from models.fraud.explain.reason_groups import groups
from models.fraud.explain.reasons import EARLIER_EVENT, Reason, drops, explain, faithfulness
from models.fraud.model import BOOSTER, CARD, Calibration, EventModel, probability
from models.fraud.thresholds import NEVER, by_budget, by_cost
from models.fraud.training import train_handbook
from models.fraud.training.fit import calibrated, reliability
from models.fraud.training.train_simulated import Recipe, train_generated
from tests.unit.models.fraud.test_card_transactions import DELAY, transactions

DATA = transactions(4_000)
PERIOD = Period.of(date(2018, 4, 25), date(2018, 5, 2), DELAY, date(2018, 5, 6), date(2018, 5, 20))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[EventModel, dict, Path]:
    folder = tmp_path_factory.mktemp("model")
    report = train_handbook.train(DATA, PERIOD, folder)
    return EventModel.load(folder), report, folder


@pytest.fixture(scope="module")
def tested(trained) -> tuple[np.ndarray, dict, object]:
    """Rows of the test period, what the model asks of them and their lists."""
    wanted = np.flatnonzero(DATA.day_N >= PERIOD.test_start)
    rows = train_handbook.history(DATA, DELAY).rows(wanted)
    return wanted, trained[0].columns(rows), rows


def test_it_finds_what_was_planted(trained, tested) -> None:
    _, report, _ = trained
    wanted, _, _ = tested
    assert report["test"]["average_precision"] > 3 * DATA.fraud_N[wanted].mean()
    assert {"settings", "validation", "test", "reliability", "version"} <= set(report)


def test_a_saved_model_scores_the_same(trained, tested, tmp_path: Path) -> None:
    model, report, folder = trained
    assert model.version == report["version"]
    model.save(tmp_path)
    again = EventModel.load(tmp_path)
    assert again.version == model.version
    assert np.array_equal(again.score(tested[1]), model.score(tested[1]))
    for name in (CARD, BOOSTER):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_score_does_not_depend_on_its_batch(trained, tested) -> None:
    model, _, _ = trained
    together = model.score(tested[1])
    for row in (0, 17, len(together) - 1):
        alone = {name: values[row : row + 1] for name, values in tested[1].items()}
        assert model.score(alone)[0] == together[row]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "format 9, this version reads 1 and 2"),
        ({"names": ["moon_phase"]}, "feature moon_phase"),
    ],
)
def test_a_card_that_does_not_fit(trained, tmp_path: Path, change: dict, message: str) -> None:
    trained[0].save(tmp_path)
    card = json.loads((tmp_path / CARD).read_text())
    (tmp_path / CARD).write_text(json.dumps({**card, **change}))
    with pytest.raises(InputError, match=message):
        EventModel.load(tmp_path)


def test_a_model_of_the_format_before_is_read(tested, tmp_path: Path) -> None:
    model = by_one("user_purchases_7d", 3)
    model.save(tmp_path)
    card = json.loads((tmp_path / CARD).read_text())
    (tmp_path / CARD).write_text(json.dumps({**card, "format": 1}))
    assert np.array_equal(EventModel.load(tmp_path).score(tested[1]), model.score(tested[1]))


def test_a_model_that_is_not_there(trained, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        EventModel.load(tmp_path)
    trained[0].save(tmp_path)
    (tmp_path / BOOSTER).write_bytes(b"no model")
    with pytest.raises(InputError, match="event model"):
        EventModel.load(tmp_path)


def test_a_calibrated_score_is_the_share_of_frauds() -> None:
    random = np.random.default_rng(3)
    true = random.normal(-2, 2, 60_000)
    fraud = random.random(60_000) < probability(true)
    calibration = calibrated(true * 3 + 5, fraud)  # sure of itself, and shifted
    score = probability(calibration.slope * (true * 3 + 5) + calibration.intercept)
    for step in reliability(score, fraud):
        noise = 4 * np.sqrt(step["mean_score"] / step["events"])
        assert step["frauds"] == pytest.approx(step["mean_score"], abs=noise + 1e-4)
    assert sum(step["events"] for step in reliability(score, fraud)) == 60_000


def test_all_frauds_are_sampled_and_weights_make_up_for_the_rest() -> None:
    fraud = np.arange(1_000) % 50 == 0
    rows, weight = sampled(fraud, legitimate=98)
    assert fraud[rows].sum() == fraud.sum()
    assert (~fraud[rows]).sum() * weight == (~fraud).sum()
    assert sampled(fraud)[1] == 1.0


def test_the_threshold_by_cost_is_the_cheapest_of_all() -> None:
    random = np.random.default_rng(5)
    for _ in range(20):
        score = np.floor(random.random(60) * 10) / 10  # with ties
        fraud, amount = random.random(60) < score / 2, random.lognormal(3, 1, 60)
        false_alarm, share = float(random.choice([0, 5, 40])), float(random.choice([0.2, 1]))

        def cost(threshold: float, score=score, fraud=fraud, amount=amount) -> float:
            alert = score >= threshold
            missed = amount[fraud & ~alert].sum() * share  # noqa: B023
            return (alert & ~fraud).sum() * false_alarm + missed  # noqa: B023

        found = by_cost(score, fraud, amount, false_alarm, share)
        assert found.cost == pytest.approx(cost(found.score))
        assert found.cost == pytest.approx(min(map(cost, [*score, NEVER + 1])))
        assert found.alerts == (score >= found.score).sum()
        assert found.found == (fraud & (score >= found.score)).sum()


def test_no_alert_where_each_costs_more_than_it_saves() -> None:
    score, fraud = np.array([0.9, 0.2]), np.array([True, False])
    assert by_cost(score, fraud, np.array([1.0, 1.0]), 0.5).score == 0.9
    assert by_cost(score, ~fraud, np.array([1.0, 1.0]), 5.0).score == NEVER


def test_the_threshold_by_budget_flags_as_many_users_as_it_may() -> None:
    random = np.random.default_rng(6)
    score = np.floor(random.random(500) * 100) / 100
    day, user = random.integers(0, 10, 500), random.integers(0, 40, 500)

    def flagged(threshold: float) -> int:
        alert = score >= threshold
        return len({(d, u) for d, u in zip(day[alert], user[alert], strict=True)})

    for budget in (0.1, 1, 4, 1_000):
        found = by_budget(score, day, user, 10, budget)
        assert flagged(found) <= 10 * budget
        lower = score[score < found]
        assert not len(lower) or flagged(lower.max()) > 10 * budget


def test_thresholds_of_nothing() -> None:
    none = np.empty(0)
    with pytest.raises(InputError, match="no scores"):
        by_cost(none, none.astype(bool), none, 1)
    with pytest.raises(InputError, match="must be above 0"):
        by_budget(np.ones(1), np.ones(1), np.ones(1), 1, 0)
    with pytest.raises(InputError, match="must not be negative"):
        by_cost(np.ones(1), np.ones(1, bool), np.ones(1), -1)


def test_each_feature_of_the_user_and_of_shared_things_belongs_to_one_reason() -> None:
    names = tuple(NAMES)
    grouped = [names[place] for group in groups(names) for place in group.features]
    assert len(grouped) == len(set(grouped))
    assert {name for name in names if not name.startswith("is_")} == set(grouped)
    assert len({group.code for group in groups(names)}) == len(groups(names))


def by_one(name: str, over: float) -> EventModel:
    """A model that looks at one feature only."""
    names = list(NAMES)
    random = np.random.default_rng(8)
    x = np.zeros((400, len(names)), np.float32)
    x[:, names.index(name)] = random.random(400) * 2 * over
    fraud = x[:, names.index(name)] > over
    booster = xgb.train(
        {"objective": "binary:logistic", "nthread": 1, "max_depth": 2},
        xgb.DMatrix(x, fraud, feature_names=names),
        20,
    )
    usual = {"any": [0.0] * len(names)}
    return EventModel("one", names, DELAY, booster, Calibration(1.0, 0.0), usual, {})


def test_the_reason_is_what_the_model_looks_at(tested) -> None:
    model = by_one("user_purchases_7d", 3)
    _, features, rows = tested
    x = model.matrix(features)
    flagged = np.flatnonzero(model.score(features) > 0.5)[:5]
    assert len(flagged)
    for row, reasons in zip(flagged, explain(model, rows, x, flagged), strict=True):
        count = features["user_purchases_7d"][row]
        first = reasons[0]
        assert (first.code, first.value, first.usual) == ("BURST", count, 0.0)
        words = f"purchases in the last 7 days: {count:.0f}, usually 0"
        assert first.sentence == f"pace of this user: {words}"
        assert {reason.code for reason in reasons[1:]} <= {EARLIER_EVENT}
        as_usual = x[row : row + 1].copy()
        as_usual[0, model.names.index("user_purchases_7d")] = 0
        fall = model.log_odds(x[row : row + 1]) - model.log_odds(as_usual)
        assert first.drop == pytest.approx(float(fall[0]))


def test_an_earlier_event_is_a_reason_by_the_score_without_it(trained) -> None:
    """Against features of a history that never had the event."""
    model, _, _ = trained
    lists = train_handbook.history(DATA, DELAY)
    wanted = np.flatnonzero(DATA.day_N >= PERIOD.test_start)
    rows = lists.rows(wanted)
    x = model.matrix(model.columns(rows))
    found = None
    for row in np.argsort(-model.log_odds(x))[:60]:
        reasons = explain(model, rows, x, np.array([row]))[0]
        found = next((one for one in reasons if one.code == EARLIER_EVENT), None)
        if found:
            break
    assert found is not None
    own = wanted[row]
    before = np.flatnonzero(DATA.card_N[:own] == DATA.card_N[own])
    dropped = [event for event in before if DATA.amount_N[event] == found.value][-1]
    kept = np.delete(np.arange(len(DATA.time_ms_N)), dropped)
    without = type(DATA)(*(column_N[kept] for column_N in DATA))
    features = model.columns(train_handbook.history(without, DELAY).rows(np.array([own - 1])))
    fall = model.log_odds(x[row : row + 1]) - model.log_odds(model.matrix(features))
    assert found.drop == pytest.approx(float(fall[0]), abs=1e-5)
    assert f"of {found.value:,.2f}" in found.sentence


def test_what_is_missing_is_no_reason() -> None:
    model = by_one("coupon_users_1d", 3)
    x = np.zeros(len(model.names), np.float32)
    place = model.names.index("coupon_users_1d")
    x[place] = np.nan
    for usual in np.full((2, len(model.names)), [[0.0], [6.0]]):
        assert drops(model, x, [[place]], usual)[0] == 0
    x[place] = 0.0
    assert drops(model, x, [[place]], usual)[0] != 0


def test_top_reasons_matter_more_than_others(trained, tested) -> None:
    model, _, _ = trained
    x = model.matrix(tested[1])
    flagged = x[np.argsort(-model.log_odds(x))[:30]]
    found = faithfulness(model, flagged, ["purchase"] * len(flagged))
    assert found["events"] == 30
    assert found["top"] > 3 * abs(found["random"])


def test_a_reason_as_a_flag_stores_it() -> None:
    stored = Reason("AMOUNT", 3.0, None, "much", 1.5).as_dict()
    assert stored == {"code": "AMOUNT", "value": 3.0, "usual": None, "sentence": "much"}


SMALL = Recipe(
    users=300, days=16, warm_up_days=6, young_days=6, train_seeds=(1,), young_train_seeds=(2,),
    validation_seeds=(3,), test_seeds=(4,), young_test_seeds=(5,), takeovers=15, card_tests=10,
    rings=2, honest_changes=20, campaigns=1, legitimate_rows=2_000, budgets=(30.0,),
    settings=((3, 30, 0.3),), sequence_epochs=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> EventModel:
    folder = tmp_path_factory.mktemp("made")
    train_generated(SMALL, folder)
    return EventModel.load(folder)


def test_a_model_of_generated_shops_finds_frauds_in_others(made: EventModel) -> None:
    test = made.about["test"]
    assert test["frauds"] > 0
    assert test["average_precision"] > 0.5
    assert set(made.about["thresholds"]) == set(test["at"]) == {"budget_30", "cost"}
    kinds = test["at"]["cost"]["kinds"]
    assert kinds["coupon_ring"]["alerted"] == 1.0
    assert {kind for kind, found in kinds.items() if found["cases"]} == set(kinds)
    assert made.about["validation"]["at"]["budget_30"]["alerts_per_10000"] <= 30
    assert made.about["recipe"]["train_seeds"] == [1]
    found = made.about["chosen_by"]
    assert set(found) == {"trees", "sequence", "both", "gain_95"}
    assert (made.sequence is not None) == (found["gain_95"][0] > 0)


def test_training_is_repeatable(made: EventModel) -> None:
    assert train_generated(SMALL).version == made.version


def test_a_generated_shops_columns(made: EventModel) -> None:
    """Scored types only, labels joined to their events, cells and ids as numbers."""
    config = SMALL.training_config(1, SMALL.days)
    shop = generated(config)
    days = list(Shop(config))
    events = [one for day in days for one in day.records() if one["event_type"] in SCORED_TYPES]
    labels = {one["event_id"]: one for day in days for one in day.labels.to_pylist()}
    assert len(events) == len(shop.time_ms_N)
    seen = shop.history.events
    for name, column in (("device", "device_id"), ("coupon", "coupon_id")):
        ids = [one.get(column, "") for one in events]
        pairs = set(zip(ids, seen.entities[name].tolist(), strict=True))
        assert len(pairs) == len(set(ids))
        assert ("" in ids) == (("", 0) in pairs)
    cells = [
        (math.floor(one["place"]["lat"] * 100), math.floor(one["place"]["lon"] * 100))
        for one in events
    ]
    assert len(set(zip(cells, seen.entities["place"].tolist(), strict=True))) == len(set(cells))
    for row in range(0, len(events), 11):
        label = labels.get(events[row]["event_id"])
        assert shop.fraud_N[row] == (label is not None and label["label"] == "fraud")
        assert shop.kind_N[row] == ("" if label is None else label["kind"])
        worth = events[row].get("price", 0.0) * events[row].get("quantity", 1)
        assert seen.amount[row] == events[row].get("amount", worth)


def test_the_shipped_model_is_ready() -> None:
    folder = product_path(Path("models/checkpoints/event-risk"))
    model = EventModel.load(folder)
    assert set(model.about["thresholds"]) == set(model.about["test"]["at"])
    quiet = {name: np.zeros(1) for name in model.names}
    assert 0 < model.score(quiet)[0] < 1
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size < 2_000_000


@pytest.fixture(scope="module")
def honest() -> Generated:
    """A shop after its first week, which hasn't a fraud in it."""
    none = {"takeovers": 0, "card_tests": 0, "rings": 0}
    return generated(Config(200, 14, seed=77, campaigns=1, **none))


@pytest.mark.parametrize(
    "missing",
    [(), ("device",), ("place",), ("device", "place"), ENTITIES],
    ids=lambda missing: " and ".join(missing) or "nothing",
)
def test_what_an_honest_shop_does_not_tell_is_no_fraud(
    honest: Generated, missing: tuple[str, ...]
) -> None:
    events = honest.history.events
    hidden = {name: np.zeros_like(events.entities[name]) for name in missing}
    history = History(events._replace(entities=events.entities | hidden), honest.history.labels)
    rows = np.flatnonzero(honest.time_ms_N > honest.time_ms_N[0] + 7 * DAY_MS)
    model = EventModel.load(product_path(Path("models/checkpoints/event-risk")))
    score_N = probability(model.log_odds(history.features(rows, model.names, model.delay_days)))
    assert len(rows) > 1_000
    assert (score_N >= 0.9).mean() < 0.002


def test_hidden_shops_lack_each_kind_of_entity_for_half_of_the_users(honest: Generated) -> None:
    hidden = partly_hidden(honest, seed=1)
    users = np.unique(honest.user_N)
    told = []
    for name, codes_N in hidden.history.events.entities.items():
        before_N = honest.history.events.entities[name]
        assert ((codes_N == before_N) | (codes_N == 0)).all()
        lacking = {u for u in users if not codes_N[honest.user_N == u].any()}
        having = {u for u in users if (codes_N == before_N)[honest.user_N == u].all()}
        assert lacking | having == set(users)
        told.append(len(lacking - having) / len(users))
    # Not all have a coupon or an address to hide.
    assert 0.35 < max(told) < 0.65
