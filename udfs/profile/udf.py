"""The Flink UDF of the profile pipeline: `update_profile`, a vectorized (pandas) function."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pyflink.table import DataTypes
from pyflink.table.udf import FunctionContext, ScalarFunction, udf

from liveprofile.events.modalities import TEXT
from liveprofile.flink.operator_metrics import WINDOW_TO_PROFILE
from liveprofile.resources import product_path
from liveprofile.rules.rules import RuleSet, read_rules
from liveprofile.segments.definitions import SegmentSet, read_segments
from liveprofile.settings import Settings
from liveprofile.wire.memories import last_windows
from udfs.consent_feed import ConsentFeed, open_consent_feed
from udfs.erasure_feed import ErasureFeed, open_erasure_feed
from udfs.garbage_collection import collect_rarely
from udfs.latency_counters import LatencyCounters
from udfs.profile.batch import STAGES, ProfileBatch, ProfileBatchTiming, ProfileUpdater
from udfs.profile.model_feed import ModelFeed, load_checkpoint, open_model_feed, report_models
from udfs.profile.sink import ProfileSink, open_profile_sink
from udfs.rules_feed import RulesFeed, open_rules_feed
from udfs.segments_feed import SegmentsFeed, open_segments_feed
from udfs.worker_guard import open_worker_guard

if TYPE_CHECKING:  # only the workers need torch, not the client that submits the job
    from models.profile.inference import ProfileModel
    from models.profile.text_encoder import TextEncoder

OpenSink = Callable[[Settings, int], ProfileSink]
OpenMetrics = Callable[[Any], Callable[[ProfileBatchTiming], None]]
OpenRulesFeed = Callable[[Settings, RuleSet], RulesFeed]
OpenModelFeed = Callable[[Settings, "ProfileModel", bool], ModelFeed]
OpenSegmentsFeed = Callable[[Settings, SegmentSet], SegmentsFeed]
OpenConsentFeed = Callable[[Settings], ConsentFeed]
OpenErasureFeed = Callable[[Settings], ErasureFeed]

WORKER_NICENESS = 5

log = logging.getLogger(__name__)


class ProfileUdf(ScalarFunction):
    """Maps the columns of `jobs.sql.profile_views.profile_input` to each row's output records.

    liveprofile/wire/output_records.py describes the records.
    """

    def __init__(
        self,
        settings: Settings,
        rules: RuleSet,
        segments: SegmentSet,
        open_sink: OpenSink,
        open_metrics: OpenMetrics,
        open_rules_feed: OpenRulesFeed = open_rules_feed,
        open_model_feed: OpenModelFeed = open_model_feed,
        open_segments_feed: OpenSegmentsFeed = open_segments_feed,
        open_consent_feed: OpenConsentFeed = open_consent_feed,
        open_erasure_feed: OpenErasureFeed = open_erasure_feed,
    ):
        """For the arguments see `profile_udf`; rules, segments: of the files."""
        self._settings, self._rules, self._segments = settings, rules, segments
        self._open_sink, self._open_metrics = open_sink, open_metrics
        self._open_rules_feed, self._open_model_feed = open_rules_feed, open_model_feed
        self._open_segments_feed = open_segments_feed
        self._open_consent_feed = open_consent_feed
        self._open_erasure_feed = open_erasure_feed

    def open(self, function_context: FunctionContext) -> None:
        """Loads the model and connects the sink and the feeds of rules and models."""
        # Where CPU cores are scarce, the scoring pipeline gets them first: fraud scores are needed
        # while the customer waits, profiles are not.
        os.nice(WORKER_NICENESS)
        self._guard = open_worker_guard()
        options = self._settings.model
        model = load_checkpoint(self._settings, product_path(options.checkpoint))
        self._sink = self._open_sink(self._settings, model.dim)
        self._rules_feed = self._open_rules_feed(self._settings, self._rules)
        self._segments_feed = self._open_segments_feed(self._settings, self._segments)
        self._consent_feed = self._open_consent_feed(self._settings)
        self._erasure_feed = self._open_erasure_feed(self._settings)
        encoder = open_text_encoder(self._settings, model)
        texts_unread = options.texts and encoder is None
        self._model_feed = self._open_model_feed(self._settings, model, texts_unread)
        metric_group = function_context.get_metric_group()
        report_models(metric_group, self._model_feed)
        self._updater = ProfileUpdater(
            self._settings,
            model,
            self._sink,
            self._rules_feed,
            self._segments_feed,
            self._open_metrics(metric_group),
            encoder,
            self._model_feed,
            consents=self._consent_feed,
            erasures=self._erasure_feed,
        )
        collect_rarely()
        log.info("model %s is loaded and warmed up", self._model_feed.current().model.version)

    def close(self) -> None:
        self._model_feed.close()
        self._erasure_feed.close()
        self._consent_feed.close()
        self._segments_feed.close()
        self._rules_feed.close()
        self._sink.close()
        self._guard.release()

    def eval(
        self, user_id, window_start, window_end, events, history, added, sums, memory
    ) -> pd.Series:
        """Returns a list of output records for each row."""
        batch = ProfileBatch(
            user_id.tolist(),
            _epoch_ms(window_start),
            _epoch_ms(window_end),
            events.tolist(),
            history.tolist(),
            np.stack(added.to_numpy()).astype(np.float64),
            np.stack(sums.to_numpy()).astype(np.float64),
            list(map(last_windows, memory)),
        )
        return pd.Series(self._updater.update(batch), dtype=object)


def open_text_encoder(settings: Settings, model: ProfileModel) -> TextEncoder | None:
    """Returns the warmed-up encoder, or None if `model.texts` is off or the model has no text
    modality."""
    if not settings.model.texts:
        return None
    if TEXT not in model.modalities:
        log.warning("model.texts is on, but model %s was trained without texts", model.version)
        return None
    from models.profile.text_encoder import encode

    encode(["warm"])
    return encode


def _epoch_ms(times: pd.Series) -> np.ndarray:
    return times.to_numpy().astype("datetime64[ms]").astype(np.int64)


class ProfileMetrics:
    """Reports batch timings as Flink metrics `liveprofile.*`.

    Distributions describe single batches, but only Flink shows them. Prometheus accepts plain
    numbers only, so each stage also has a counter of microseconds.
    """

    def __init__(self, group):
        group = group.add_group("liveprofile")
        self._rows = group.counter("rows")
        self._batches = group.counter("batches")
        self._batch_rows = group.distribution("batch_rows")
        self._stage_ms = {stage: group.distribution(f"{stage}_ms") for stage in STAGES}
        self._stage_us = {stage: group.counter(f"{stage}_us") for stage in STAGES}
        self._media_used = group.counter("media_used")
        self._media_ignored = group.counter("media_ignored")
        self._window_to_profile = LatencyCounters(group, WINDOW_TO_PROFILE)
        self._pass_rows = group.distribution("model_pass_rows")
        self._pass_us_per_row = group.distribution("model_pass_us_per_row")

    def __call__(self, timing: ProfileBatchTiming) -> None:
        self._rows.inc(timing.rows)
        self._batches.inc()
        self._batch_rows.update(timing.rows)
        self._media_used.inc(timing.media_used)
        self._media_ignored.inc(timing.media_ignored)
        for stage in STAGES:
            spent_ms = getattr(timing, f"{stage}_ms")
            self._stage_ms[stage].update(round(spent_ms))
            self._stage_us[stage].inc(round(spent_ms * 1000))
        self._window_to_profile.observe(timing.window_to_profile_ms)
        for forward_pass in timing.passes:
            rows = forward_pass.rows
            self._pass_rows.update(rows)
            self._pass_us_per_row.update(round(forward_pass.milliseconds * 1000 / max(rows, 1)))


def profile_udf(
    settings: Settings,
    open_sink: OpenSink = open_profile_sink,
    open_metrics: OpenMetrics = ProfileMetrics,
    open_rules_feed: OpenRulesFeed = open_rules_feed,
    open_model_feed: OpenModelFeed = open_model_feed,
    open_segments_feed: OpenSegmentsFeed = open_segments_feed,
    open_consent_feed: OpenConsentFeed = open_consent_feed,
    open_erasure_feed: OpenErasureFeed = open_erasure_feed,
):
    """Returns the function that the job registers as `update_profile`.

    Reads the files of rules and segments at once, so that submitting a job with wrong ones fails
    (RulesError, SegmentsError).
    Each Python worker opens its own resources:

    open_sink: called with the settings and the embedding size.
    open_metrics: called with Flink's metric group; the result is called with each batch's timing.
    open_rules_feed, open_segments_feed: called with the settings and the content of the file.
    open_consent_feed, open_erasure_feed: called with the settings.
    open_model_feed: called with the settings, the loaded model of the settings, and whether the
    settings ask for texts that it does not read.
    """
    rules = read_rules(product_path(settings.rules))
    segments = read_segments(product_path(settings.segments))
    return udf(
        ProfileUdf(
            settings,
            rules,
            segments,
            open_sink,
            open_metrics,
            open_rules_feed,
            open_model_feed,
            open_segments_feed,
            open_consent_feed,
            open_erasure_feed,
        ),
        result_type=DataTypes.ARRAY(DataTypes.STRING()),
        func_type="pandas",
    )
