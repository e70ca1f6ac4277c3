"""The profile operator with the shipped rules and segments, without Flink and Kafka."""

from __future__ import annotations

from collections.abc import Callable

from liveprofile.resources import ROOT
from liveprofile.rules.rules import read_rules
from liveprofile.segments.definitions import read_segments
from liveprofile.settings import Settings
from models.profile.inference import ProfileModel
from udfs.profile.batch import ProfileBatchTiming, ProfileUpdater
from udfs.profile.sink import ProfileSink
from udfs.rules_feed import RulesFeed
from udfs.segments_feed import SegmentsFeed


def profile_updater(
    settings: Settings,
    model: ProfileModel,
    sink: ProfileSink,
    on_batch: Callable[[ProfileBatchTiming], None] = lambda timing: None,
) -> ProfileUpdater:
    """An updater that stores in `sink`. on_batch: called with the times of each batch."""
    rules = RulesFeed(read_rules(ROOT / settings.rules))
    segments = SegmentsFeed(read_segments(ROOT / settings.segments))
    return ProfileUpdater(settings, model, sink, rules, segments, on_batch)
