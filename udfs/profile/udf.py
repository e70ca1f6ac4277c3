"""The Flink UDF of the profile pipeline: `update_profile`, a vectorized (pandas) function."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from liveprofile.flink.operator_metrics import WINDOW_TO_PROFILE
from liveprofile.resources import product_path
from liveprofile.segments.segments import read_segments
from liveprofile.settings import Settings
from udfs.pipeline_udf import PipelineUdf, pipeline_function
from udfs.profile.batch import ProfileBatch
from udfs.profile.model_feed import load_checkpoint, open_model_feed, report_models
from udfs.profile.store import open_profile_store
from udfs.profile.update import STAGES, ProfileUpdater
from udfs.worker import BatchMetrics, WorkerParts

if TYPE_CHECKING:  # only the workers need torch, not the client that submits the job
    from models.profile.text_encoder import TextEncoder

WORKER_NICENESS = 5

log = logging.getLogger(__name__)


class ProfileUdf(PipelineUdf):
    """Maps the columns of `jobs.sql.profile_views.profile_input` to each row's output records."""

    def __init__(self, settings: Settings, parts: WorkerParts):
        """Raises RulesError or SegmentsError for the files of definitions."""
        super().__init__(settings, parts)
        self._segments = read_segments(product_path(settings.segments))

    def _open(self, opening: ExitStack, metric_group: Any) -> None:
        # Where CPU cores are scarce, the scoring pipeline gets them first: fraud scores are needed
        # while the customer waits, profiles are not.
        os.nice(WORKER_NICENESS)
        settings, parts = self._settings, self._parts
        model = load_checkpoint(settings, product_path(settings.model.checkpoint))
        store = opening.enter_context(closing(parts.open_store(settings, model.dim)))
        feeds = opening.enter_context(
            closing(parts.open_feeds(settings, self._rules, self._segments))
        )
        encoder = open_text_encoder(settings)
        models = opening.enter_context(closing(parts.open_models(settings, model)))
        report_models(metric_group, models)
        on_batch = parts.open_metrics(metric_group)
        self._updater = ProfileUpdater(settings, model, store, feeds, on_batch, encoder, models)
        log.info("model %s is loaded and warmed up", models.current().model.version)

    def eval(
        self, user_id, window_start, window_end, events, history, purchases, added, sums, tiles
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
            tiles.tolist(),
        )
        return pd.Series(self._updater.update(batch), dtype=object)


def open_text_encoder(settings: Settings) -> TextEncoder | None:
    """Returns the warmed-up encoder, or None if `model.texts` is off."""
    if not settings.model.texts:
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


PARTS = WorkerParts(open_profile_store, open_metrics, open_models=open_model_feed)


def profile_udf(settings: Settings, parts: WorkerParts = PARTS):
    """Returns the function that the job registers as `update_profile`.

    Reads the files of rules and segments at once, so that submitting a job with wrong ones fails
    (RulesError, SegmentsError).
    """
    return pipeline_function(ProfileUdf(settings, parts))
