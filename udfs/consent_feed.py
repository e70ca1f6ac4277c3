"""The consents in force in a worker, from the topic user-consents (liveprofile/consent)."""

from __future__ import annotations

from collections.abc import Callable

from liveprofile.config import Settings
from liveprofile.consent.changes import ConsentBook
from liveprofile.consent.records import read_record
from liveprofile.kafka.records import Record
from udfs.book_feed import BookFeed, BookTopic
from udfs.topic_follower import TopicSource

GROUP = "liveprofile-consents"


def consent_topic(settings: Settings) -> BookTopic[ConsentBook]:
    defaults = settings.consent.defaults
    return BookTopic(
        "consents", settings.topics.consents, GROUP, lambda: ConsentBook(defaults), _put
    )


def _put(book: ConsentBook, record: Record) -> None:
    if record.value is None:  # the user is erased, or has no consents any more
        book.put((record.key or b"").decode("utf-8", "surrogatepass"), ())
    else:
        book.put(*read_record(record.key, record.value))


class ConsentFeed(BookFeed[ConsentBook]):
    """Keeps the consents in force up to date; the defaults before the first change of a user.

    For the arguments see BookFeed. Raises ServiceError.
    """

    def __init__(
        self,
        settings: Settings,
        open_source: Callable[[], TopicSource] | None = None,
        **timing: float,
    ):
        super().__init__(consent_topic(settings), open_source, **timing)


def read_consents(settings: Settings) -> ConsentBook:
    """Reads the topic once to its end; without the topic, the defaults. Raises ServiceError."""
    return consent_topic(settings).read(settings)


def open_consent_feed(settings: Settings) -> ConsentFeed:
    """Opens the feed of a job."""
    return ConsentFeed(settings, lambda: consent_topic(settings).open(settings))


def open_default_consents(settings: Settings) -> ConsentFeed:
    """Replaces `open_consent_feed` where there is no Kafka: the defaults are in force."""
    return ConsentFeed(settings)
