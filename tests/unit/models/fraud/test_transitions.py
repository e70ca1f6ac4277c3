"""The Markov model of the last events against plain Python (tests/reference/transitions.py)."""

from dataclasses import replace

import numpy as np
import pytest
import xgboost as xgb

from liveprofile.errors import InputError
from liveprofile.features.entity import EVENT_FEATURES, SCORED_TYPES
from models.fraud.model import TRANSITIONS_FILE, Calibration, FraudModel
from models.fraud.reasons import shapley_values
from models.fraud.transitions import COLUMNS, STATES, TransitionModel, append_out_of_fold
from tests.reference import transitions as reference

NAMES = [name for name in EVENT_FEATURES if name.split("_")[0] in ("user", "is")]


def make_pasts(count, seed):
    """1 to 12 events of random types, some in the same millisecond."""
    random = np.random.default_rng(seed)
    pasts = []
    for _ in range(count):
        gaps = np.round(np.exp(random.uniform(-1, 10, random.integers(1, 13))), 3)
        gaps[random.random(len(gaps)) < 0.1] = 0
        names = random.choice(SCORED_TYPES, len(gaps))
        pasts.append(list(zip(names.tolist(), np.cumsum(gaps).tolist(), strict=True)))
    return pasts


def features(pasts):
    """(n, F) the columns of NAMES that the model reads; the others are 0."""
    x_nF = np.zeros((len(pasts), len(NAMES)), np.float32)
    for row, past in enumerate(pasts):
        values = {f"is_{past[-1][0]}": 1.0}
        for back in range(1, 9):
            known = back < len(past)
            gap = past[-back][1] - past[-back - 1][1] if known else np.nan
            values["user_seconds_since_event" if back == 1 else f"user_gap_{back}_before"] = gap
            number = SCORED_TYPES.index(past[-1 - back][0]) if known else np.nan
            values[f"user_type_{back}_before"] = number
        for name, value in values.items():
            x_nF[row, NAMES.index(name)] = value
    return x_nF


PASTS = make_pasts(400, 0)
FRAUDS = np.random.default_rng(1).random(len(PASTS)) < 0.2


def test_columns_equal_the_reference():
    model = TransitionModel.fit(features(PASTS), NAMES, FRAUDS)
    ratios = reference.log_ratios(PASTS, FRAUDS.tolist())
    assert model.ratio_SS.shape == (STATES, STATES) == (len(reference.STATES),) * 2
    unseen = make_pasts(100, 2)
    x_nF = features(unseen)
    found = model.append(x_nF, NAMES)
    np.testing.assert_array_equal(found[:, : len(NAMES)], x_nF)
    assert found.dtype == np.float32
    expected = [reference.columns(past, ratios) for past in unseen]
    np.testing.assert_allclose(found[:, len(NAMES) :], expected, rtol=1e-4, atol=1e-5)


def test_columns_of_a_training_event_do_not_depend_on_the_labels_of_its_user():
    user_n = np.arange(len(PASTS)) % 50 + (1 << 32)
    x_nF = features(PASTS)
    before = append_out_of_fold(x_nF, NAMES, FRAUDS, user_n)
    of_user = user_n == user_n[7]
    after = append_out_of_fold(x_nF, NAMES, np.where(of_user, ~FRAUDS, FRAUDS), user_n)
    np.testing.assert_array_equal(before[of_user], after[of_user])
    assert (before != after).any()


def fitted():
    """Trees on the columns of a Markov model alone."""
    transitions = TransitionModel.fit(features(PASTS), NAMES, FRAUDS)
    inputs = transitions.append(features(PASTS), NAMES)
    inputs[:, : len(NAMES)] = np.nan_to_num(inputs[:, : len(NAMES)]) * 0
    booster = xgb.train(
        {"objective": "binary:logistic", "nthread": 1, "max_depth": 3},
        xgb.DMatrix(inputs, FRAUDS, feature_names=[*NAMES, *COLUMNS]),
        20,
    )
    usual = {"any": [0.0] * len(NAMES)}
    calibration = Calibration(1.2, 0.1)
    return FraudModel("order", NAMES, 3, booster, calibration, usual, {}, transitions=transitions)


def test_saved_model_scores_as_before_and_its_version_names_the_transitions(tmp_path):
    model, x_nF = fitted(), features(make_pasts(50, 3))
    model.save(tmp_path)
    loaded = FraudModel.load(tmp_path)
    np.testing.assert_array_equal(loaded.log_odds(x_nF), model.log_odds(x_nF))
    assert len(set(model.log_odds(x_nF).tolist())) > 5
    assert loaded.version == model.version
    other = TransitionModel(model.transitions.ratio_SS + np.float32(1))
    assert replace(model, transitions=other).version != model.version


@pytest.mark.parametrize("content", [None, b"", b"\0" * 4 * STATES**2])
def test_missing_or_wrong_transitions_are_rejected(tmp_path, content):
    fitted().save(tmp_path)
    (tmp_path / TRANSITIONS_FILE).unlink()
    if content is not None:
        (tmp_path / TRANSITIONS_FILE).write_bytes(content)
    with pytest.raises(InputError, match=TRANSITIONS_FILE):
        FraudModel.load(tmp_path)


def test_shapley_values_of_transitions_belong_to_the_types_of_earlier_events():
    """The values of an event and the bias add up to its log-odds."""
    model, x_nF = fitted(), features([past for past in make_pasts(60, 4) if len(past) > 8])
    values_nF = shapley_values(model, x_nF)
    types = [NAMES.index(f"user_type_{back}_before") for back in range(1, 8)]
    others = np.delete(values_nF, types, axis=1)
    assert not others.any() and values_nF.any()
    constant = model.log_odds(x_nF) - values_nF.sum(axis=1)
    np.testing.assert_allclose(constant, constant[0], atol=1e-4)
