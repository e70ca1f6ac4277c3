"""Linear and logistic regression against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

from models.profile.evaluation.baseline_models import linear


@pytest.fixture(scope="module")
def regressors():
    """Correlated columns of different scales, one of them constant, and a target."""
    random = np.random.default_rng(3)
    x_NF = random.normal(size=(600, 5)) @ random.normal(size=(5, 5)) * [1, 10, 0.1, 5, 1] + 3
    x_NF[:, 4] = 7.0
    return x_NF, x_NF[:, 0] - 0.3 * x_NF[:, 1] + random.normal(size=600)


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_linear_regression_equals_scikit_learn(regressors, l2):
    x_NF, y_N = regressors
    model = linear.linear_regression(x_NF, 1_000 + 50 * y_N, l2)
    std_F = np.where(x_NF.std(0) > 0, x_NF.std(0), 1)
    expected = (Ridge(alpha=600 * l2) if l2 else LinearRegression()).fit(
        x_NF / std_F, 1_000 + 50 * y_N
    )
    np.testing.assert_allclose(model.weight_F * std_F, expected.coef_, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(model(x_NF), expected.predict(x_NF / std_F), rtol=1e-3)
    assert model.weight_F[4] == 0


@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_logistic_regression_equals_scikit_learn(regressors, l2):
    x_NF, y_N = regressors
    true_N = y_N > np.median(y_N) + 0.5
    model = linear.logistic_regression(x_NF, true_N, l2)
    std_F = np.where(x_NF.std(0) > 0, x_NF.std(0), 1)
    centred_NF = (x_NF - x_NF.mean(0)) / std_F
    strength = 1 / (600 * l2) if l2 else np.inf
    expected = LogisticRegression(C=strength, tol=1e-8, max_iter=1_000).fit(centred_NF, true_N)
    np.testing.assert_allclose(model.weight_F * std_F, expected.coef_[0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(model(x_NF), expected.decision_function(centred_NF), atol=1e-2)


def test_regression_without_convergence_raises(regressors, monkeypatch):
    monkeypatch.setattr(linear, "MAX_STEPS", 3)
    with pytest.raises(ArithmeticError, match="larger l2"):
        linear.linear_regression(*regressors)
