"""Bootstrap intervals over users, against resamples that are written out."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from models.profile.evaluation.intervals import UserBootstrap


@pytest.fixture(scope="module")
def predictions():
    """Scores of two models for 400 predictions of 30 users, with ties, the truth and the users."""
    random = np.random.default_rng(6)
    truth = random.lognormal(2, 1, 400)
    first, second = (np.round(np.log(truth) + random.normal(0, s, 400), 1) for s in (0.5, 1.5))
    return first, second, truth, random.integers(100, 130, 400)


def test_intervals_equal_those_of_written_out_resamples(predictions):
    first, second, truth, user = predictions
    bootstrap = UserBootstrap(user, resamples=50)
    rows = {code: np.flatnonzero(user == code) for code in np.unique(user)}
    true = truth > 8
    metrics = {
        "mean": lambda score, index: score[index].mean(),
        "mae": lambda score, index: np.abs(score[index] - truth[index]).mean(),
        "auc": lambda score, index: roc_auc_score(true[index], score[index]),
        "average_precision": lambda score, index: average_precision_score(
            true[index], score[index]
        ),
        "spearman": lambda score, index: spearmanr(score[index], truth[index])[0],
    }
    truths = {
        "mean": (),
        "mae": (truth,),
        "auc": (true,),
        "average_precision": (true,),
        "spearman": (truth,),
    }
    for name, metric in metrics.items():
        differences = []
        for counts in bootstrap._counts_RU:
            index = np.concatenate([np.tile(rows[c], n) for c, n in zip(rows, counts, strict=True)])
            differences.append(metric(first, index) - metric(second, index))
        low, high = np.quantile(differences, [0.025, 0.975])
        difference = metric(first, np.arange(400)) - metric(second, np.arange(400))
        interval = getattr(bootstrap, name)(first, second, *truths[name])
        assert interval == pytest.approx((difference, low, high), abs=1e-9), name
