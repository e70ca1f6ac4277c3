"""The event lane's vectorised operator: opens model, rules and store in the Python worker."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd
from pyflink.table import DataTypes
from pyflink.table.udf import FunctionContext, ScalarFunction, udf

from liveprofile.config import Settings
from liveprofile.resources import product_path
from liveprofile.rules.rules import Rules, read_rules
from udfs.rules_feed import RulesFeed, open_feed
from udfs.scoring.sink import ScoringSink, open_scoring_sink

if TYPE_CHECKING:  # the model's libraries are for the workers, not for the client that submits
    from udfs.scoring.batch import Timing

OpenStore = Callable[[Settings], ScoringSink]
OpenReport = Callable[[Any], "Callable[[Timing], None]"]
OpenFeed = Callable[[Settings, Rules], RulesFeed]

log = logging.getLogger(__name__)


class EventOperator(ScalarFunction):
    """Columns of `jobs.sql.scoring_views.known` in, the row's messages out (liveprofile/wire/output_records.py)."""

    def __init__(
        self,
        settings: Settings,
        rules: Rules,
        open_store: OpenStore,
        open_report: OpenReport,
        open_feed: OpenFeed,
    ):
        self._settings, self._rules = settings, rules
        self._open_store, self._open_report = open_store, open_report
        self._open_feed = open_feed

    def open(self, function_context: FunctionContext) -> None:
        from models.fraud.model import EventModel
        from udfs.scoring.batch import EventScorer

        model = EventModel.load(
            product_path(self._settings.scoring.checkpoint),
            self._settings.model.device,
            self._settings.model.threads,
        )
        self._store = self._open_store(self._settings)
        self._feed = self._open_feed(self._settings, self._rules)
        self._scorer = EventScorer(
            self._settings,
            model,
            self._store,
            self._feed,
            self._open_report(function_context.get_metric_group()),
        )
        gc.collect()
        gc.freeze()  # as udfs.profile.udf does
        log.info("event model %s is loaded", model.version)

    def close(self) -> None:
        self._feed.close()
        self._store.close()

    def eval(self, user_id: pd.Series, parts: pd.Series) -> pd.Series:
        return pd.Series(self._scorer.score(user_id.tolist(), parts.tolist()), dtype=object)


class EventMetrics:
    """Flink metrics of the operator, named liveprofile.events.*: plain counters."""

    def __init__(self, group):
        from udfs.scoring.batch import STAGES

        group = group.add_group("liveprofile").add_group("events")
        self._rows = group.counter("rows")
        self._batches = group.counter("batches")
        self._duplicates = group.counter("duplicates")
        self._unscored = group.counter("unscored")
        self._stage_us = {stage: group.counter(f"{stage}_us") for stage in STAGES}

    def __call__(self, timing: Timing) -> None:
        self._rows.inc(timing.rows)
        self._batches.inc()
        self._duplicates.inc(timing.duplicates)
        self._unscored.inc(timing.unscored)
        for stage, counter in self._stage_us.items():
            counter.inc(round(getattr(timing, f"{stage}_ms") * 1000))


def event_operator(
    settings: Settings,
    open_store: OpenStore = open_scoring_sink,
    open_report: OpenReport = EventMetrics,
    open_feed: OpenFeed = open_feed,
):
    """The function that `jobs.profile_job` registers as score_event; for its arguments see
    udfs.profile.udf.profile_operator."""
    return udf(
        EventOperator(
            settings, read_rules(product_path(settings.rules)), open_store, open_report, open_feed
        ),
        result_type=DataTypes.ARRAY(DataTypes.STRING()),
        func_type="pandas",
    )
