"""The Flink UDF of the scoring pipeline: `score_event`, a vectorized (pandas) function."""

import logging
import sys
from contextlib import ExitStack, closing
from typing import Any

import pandas as pd

from liveprofile.flink.operator_metrics import EVENT_TO_ALERT, EVENT_TO_SCORE
from liveprofile.resources import product_path
from liveprofile.settings import Settings
from udfs.pipeline_udf import PipelineUdf, pipeline_function
from udfs.scoring.store import open_scoring_store
from udfs.worker import BatchMetrics, WorkerParts

log = logging.getLogger(__name__)


class ScoringUdf(PipelineUdf):
    """Maps the columns of `jobs.sql.scoring_views.scoring_input` to each row's output records."""

    def _open(self, opening: ExitStack, metric_group: Any) -> None:
        # XGBoost would import scikit-learn for classes that no worker uses: 1.4 s of CPU time.
        loaded = sys.modules.setdefault("sklearn", None)  # type: ignore[arg-type]
        # Imported here because the client that submits the job needs no model libraries.
        from models.fraud.model import FraudModel
        from udfs.scoring.batch import EventScorer

        if loaded is None:
            del sys.modules["sklearn"]
        settings, parts = self._settings, self._parts
        model = FraudModel.load(product_path(settings.scoring.checkpoint))
        store = opening.enter_context(closing(parts.open_store(settings)))
        feeds = opening.enter_context(closing(parts.open_feeds(settings, self._rules, None)))
        on_batch = parts.open_metrics(metric_group)
        self._scorer = opening.enter_context(
            closing(EventScorer(settings, model, store, feeds, on_batch))
        )
        log.info("fraud model %s is loaded", model.version)

    def eval(self, user_id: pd.Series, parts: pd.Series) -> pd.Series:
        """Returns a list of output records for each row."""
        return pd.Series(self._scorer.score(user_id.tolist(), parts.tolist()), dtype=object)


def open_metrics(group: Any) -> BatchMetrics:
    """The counters `liveprofile.events.*`. group: Flink's."""
    from udfs.scoring.batch import STAGES

    group = group.add_group("liveprofile").add_group("events")
    counts = ("rows", "duplicates", "unscored")
    return BatchMetrics(group, counts, STAGES, (EVENT_TO_SCORE, EVENT_TO_ALERT))


PARTS = WorkerParts(open_scoring_store, open_metrics)


def scoring_udf(settings: Settings, parts: WorkerParts = PARTS):
    """Returns the function that the job registers as `score_event`. Raises RulesError."""
    return pipeline_function(ScoringUdf(settings, parts))
