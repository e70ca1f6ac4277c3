"""The consents in force in a worker, from the topic user-consents (liveprofile/consent).

The book is as new as the topic was a moment ago: a window is scored at least
`window.out_of_orderness_ms` after its events, which is longer than a record needs to get here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from liveprofile.config import Settings
from liveprofile.consent.changes import ConsentBook
from liveprofile.consent.records import ConsentError, read_record
from liveprofile.errors import ServiceError
from liveprofile.kafka.records import Record
from liveprofile.kafka.topics import NoTopicError
from liveprofile.pseudonym import user_pseudonym
from udfs.topic_follower import KafkaTopicSource, TopicFollower, TopicSource, read_to_end

log = logging.getLogger(__name__)

GROUP = "liveprofile-consents"
FIRST_READ_TIMEOUT_S = 60.0


class _BookReader:
    """One pass over the topic."""

    def __init__(self, book: ConsentBook, publish: Callable[[ConsentBook], None]):
        self._book, self._publish = book, publish
        self.invalid = 0

    def take(self, records: list[Record]) -> None:
        for record in records:
            user_id = (record.key or b"").decode("utf-8", "surrogatepass")
            if record.value is None:  # the user is erased, or has no consents any more
                self._book.put(user_id, ())
                continue
            try:
                self._book.put(*read_record(record.key, record.value))
            except ConsentError as error:
                self.invalid += 1
                position = f"{record.topic}/{record.partition} offset {record.offset}"
                log.warning(
                    "%s, %s: %s; the record is ignored", position, user_pseudonym(user_id), error
                )

    def publish(self) -> str:
        self._publish(self._book)
        return ""


class ConsentFeed:
    """Keeps the consents in force up to date in a thread of its own.

    open_source: called in the thread, again after each failure. None: the defaults stay in force.
    timing: keyword arguments of TopicFollower.

    The constructor returns when the topic has been read to its end. Without a topic, nobody has
    ever changed a consent. Raises ServiceError if the topic cannot be read in
    `first_read_timeout_s`: to start without it would ignore withdrawals. Later failures are logged,
    and the book stays in force.
    """

    def __init__(
        self,
        settings: Settings,
        open_source: Callable[[], TopicSource] | None = None,
        *,
        first_read_timeout_s: float = FIRST_READ_TIMEOUT_S,
        **timing: float,
    ):
        self._defaults = settings.consent.defaults
        self._book, self._is_read = ConsentBook(self._defaults), threading.Event()
        self._follower: TopicFollower | None = None
        if open_source is None:
            return
        self._follower = TopicFollower(
            "user-consents",
            "consents",
            lambda: self._open(open_source),
            lambda: _BookReader(ConsentBook(self._defaults), self._take_over),
            lambda: f"the consents of {len(self._book)} users stay",
            first_read_timeout_s=first_read_timeout_s,
            **timing,
        )
        # A broker that restarts is back soon; a task that fails at once would only restart as well.
        if not self._is_read.wait(first_read_timeout_s):
            self._follower.close()
            raise ServiceError(
                f"topic {settings.topics.consents} cannot be read: the job does not start without"
                " the consents of users"
            )

    def current(self) -> ConsentBook:
        """The consents in force. The thread adds later records to it."""
        return self._book

    def close(self) -> None:
        """Ends the thread."""
        if self._follower is not None:
            self._follower.close()

    def _open(self, open_source: Callable[[], TopicSource]) -> TopicSource:
        try:
            return open_source()
        except NoTopicError:
            self._is_read.set()
            raise

    def _take_over(self, book: ConsentBook) -> None:
        self._book = book
        self._is_read.set()


def _open_source(settings: Settings) -> TopicSource:
    return KafkaTopicSource(settings, settings.topics.consents, GROUP)


def read_consents(settings: Settings) -> ConsentBook:
    """Reads the topic once to its end; without the topic, the defaults. Raises ServiceError."""
    book = ConsentBook(settings.consent.defaults)
    reader = _BookReader(book, lambda book: None)
    read_to_end(settings.topics.consents, lambda: _open_source(settings), reader.take)
    return book


def open_consent_feed(settings: Settings) -> ConsentFeed:
    """Opens the feed of a job."""
    return ConsentFeed(settings, lambda: _open_source(settings))


def open_default_consents(settings: Settings) -> ConsentFeed:
    """Replaces `open_consent_feed` where there is no Kafka: the defaults are in force."""
    return ConsentFeed(settings)
