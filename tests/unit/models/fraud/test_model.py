"""The fraud model: files, scores, calibration, reasons."""

import json
import shutil
from typing import NamedTuple

import numpy as np
import pytest

from liveprofile.errors import InputError
from liveprofile.features.entity import EVENT_FEATURES, SCORED_TYPES, EventLists, parse_lists
from liveprofile.wire.scored_events import read_rows
from models.fraud.datasets.event_dataset import downsample_legitimate
from models.fraud.model import CARD_FILE, TREES_FILE, FraudModel, probability
from models.fraud.reasons import EARLIER_EVENT, explain, feature_groups, shapley_values
from models.fraud.training.fit import fit_calibration
from tests.reference.entity_features import Event
from tests.reference.scoring import event_parts, first_occurrences
from tests.support.one_feature_model import one_feature_model
from tests.support.paths import ROOT
from tests.support.scoring_harness import random_arrivals, user_of

pytestmark = pytest.mark.slow

SHIPPED = ROOT / "models/checkpoints/event-risk"
ARRIVALS = random_arrivals(5, 600)


class ScoredEvents(NamedTuple):
    model: FraudModel  # the shipped one
    rows: list[int]  # of ARRIVALS
    lists: EventLists  # of these rows
    features: np.ndarray
    x: np.ndarray  # those that the model reads


def lists_of(arrivals, rows):
    texts = [event_parts(arrivals, row) for row in rows]
    return parse_lists(read_rows([user_of(arrivals, row) for row in rows], texts))


@pytest.fixture(scope="module")
def shop():
    rows = [row for row in first_occurrences(ARRIVALS) if row > 200]
    model, lists = FraudModel.load(SHIPPED), lists_of(ARRIVALS, rows)
    features = model.features(lists)
    return ScoredEvents(model, rows, lists, features, model.matrix(features))


def test_saved_model_gives_the_same_scores_and_files(shop, tmp_path):
    shop.model.save(tmp_path)
    loaded = FraudModel.load(tmp_path)
    assert loaded.version == shop.model.version
    assert np.array_equal(loaded.score(shop.x), shop.model.score(shop.x))
    loaded.save(tmp_path / "again")
    for name in (CARD_FILE, TREES_FILE):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_score_does_not_depend_on_the_batch(shop):
    scores = shop.model.score(shop.x)
    assert scores.max() > 0.9
    for row in (0, 17, len(scores) - 1):
        assert shop.model.score(shop.x[row : row + 1])[0] == scores[row]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "format 9, this version reads 2"),
        ({"names": ["moon_phase"]}, "unknown feature moon_phase"),
        ({"names": ["amount"]}, "its drift reference has"),
    ],
)
def test_card_that_does_not_fit_is_rejected(tmp_path, change, message):
    folder = shutil.copytree(SHIPPED, tmp_path / "model")
    card = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps({**card, **change}))
    with pytest.raises(InputError, match=message):
        FraudModel.load(folder)


def test_missing_or_broken_model_file_is_rejected(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        FraudModel.load(tmp_path)
    folder = shutil.copytree(SHIPPED, tmp_path / "model")
    (folder / TREES_FILE).write_bytes(b"no model")
    with pytest.raises(InputError, match="fraud model"):
        FraudModel.load(folder)


def test_downsampling_keeps_all_frauds_and_weights_the_other_rows():
    fraud = np.arange(1_000) % 50 == 0
    rows, weight = downsample_legitimate(fraud, legitimate=98)
    assert fraud[rows].sum() == fraud.sum()
    assert (~fraud[rows]).sum() * weight == (~fraud).sum()
    assert downsample_legitimate(fraud)[1] == 1.0


def test_calibrated_score_equals_the_share_of_frauds():
    random = np.random.default_rng(3)
    true_log_odds = np.sort(random.normal(-2, 2, 60_000))
    fraud = random.random(60_000) < probability(true_log_odds)
    overconfident = true_log_odds * 3 + 5
    slope, intercept = fit_calibration(overconfident, fraud)
    score = probability(slope * overconfident + intercept)
    for part in np.array_split(np.arange(60_000), 10):
        noise = 4 * np.sqrt(score[part].mean() / len(part))
        assert fraud[part].mean() == pytest.approx(score[part].mean(), abs=noise)


def test_each_feature_is_in_one_group_except_event_types():
    names = tuple(EVENT_FEATURES)
    groups = feature_groups(names)
    grouped = [names[index] for group in groups for index in group.features]
    assert len(grouped) == len(set(grouped))
    assert {name for name in names if not name.startswith("is_")} == set(grouped)
    assert len({group.code for group in groups}) == len(groups)


def test_first_reason_is_the_only_feature_that_the_model_uses(shop):
    model = one_feature_model("user_purchases_7d", 3)
    x = model.matrix(shop.features)
    flagged = np.flatnonzero(model.score(x) > 0.5)[:5]
    assert len(flagged)
    for row, reasons in zip(flagged, explain(model, shop.lists, x, flagged), strict=True):
        count = x[row, model.names.index("user_purchases_7d")]
        first = reasons[0]
        assert (first.code, first.value, first.usual) == ("BURST", count, 0.0)
        words = f"purchases in the last 7 days: {count:.0f}, usually 0"
        assert first.sentence == f"pace of this user: {words}"
        assert {reason.code for reason in reasons[1:]} <= {EARLIER_EVENT}
        values = shapley_values(model, x[row : row + 1])[0]
        assert np.flatnonzero(values).tolist() == [model.names.index("user_purchases_7d")]
        assert first.weight == pytest.approx(float(values.sum()))


def test_reason_names_the_type_of_an_earlier_event(shop):
    model = one_feature_model("user_type_2_before", -1)  # types are numbers from 0
    x = model.matrix(shop.features)
    type_2 = x[:, model.names.index("user_type_2_before")]
    flagged = np.flatnonzero(~np.isnan(type_2))[:3]
    for place, reasons in zip(flagged, explain(model, shop.lists, x, flagged), strict=True):
        name = SCORED_TYPES[int(type_2[place])]
        words = f"order of this user's last events: type of the event 2 before: {name}"
        assert (reasons[0].code, reasons[0].sentence) == ("ORDER", words)


def test_drop_of_an_earlier_event_equals_a_history_without_it(shop):
    model, x = shop.model, shop.x
    for place in np.argsort(-model.log_odds(x)):
        reasons = explain(model, shop.lists, x, np.array([place]))[0]
        earlier = [reason for reason in reasons if reason.code == EARLIER_EVENT and reason.value]
        if earlier:
            break
    reason, row = earlier[0], shop.rows[place]
    own = ARRIVALS[row]
    drops = []
    for removed in {one for one in ARRIVALS[:row] if isinstance(one, Event)} - {own}:
        if (removed.user, removed.amount) == (own.user, reason.value):
            # Also without its labels and its duplicates.
            kept = [one for one in ARRIVALS[: row + 1] if removed not in (one, one[0])]
            alone = model.matrix(model.features(lists_of(kept, [len(kept) - 1])))
            drops.append(float((model.log_odds(x[place : place + 1]) - model.log_odds(alone))[0]))
    assert reason.weight == pytest.approx(min(drops, key=lambda each: abs(each - reason.weight)))
    assert f"of {reason.value:,.2f}" in reason.sentence


def test_unknown_feature_is_no_reason():
    model = one_feature_model("coupon_users_1d", 3)
    x = np.zeros(len(model.names), np.float32)
    index = model.names.index("coupon_users_1d")
    x[index] = np.nan
    assert shapley_values(model, x[None])[0, index] == 0
    x[index] = 9.0
    assert shapley_values(model, x[None])[0, index] > 0
