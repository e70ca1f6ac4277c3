"""The Flink UDF of the profile pipeline: `update_profile`, a vectorized (pandas) function."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pyflink.table import DataTypes
from pyflink.table.udf import FunctionContext, ScalarFunction, udf

from liveprofile.events.modalities import TEXT
from liveprofile.flink.operator_metrics import WINDOW_TO_PROFILE
from liveprofile.resources import product_path
from liveprofile.rules.rules import read_rules
from liveprofile.segments.definitions import read_segments
from liveprofile.settings import Settings
from udfs.profile.batch import STAGES, ProfileBatch, ProfileUpdater
from udfs.profile.model_feed import load_checkpoint, open_model_feed, report_models
from udfs.profile.sink import open_profile_sink
from udfs.worker import BatchMetrics, WorkerParts, collect_rarely
from udfs.worker_guard import open_worker_guard

if TYPE_CHECKING:  # only the workers need torch, not the client that submits the job
    from models.profile.inference import ProfileModel
    from models.profile.text_encoder import TextEncoder

WORKER_NICENESS = 5

log = logging.getLogger(__name__)


class ProfileUdf(ScalarFunction):
    """Maps the columns of `jobs.sql.profile_views.profile_input` to each row's output records.

    liveprofile/wire/output_records.py describes the records.
    """

    def __init__(self, settings: Settings, parts: WorkerParts):
        """Raises RulesError or SegmentsError for the files of definitions."""
        self._settings, self._parts = settings, parts
        self._rules = read_rules(product_path(settings.rules))
        self._segments = read_segments(product_path(settings.segments))

    def open(self, function_context: FunctionContext) -> None:
        """Loads the model and opens the parts."""
        # Where CPU cores are scarce, the scoring pipeline gets them first: fraud scores are needed
        # while the customer waits, profiles are not.
        os.nice(WORKER_NICENESS)
        settings, parts = self._settings, self._parts
        metric_group = function_context.get_metric_group()
        with ExitStack() as opening:
            guard = open_worker_guard()
            opening.callback(guard.release)
            model = load_checkpoint(settings, product_path(settings.model.checkpoint))
            sink = opening.enter_context(closing(parts.open_sink(settings, model.dim)))
            feeds = opening.enter_context(
                closing(parts.open_feeds(settings, self._rules, self._segments))
            )
            encoder = open_text_encoder(settings, model)
            texts_unread = settings.model.texts and encoder is None
            models = opening.enter_context(
                closing(parts.open_models(settings, model, texts_unread))
            )
            report_models(metric_group, models)
            on_batch = parts.open_metrics(metric_group)
            self._updater = ProfileUpdater(settings, model, sink, feeds, on_batch, encoder, models)
            self._opened = opening.pop_all()
        collect_rarely()
        log.info("model %s is loaded and warmed up", models.current().model.version)

    def close(self) -> None:
        self._opened.close()

    def eval(
        self, user_id, window_start, window_end, events, history, purchases, added, sums
    ) -> pd.Series:
        """Returns a list of output records for each row."""
        batch = ProfileBatch(
            user_id.tolist(),
            _epoch_ms(window_start),
            _epoch_ms(window_end),
            events.tolist(),
            history.tolist(),
            purchases.tolist(),
            np.stack(added.to_numpy()).astype(np.float64),
            np.stack(sums.to_numpy()).astype(np.float64),
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


def open_metrics(group: Any) -> BatchMetrics:
    """The counters `liveprofile.*`. group: Flink's."""
    counts = ("rows", "media_used", "media_ignored")
    return BatchMetrics(group.add_group("liveprofile"), counts, STAGES, (WINDOW_TO_PROFILE,))


PARTS = WorkerParts(open_profile_sink, open_metrics, open_models=open_model_feed)


def profile_udf(settings: Settings, parts: WorkerParts = PARTS):
    """Returns the function that the job registers as `update_profile`.

    Reads the files of rules and segments at once, so that submitting a job with wrong ones fails
    (RulesError, SegmentsError).
    """
    return udf(
        ProfileUdf(settings, parts),
        result_type=DataTypes.ARRAY(DataTypes.STRING()),
        func_type="pandas",
    )
