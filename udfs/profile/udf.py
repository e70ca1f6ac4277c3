"""The vectorised operator: opens the model and the store in the Python worker, and reports."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pyflink.table import DataTypes
from pyflink.table.udf import FunctionContext, ScalarFunction, udf

from liveprofile.config import Settings
from liveprofile.events.modalities import TEXT
from liveprofile.resources import product_path
from liveprofile.rules.rules import Rules, read_rules
from udfs.profile.batch import STAGES, Batch, ProfileUpdater, Timing
from udfs.profile.sink import ProfileSink, open_profile_sink
from udfs.rules_feed import RulesFeed, open_feed

if TYPE_CHECKING:  # torch is for the workers, not for the client that submits
    from models.profile.inference import ProfileModel
    from models.profile.text_encoder import Encode

OpenStore = Callable[[Settings, int], ProfileSink]
OpenReport = Callable[[Any], Callable[[Timing], None]]
OpenFeed = Callable[[Settings, Rules], RulesFeed]

YIELDING = 5  # niceness of a worker of windows

log = logging.getLogger(__name__)


class ProfileOperator(ScalarFunction):
    """Columns of `jobs.sql.profile_views.remembered` in, the row's messages out (liveprofile/wire/output_records.py)."""

    def __init__(
        self,
        settings: Settings,
        rules: Rules,
        open_store: OpenStore,
        open_report: OpenReport,
        open_feed: OpenFeed = open_feed,
    ):
        self._settings, self._rules = settings, rules
        self._open_store, self._open_report = open_store, open_report
        self._open_feed = open_feed

    def open(self, function_context: FunctionContext) -> None:
        # Where cores are scarce, a window can wait and an event that is scored as it comes can't.
        os.nice(YIELDING)
        # Here and not above: the client that submits the job needs no torch.
        from models.profile.inference import ProfileModel

        model = self._settings.model
        loaded = ProfileModel.load(
            product_path(model.checkpoint),
            device=model.device,
            threads=model.threads,
            batch_rows=model.batch_rows,
            length_buckets=model.length_buckets,
        )
        loaded.warm_up()
        self._store = self._open_store(self._settings, loaded.dim)
        self._feed = self._open_feed(self._settings, self._rules)
        self._updater = ProfileUpdater(
            self._settings,
            loaded,
            self._store,
            self._feed,
            self._open_report(function_context.get_metric_group()),
            self._text_encoder(loaded),
        )
        # Torch, pandas and Beam brought 300,000 objects that stay. To walk them again and again was
        # a quarter of a batch's time: the collector leaves them alone from now on.
        gc.collect()
        gc.freeze()
        log.info("model %s is warm", loaded.version)

    def _text_encoder(self, model: ProfileModel) -> Encode | None:
        """Warm; None where the setting or the model wants no texts."""
        if not self._settings.model.texts:
            return None
        if TEXT not in model.modalities:
            log.warning("model.texts is on, but model %s was not trained with texts", model.version)
            return None
        from models.profile.text_encoder import encode

        encode(["warm"])
        return encode

    def close(self) -> None:
        self._feed.close()
        self._store.close()

    def eval(self, user_id, window_start, window_end, events, history, added, sums) -> pd.Series:
        batch = Batch(
            user_id.tolist(),
            _epoch_ms(window_start),
            _epoch_ms(window_end),
            events.tolist(),
            history.tolist(),
            np.stack(added.to_numpy()).astype(np.float64),
            np.stack(sums.to_numpy()).astype(np.float64),
        )
        return pd.Series(self._updater.update(batch), dtype=object)


def _epoch_ms(times: pd.Series) -> np.ndarray:
    return times.to_numpy().astype("datetime64[ms]").astype(np.int64)


class Metrics:
    """Flink metrics of the operator, named liveprofile.*

    Distributions say what one batch is like, but only to Flink itself; the counters of microseconds
    also reach Prometheus, which takes plain numbers only.
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
        self._pass_rows = group.distribution("model_pass_rows")
        self._pass_us_per_row = group.distribution("model_pass_us_per_row")

    def __call__(self, timing: Timing) -> None:
        self._rows.inc(timing.rows)
        self._batches.inc()
        self._batch_rows.update(timing.rows)
        self._media_used.inc(timing.media_used)
        self._media_ignored.inc(timing.media_ignored)
        for stage in STAGES:
            spent_ms = getattr(timing, f"{stage}_ms")
            self._stage_ms[stage].update(round(spent_ms))
            self._stage_us[stage].inc(round(spent_ms * 1000))
        for one in timing.passes:
            self._pass_rows.update(one.rows)
            self._pass_us_per_row.update(round(one.milliseconds * 1000 / max(one.rows, 1)))


def profile_operator(
    settings: Settings,
    open_store: OpenStore = open_profile_sink,
    open_report: OpenReport = Metrics,
    open_feed: OpenFeed = open_feed,
):
    """The function that `jobs.profile_job` registers. Reads the rules' file, so that a wrong one is
    refused where the job is submitted.

    open_store: called with settings and embedding size in each Python worker.
    open_report: called with Flink's metric group there; what it returns hears of each batch.
    open_feed: called with settings and the file's rules there.
    """
    return udf(
        ProfileOperator(
            settings, read_rules(product_path(settings.rules)), open_store, open_report, open_feed
        ),
        result_type=DataTypes.ARRAY(DataTypes.STRING()),
        func_type="pandas",
    )
