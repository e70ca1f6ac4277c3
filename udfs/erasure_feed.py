"""The erasures that a worker applies, from the topic user-erasures (liveprofile/privacy)."""

from __future__ import annotations

from collections.abc import Callable

from liveprofile.privacy.erasure_records import read_record
from liveprofile.privacy.erasures import HashedErasureBook
from liveprofile.settings import Settings
from udfs.book_feed import BookFeed, BookTopic
from udfs.topic_follower import TopicSource

GROUP = "liveprofile-erasures"


def erasure_topic(settings: Settings) -> BookTopic[HashedErasureBook]:
    topic = settings.topics.erasures
    return BookTopic("erasures", topic, GROUP, HashedErasureBook, read_record, None)


class ErasureFeed(BookFeed[HashedErasureBook]):
    """Keeps the erasures up to date. For the arguments see BookFeed. Raises ServiceError."""

    def __init__(
        self,
        settings: Settings,
        open_source: Callable[[], TopicSource] | None = None,
        **timing: float,
    ):
        super().__init__(erasure_topic(settings), open_source, **timing)


def read_erasures(settings: Settings) -> HashedErasureBook:
    """Reads the topic once to its end. Raises ServiceError."""
    return erasure_topic(settings).read(settings)


def open_erasure_feed(settings: Settings) -> ErasureFeed:
    """Opens the feed of a job."""
    return ErasureFeed(settings, lambda: erasure_topic(settings).open(settings))


def open_no_erasures(settings: Settings) -> ErasureFeed:
    """Replaces `open_erasure_feed` where there is no Kafka: nobody is erased."""
    return ErasureFeed(settings)
