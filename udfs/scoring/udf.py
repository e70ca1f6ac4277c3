"""The Flink UDF of the scoring pipeline: `score_event`, a vectorized (pandas) function."""

from __future__ import annotations

import logging
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pandas as pd
from pyflink.table import DataTypes
from pyflink.table.udf import FunctionContext, ScalarFunction, udf

from liveprofile.flink.operator_metrics import EVENT_TO_ALERT, EVENT_TO_SCORE
from liveprofile.resources import product_path
from liveprofile.rules.rules import read_rules
from liveprofile.settings import Settings
from udfs.scoring.sink import open_scoring_sink
from udfs.worker import LatencyCounters, WorkerParts, collect_rarely
from udfs.worker_guard import open_worker_guard

if TYPE_CHECKING:  # only the workers need the model's libraries, not the client
    from udfs.scoring.batch import ScoringBatchTiming

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


class ScoringMetrics:
    """Reports batch timings as Flink counters `liveprofile.events.*`."""

    def __init__(self, group):
        from udfs.scoring.batch import STAGES

        group = group.add_group("liveprofile").add_group("events")
        self._rows = group.counter("rows")
        self._batches = group.counter("batches")
        self._duplicates = group.counter("duplicates")
        self._unscored = group.counter("unscored")
        self._stage_us = {stage: group.counter(f"{stage}_us") for stage in STAGES}
        self._event_to_score = LatencyCounters(group, EVENT_TO_SCORE)
        self._event_to_alert = LatencyCounters(group, EVENT_TO_ALERT)

    def __call__(self, timing: ScoringBatchTiming) -> None:
        self._rows.inc(timing.rows)
        self._batches.inc()
        self._duplicates.inc(timing.duplicates)
        self._unscored.inc(timing.unscored)
        self._event_to_score.observe(timing.event_to_score_ms)
        self._event_to_alert.observe(timing.event_to_alert_ms)
        for stage, counter in self._stage_us.items():
            counter.inc(round(getattr(timing, f"{stage}_ms") * 1000))


PARTS = WorkerParts(open_scoring_sink, ScoringMetrics)


def scoring_udf(settings: Settings, parts: WorkerParts = PARTS):
    """Returns the function that the job registers as `score_event`. Raises RulesError."""
    return udf(
        ScoringUdf(settings, parts),
        result_type=DataTypes.ARRAY(DataTypes.STRING()),
        func_type="pandas",
    )
