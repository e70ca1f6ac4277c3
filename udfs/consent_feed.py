"""The consents in force in a worker, from the topic user-consents (liveprofile/consent)."""

from __future__ import annotations

from collections.abc import Callable

from liveprofile.consent.changes import ConsentBook, PersonConsentBook
from liveprofile.consent.records import read_record
from liveprofile.settings import Settings
from udfs.book_feed import BookFeed, BookTopic
from udfs.identity.merge_feed import MergeFeed, open_merge_feed, read_merges
from udfs.topic_follower import TopicSource

GROUP = "liveprofile-consents"


def consent_topic(settings: Settings) -> BookTopic[ConsentBook]:
    topic, defaults = settings.topics.consents, settings.consent.defaults
    # A record is removed if the user is erased, or has no consents any more.
    return BookTopic("consents", topic, GROUP, lambda: ConsentBook(defaults), read_record, ())


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


class PersonConsentFeed(ConsentFeed):
    """The consents of persons: what one of their ids does not allow, none allows.

    It closes both feeds. Raises nothing.
    """

    def __init__(self, settings: Settings, consents: ConsentFeed, merges: MergeFeed):
        super().__init__(settings)
        self._defaults, self._consents, self._merges = settings.consent.defaults, consents, merges

    def current(self) -> ConsentBook:
        consents, merges = self._consents.current(), self._merges.current()
        return PersonConsentBook(consents, merges, self._defaults) if len(merges) else consents

    def close(self) -> None:
        self._merges.close()
        self._consents.close()


def read_consents(settings: Settings) -> ConsentBook:
    """Reads the topic once to its end; without the topic, the defaults. Raises ServiceError."""
    consents = consent_topic(settings).read(settings)
    merges = read_merges(settings)
    if not len(merges):
        return consents
    return PersonConsentBook(consents, merges, settings.consent.defaults)


def open_consent_feed(settings: Settings) -> ConsentFeed:
    """Opens the feed of a job; with `merges.enabled`, of persons."""
    consents = ConsentFeed(settings, lambda: consent_topic(settings).open(settings))
    if not settings.merges.enabled:
        return consents
    return PersonConsentFeed(settings, consents, open_merge_feed(settings))


def open_default_consents(settings: Settings) -> ConsentFeed:
    """Replaces `open_consent_feed` where there is no Kafka: the defaults are in force."""
    return ConsentFeed(settings)
