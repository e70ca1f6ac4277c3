"""Feeds of a worker that have read records of a topic in memory."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from liveprofile.consent.changes import ConsentTable
from liveprofile.feeds.feed import Current, Fixed
from liveprofile.feeds.users import consents_spec, erasures_spec, follow, merges_spec
from liveprofile.identity.merges import IdentityTable
from liveprofile.kafka.records import Record
from liveprofile.privacy.erasures import ErasureTable
from liveprofile.rules.rules import RuleSet
from liveprofile.segments.segments import SegmentSet
from liveprofile.settings import Settings
from tests.support.memory.kafka import WHOLE, FakeTopic
from udfs.worker import NO_SEGMENTS, Feeds


def fixed_feeds(settings: Settings, rules: RuleSet, segments: SegmentSet | None = None) -> Feeds:
    """Without Kafka: definitions stay, all users have the default consents, nobody is erased."""
    consents = ConsentTable(settings.consent.defaults)
    return Feeds(
        Fixed(rules), Fixed(segments or NO_SEGMENTS), Fixed(consents), Fixed(ErasureTable())
    )


class RecordedFeeds(NamedTuple):
    """Part `open_feeds` of a UDF, which is pickled with it."""

    consents: Sequence[Record] = ()
    erasures: Sequence[Record] = ()

    def __call__(self, settings: Settings, rules: RuleSet, segments: SegmentSet | None) -> Feeds:
        topics = [partial(FakeTopic, WHOLE, *each) for each in self]
        return fixed_feeds(settings, rules, segments)._replace(
            consents=follow(settings, consents_spec(settings), topics[0]),
            erasures=follow(settings, erasures_spec(settings), topics[1]),
        )


class RecordedMerges(NamedTuple):
    """Argument `open_merges` of the job, which is pickled with it."""

    records: Sequence[Record]

    def __call__(self, settings: Settings) -> Current[IdentityTable]:
        return follow(settings, merges_spec(settings), lambda: FakeTopic(WHOLE, *self.records))
