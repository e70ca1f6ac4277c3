"""A fraud model that uses a single feature."""

import numpy as np
import xgboost as xgb

from liveprofile.features.entity import EVENT_FEATURES
from models.fraud.model import Calibration, FraudModel


def one_feature_model(name: str, threshold: float) -> FraudModel:
    """Values above the threshold are frauds. All usual values are 0."""
    names = list(EVENT_FEATURES)
    random = np.random.default_rng(8)
    x_NF = np.zeros((400, len(names)), np.float32)
    x_NF[:, names.index(name)] = random.random(400) * 2 * threshold
    fraud_N = x_NF[:, names.index(name)] > threshold
    booster = xgb.train(
        {"objective": "binary:logistic", "nthread": 1, "max_depth": 2},
        xgb.DMatrix(x_NF, fraud_N, feature_names=names),
        20,
    )
    usual = {"any": [0.0] * len(names)}
    return FraudModel("one", names, 3, booster, Calibration(1.0, 0.0), usual, {})
