"""The other ids of persons, for commands that are about all that is known of a person.

Without `merges.enabled` no id has others, and nothing is read.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from liveprofile.config import Settings
from liveprofile.identity.forgotten import (
    former_ids,
    missing_erasures,
    of_persons,
    without_users,
)
from liveprofile.identity.records import CONTENT_TYPE, key_of, to_record
from liveprofile.kafka.records import send_all
from liveprofile.privacy import erasure_records
from udfs.identity.merge_feed import read_merges


def all_ids(settings: Settings, user_ids: Iterable[str]) -> list[str]:
    """The ids and the other ids of these persons, without repetitions. Raises ServiceError."""
    return of_persons(read_merges(settings), user_ids)


def split_ids(settings: Settings, user_ids: Iterable[str]) -> list[str]:
    """Ids that were merged with these, and split. Raises ServiceError."""
    return former_ids(read_merges(settings), user_ids)


def erase_other_ids(settings: Settings, erased: Mapping[str, int]) -> dict[str, int]:
    """Erases the other ids of erased users, such as those that the read API has erased.

    erased: the time of each erasure. Returns the new ones. Raises ServiceError.
    """
    book = read_merges(settings)
    due = missing_erasures(book, erased, (user_id for user_id in erased if user_id in book))
    if due:
        records = (
            (key_of(user_id), erasure_records.to_record(user_id, before_ms), CONTENT_TYPE)
            for user_id, before_ms in due.items()
        )
        send_all(settings, settings.topics.erasures, records)
    return due


def forget_merges(settings: Settings, erased: Container[str]) -> int:
    """Removes merges that name erased users; returns the number of records. Raises ServiceError."""
    left = without_users(read_merges(settings), erased)
    if not left:
        return 0
    records = (
        (key_of(alias_id), to_record(alias_id, kept) if kept else None, CONTENT_TYPE)
        for alias_id, kept in left.items()
    )
    return send_all(settings, settings.topics.merges, records)
