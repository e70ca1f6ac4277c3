"""The data of the baseline models of churn and spend, of generated customers."""

from lab.baselines.values.data import BaselineData
from models.profile.evaluation.any_time import split_moments
from tests.unit.models.profile.synthetic_streams import churning_customers, corpus_and_split


def baseline_data(streams=None, split=None):
    """The churning customers at random moments, with a horizon of 30 days."""
    if streams is None:
        corpus, split = corpus_and_split(churning_customers())
        streams = corpus.streams
    moments = split_moments(streams, split, 30)
    return BaselineData.from_moments(streams, *moments, split.train_until_ms, 30)


def ignore_progress(done, total):
    """A progress callback that does nothing."""
