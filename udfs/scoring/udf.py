"""The Flink UDF of the scoring pipeline: `score_event`, a vectorized (pandas) function."""

from __future__ import annotations

import logging
from contextlib import ExitStack, closing
from typing import Any

import pandas as pd
from pyflink.table import DataTypes
from pyflink.table.udf import FunctionContext, ScalarFunction, udf

from liveprofile.flink.operator_metrics import EVENT_TO_ALERT, EVENT_TO_SCORE
from liveprofile.resources import product_path
from liveprofile.rules.rules import read_rules
from liveprofile.settings import Settings
from udfs.scoring.sink import open_scoring_sink
from udfs.worker import BatchMetrics, WorkerParts, collect_rarely
from udfs.worker_guard import open_worker_guard

log = logging.getLogger(__name__)


class ScoringUdf(ScalarFunction):
    """Maps the columns of `jobs.sql.scoring_views.scoring_input` to each row's output records.

    liveprofile/wire/output_records.py describes the records.
    """

    def __init__(self, settings: Settings, parts: WorkerParts):
        """Raises RulesError for the file of rules."""
        self._settings, self._parts = settings, parts
        self._rules = read_rules(product_path(settings.rules))

    def open(self, function_context: FunctionContext) -> None:
        """Loads the model and opens the parts."""
        # Imported here because the client that submits the job needs no model libraries.
        from models.fraud.model import FraudModel
        from udfs.scoring.batch import EventScorer

        settings, parts = self._settings, self._parts
        with ExitStack() as opening:
            guard = open_worker_guard()
            opening.callback(guard.release)
            model = FraudModel.load(product_path(settings.scoring.checkpoint))
            sink = opening.enter_context(closing(parts.open_sink(settings)))
            feeds = opening.enter_context(closing(parts.open_feeds(settings, self._rules, None)))
            on_batch = parts.open_metrics(function_context.get_metric_group())
            self._scorer = opening.enter_context(
                closing(EventScorer(settings, model, sink, feeds, on_batch))
            )
            self._opened = opening.pop_all()
        collect_rarely()
        log.info("fraud model %s is loaded", model.version)

    def close(self) -> None:
        self._opened.close()

    def eval(self, user_id: pd.Series, parts: pd.Series) -> pd.Series:
        """Returns a list of output records for each row."""
        return pd.Series(self._scorer.score(user_id.tolist(), parts.tolist()), dtype=object)


def open_metrics(group: Any) -> BatchMetrics:
    """The counters `liveprofile.events.*`. group: Flink's."""
    from udfs.scoring.batch import STAGES

    group = group.add_group("liveprofile").add_group("events")
    counts = ("rows", "duplicates", "unscored")
    return BatchMetrics(group, counts, STAGES, (EVENT_TO_SCORE, EVENT_TO_ALERT))


PARTS = WorkerParts(open_scoring_sink, open_metrics)


def scoring_udf(settings: Settings, parts: WorkerParts = PARTS):
    """Returns the function that the job registers as `score_event`. Raises RulesError."""
    return udf(
        ScoringUdf(settings, parts),
        result_type=DataTypes.ARRAY(DataTypes.STRING()),
        func_type="pandas",
    )
