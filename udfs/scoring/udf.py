"""The Flink UDF of the scoring pipeline: `score_event`, a vectorized (pandas) function."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd
from pyflink.table import DataTypes
from pyflink.table.udf import FunctionContext, ScalarFunction, udf

from liveprofile.flink.operator_metrics import EVENT_TO_ALERT, EVENT_TO_SCORE
from liveprofile.resources import product_path
from liveprofile.rules.rules import RuleSet, read_rules
from liveprofile.settings import Settings
from udfs.consent_feed import ConsentFeed, open_consent_feed
from udfs.erasure_feed import ErasureFeed, open_erasure_feed
from udfs.garbage_collection import collect_rarely
from udfs.latency_counters import LatencyCounters
from udfs.rules_feed import RulesFeed, open_rules_feed
from udfs.scoring.sink import ScoringSink, open_scoring_sink
from udfs.worker_guard import open_worker_guard

if TYPE_CHECKING:  # only the workers need the model's libraries, not the client
    from udfs.scoring.batch import ScoringBatchTiming

OpenSink = Callable[[Settings], ScoringSink]
OpenMetrics = Callable[[Any], Callable[["ScoringBatchTiming"], None]]
OpenRulesFeed = Callable[[Settings, RuleSet], RulesFeed]
OpenConsentFeed = Callable[[Settings], ConsentFeed]
OpenErasureFeed = Callable[[Settings], ErasureFeed]

log = logging.getLogger(__name__)


class ScoringUdf(ScalarFunction):
    """Maps the columns of `jobs.sql.scoring_views.scoring_input` to each row's output records.

    liveprofile/wire/output_records.py describes the records.
    """

    def __init__(
        self,
        settings: Settings,
        rules: RuleSet,
        open_sink: OpenSink,
        open_metrics: OpenMetrics,
        open_rules_feed: OpenRulesFeed,
        open_erasure_feed: OpenErasureFeed,
        open_consent_feed: OpenConsentFeed,
    ):
        """For the arguments see `scoring_udf`; rules: of the rules file."""
        self._settings, self._rules = settings, rules
        self._open_sink, self._open_metrics = open_sink, open_metrics
        self._open_rules_feed, self._open_erasure_feed = open_rules_feed, open_erasure_feed
        self._open_consent_feed = open_consent_feed

    def open(self, function_context: FunctionContext) -> None:
        """Loads the model and connects the sink and the rules feed."""
        # Imported here because the client that submits the job needs no model libraries.
        from models.fraud.model import FraudModel
        from udfs.scoring.batch import EventScorer

        self._guard = open_worker_guard()
        model = FraudModel.load(product_path(self._settings.scoring.checkpoint))
        self._sink = self._open_sink(self._settings)
        self._rules_feed = self._open_rules_feed(self._settings, self._rules)
        self._erasure_feed = self._open_erasure_feed(self._settings)
        self._consent_feed = self._open_consent_feed(self._settings)
        self._scorer = EventScorer(
            self._settings,
            model,
            self._sink,
            self._rules_feed,
            self._open_metrics(function_context.get_metric_group()),
            erasures=self._erasure_feed,
            consents=self._consent_feed,
        )
        collect_rarely()
        log.info("fraud model %s is loaded", model.version)

    def close(self) -> None:
        self._consent_feed.close()
        self._erasure_feed.close()
        self._rules_feed.close()
        self._scorer.close()
        self._sink.close()
        self._guard.release()

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


def scoring_udf(
    settings: Settings,
    open_sink: OpenSink = open_scoring_sink,
    open_metrics: OpenMetrics = ScoringMetrics,
    open_rules_feed: OpenRulesFeed = open_rules_feed,
    open_erasure_feed: OpenErasureFeed = open_erasure_feed,
    open_consent_feed: OpenConsentFeed = open_consent_feed,
):
    """Returns the function that the job registers as `score_event`.

    The arguments are those of udfs.profile.udf.profile_udf; open_sink gets only the settings.
    """
    rules = read_rules(product_path(settings.rules))
    return udf(
        ScoringUdf(
            settings,
            rules,
            open_sink,
            open_metrics,
            open_rules_feed,
            open_erasure_feed,
            open_consent_feed,
        ),
        result_type=DataTypes.ARRAY(DataTypes.STRING()),
        func_type="pandas",
    )
