"""What the profile's model is measured against: simple and established methods, tuned as it is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from liveprofile.progress import Progress
from models.profile.data.examples import Corpus
from models.profile.evaluation.baselines import bgnbd, boosting, linear, lstm
from models.profile.evaluation.baselines.data import Data, Predictions

if TYPE_CHECKING:
    from models.profile.data.prepared import Split


def values(
    corpus: Corpus, parts: Split, on_progress: Progress = lambda stage, done, total: None
) -> dict[str, Predictions]:
    """Churn and spend by each baseline, of the value validation's windows and the test's.

    Empty if training or validation know windows of one kind only, all churned or none, or if no
    label of the test is known; without "bg_nbd" if its fits don't converge.
    """
    data = Data.of(corpus, parts)
    if not (data.train.both_kinds and data.validation.both_kinds and len(data.test_W)):
        return {}
    found = {
        name: predictions(data, partial(on_progress, name))
        for name, predictions in {
            "linear_regression": linear.linear_predictions,
            "logistic_regression": linear.logistic_predictions,
            "xgboost": boosting.predictions,
            "bg_nbd": bgnbd.predictions,
            "lstm": lstm.predictions,
        }.items()
    }
    return {name: one for name, one in found.items() if one is not None}
