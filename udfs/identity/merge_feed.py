"""Which ids are one person, from the topic user-merges (liveprofile/identity)."""

from __future__ import annotations

from collections.abc import Callable

from liveprofile.identity.book import IdentityBook
from liveprofile.identity.records import read_record
from liveprofile.settings import Settings
from udfs.book_feed import BookFeed, BookTopic
from udfs.topic_follower import TopicSource

GROUP = "liveprofile-merges"


def merge_topic(settings: Settings) -> BookTopic[IdentityBook]:
    return BookTopic("merges", settings.topics.merges, GROUP, IdentityBook, read_record, ())


class MergeFeed(BookFeed[IdentityBook]):
    """Keeps the merges up to date. For the arguments see BookFeed. Raises ServiceError."""

    def __init__(
        self,
        settings: Settings,
        open_source: Callable[[], TopicSource] | None = None,
        **timing: float,
    ):
        super().__init__(merge_topic(settings), open_source, **timing)


def read_merges(settings: Settings) -> IdentityBook:
    """Reads the topic once to its end, if the settings follow it. Raises ServiceError."""
    return merge_topic(settings).read(settings) if settings.merges.enabled else IdentityBook()


def open_merge_feed(settings: Settings) -> MergeFeed:
    """Opens the feed of a job; without `merges.enabled` nobody is merged."""
    if not settings.merges.enabled:
        return MergeFeed(settings)
    return MergeFeed(settings, lambda: merge_topic(settings).open(settings))
