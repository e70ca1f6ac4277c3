"""The data of the baseline models of churn and spend, of generated customers."""

import numpy as np

from lab.baselines.values.data import BaselineData
from liveprofile.units import DAY_MS, HOUR_MS
from models.profile.data.examples import PURCHASE, VIEW
from models.profile.evaluation.any_time import split_moments
from tests.unit.models.profile.synthetic_streams import (
    START_MS,
    churning_customers,
    corpus_and_split,
    make_streams,
)


def baseline_data(streams=None, split=None):
    """The churning customers at random moments, with a horizon of 30 days."""
    if streams is None:
        corpus, split = corpus_and_split(churning_customers())
        streams = corpus.streams
    moments = split_moments(streams, split, 30)
    return BaselineData.from_moments(streams, *moments, split.train_until_ms, 30)


def ignore_progress(done, total):
    """A progress callback that does nothing."""


def views_and_purchases(window_ms=DAY_MS // 2, events=900, seed=1):
    """Views and purchases of eleven users over 120 days; user 7 only views."""
    random = np.random.default_rng(seed)
    user = np.concatenate([np.arange(11), random.integers(0, 11, events - 11)])
    kind = np.where((random.random(events) < 0.3) | (user == 7), VIEW, PURCHASE)
    return make_streams(
        user,
        START_MS + random.integers(0, 120 * DAY_MS, events) // HOUR_MS * HOUR_MS,
        kind,
        np.round(random.lognormal(2, 1, events), 2) * (kind == PURCHASE),
        random.integers(0, 30, events),
        window_ms,
    )
