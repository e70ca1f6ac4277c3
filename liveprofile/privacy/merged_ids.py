"""What an erasure does to merged ids: it reaches all ids of a person, and ends their merges."""

from __future__ import annotations

from collections.abc import Container, Mapping

from liveprofile.identity.book import IdentityBook
from liveprofile.identity.forgotten import missing_erasures, without_users
from liveprofile.identity.records import to_record
from liveprofile.kafka.records import send_all
from liveprofile.privacy import erasure_records
from liveprofile.settings import Settings
from liveprofile.wire.user_records import CONTENT_TYPE, key_of


def erase_other_ids(
    settings: Settings, book: IdentityBook, erased: Mapping[str, int]
) -> dict[str, int]:
    """Erases the other ids of erased users, such as those that the read API has erased.

    erased: the time of each erasure. Returns the new ones. Raises ServiceError.
    """
    due = missing_erasures(book, erased, (user_id for user_id in erased if user_id in book))
    if due:
        records = (
            (key_of(user_id), erasure_records.to_record(user_id, before_ms), CONTENT_TYPE)
            for user_id, before_ms in due.items()
        )
        send_all(settings, settings.topics.erasures, records)
    return due


def forget_merges(settings: Settings, book: IdentityBook, erased: Container[str]) -> int:
    """Removes merges that name erased users; returns the number of records. Raises ServiceError."""
    left = without_users(book, erased)
    if not left:
        return 0
    records = (
        (key_of(alias_id), to_record(alias_id, kept) if kept else None, CONTENT_TYPE)
        for alias_id, kept in left.items()
    )
    return send_all(settings, settings.topics.merges, records)
