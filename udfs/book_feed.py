"""A book about users that a worker keeps up to date from a compacted topic: consents, erasures.

The book is as new as the topic was a moment ago: a window is scored at least
`window.out_of_orderness_ms` after its events, which is longer than a record needs to get here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from liveprofile.errors import InputError, ServiceError
from liveprofile.kafka.records import Record
from liveprofile.kafka.tail import TopicTail
from liveprofile.kafka.topics import NoTopicError
from liveprofile.pseudonym import key_pseudonym
from liveprofile.settings import Settings
from liveprofile.wire.user_records import user_of
from udfs.topic_follower import KafkaTopicSource, TopicFollower, TopicSource, read_to_end

log = logging.getLogger(__name__)

FIRST_READ_TIMEOUT_S = 60.0


class UserBook(Protocol):
    """A book, with what the newest record of each user says."""

    def __len__(self) -> int: ...

    def put(self, user_id: str, value: Any) -> None: ...


Book = TypeVar("Book", bound=UserBook)


class BookTopic(NamedTuple, Generic[Book]):
    """A topic, and how a book results from its records."""

    noun: str  # such as "consents", for messages
    topic: str
    group: str  # of Kafka
    new_book: Callable[[], Book]
    # The user and what to put in the book, from key and value. Raises InputError.
    read_record: Callable[[bytes | None, bytes], tuple[str, Any]]
    removed: Any  # what to put in the book for a user whose record was removed

    def open(self, settings: Settings) -> TopicSource:
        """Reads the topic from its beginning. Raises like KafkaTopicSource."""
        return KafkaTopicSource(settings, self.topic, self.group)

    def read(self, settings: Settings) -> Book:
        """Reads the topic once to its end; an empty book without the topic. Raises ServiceError."""
        reader = _BookReader(self, lambda book: None)
        read_to_end(self.topic, lambda: self.open(settings), reader.take)
        return reader.book


class _BookReader(Generic[Book]):
    """One pass over the topic."""

    def __init__(self, topic: BookTopic[Book], publish: Callable[[Book], None]):
        self._topic, self._publish, self.book = topic, publish, topic.new_book()

    def take(self, records: list[Record]) -> None:
        for record in records:
            try:
                self._put(record)
            except InputError as error:
                position = f"{record.topic}/{record.partition} offset {record.offset}"
                user = key_pseudonym(record.key or b"")
                log.warning("%s, %s: %s; the record is ignored", position, user, error)

    def _put(self, record: Record) -> None:
        if record.value is None:
            self.book.put(user_of(record.key), self._topic.removed)
        else:
            self.book.put(*self._topic.read_record(record.key, record.value))

    def publish(self) -> str:
        self._publish(self.book)
        return ""


class BookTail(Generic[Book]):
    """A book that its owner reads on: `current` has what the topic holds at the time of the call.

    A topic that does not exist is empty. Raises ServiceError.
    """

    def __init__(self, settings: Settings, topic: BookTopic[Book]):
        self._reader = _BookReader(topic, lambda book: None)
        self._tail: TopicTail | None = None
        with suppress(NoTopicError):
            self._tail = TopicTail(settings, topic.topic, topic.group)

    def current(self) -> Book:
        """The book up to the present end of the topic. Raises ServiceError."""
        if self._tail is not None:
            self._reader.take(self._tail.read_on())
        return self._reader.book

    def close(self) -> None:
        if self._tail is not None:
            self._tail.close()


class BookFeed(Generic[Book]):
    """Keeps a book up to date in a thread of its own.

    open_source: called in the thread, again after each failure. None: the book stays empty.
    timing: keyword arguments of TopicFollower.

    The constructor returns when the topic has been read to its end. A topic that does not exist is
    empty. Raises ServiceError if the topic cannot be read in `first_read_timeout_s`: to start
    without it would ignore what users have decided. Later failures are logged, and the book stays
    in force.
    """

    def __init__(
        self,
        topic: BookTopic[Book],
        open_source: Callable[[], TopicSource] | None = None,
        *,
        first_read_timeout_s: float = FIRST_READ_TIMEOUT_S,
        **timing: float,
    ):
        self._book, self._is_read = topic.new_book(), threading.Event()
        self._follower: TopicFollower | None = None
        if open_source is None:
            return
        self._follower = TopicFollower(
            topic.topic,
            topic.noun,
            lambda: self._open(open_source),
            lambda: _BookReader(topic, self._take_over),
            lambda: f"the {topic.noun} of {len(self._book)} users stay",
            first_read_timeout_s=first_read_timeout_s,
            **timing,
        )
        # A broker that restarts is back soon; a task that fails at once would only restart as well.
        if not self._is_read.wait(first_read_timeout_s):
            self._follower.close()
            raise ServiceError(
                f"topic {topic.topic} cannot be read: the job does not start without the"
                f" {topic.noun} of users"
            )

    def current(self) -> Book:
        """The book in force. The thread adds later records to it."""
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

    def _take_over(self, book: Book) -> None:
        self._book = book
        self._is_read.set()
