"""Which records of merges end when persons are erased. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from liveprofile.identity.book import END_OF_TIME_MS, IdentityBook, Merge


def of_persons(book: IdentityBook, user_ids: Iterable[str]) -> list[str]:
    """The ids, each followed by the other ids that are the same person now, without repetitions."""
    found: dict[str, None] = {}
    for user_id in user_ids:
        found[user_id] = None
        found |= dict.fromkeys(book.ids_of(user_id, END_OF_TIME_MS))
    return list(found)


def former_ids(book: IdentityBook, user_ids: Iterable[str]) -> list[str]:
    """Ids that were merged with these and split: profiles of one may have events of the other."""
    ids = set(of_persons(book, user_ids))
    return sorted({other for each in ids for other in book.ever_merged(each)} - ids)


def missing_erasures(
    book: IdentityBook, erased: Mapping[str, int], users: Iterable[str]
) -> dict[str, int]:
    """Erasures that are due because one id of a person is erased and another is not.

    erased: the time of each erasure, by user; users: whose persons are looked at.
    """
    due: dict[str, int] = {}
    for user_id in users:
        for other in book.ids_of(user_id, END_OF_TIME_MS):
            if max(erased.get(other, 0), due.get(other, 0)) < erased[user_id]:
                due[other] = erased[user_id]
    return due


def without_users(book: IdentityBook, erased: Container[str]) -> dict[str, tuple[Merge, ...]]:
    """By alias, the merges that are left where one names an erased user; none: no record."""
    left: dict[str, tuple[Merge, ...]] = {}
    for alias_id in book.aliases():
        merges = book.merges(alias_id)
        kept = tuple(each for each in merges if each.user_id not in erased)
        if alias_id in erased:
            left[alias_id] = ()
        elif kept != merges:
            left[alias_id] = kept
    return left
