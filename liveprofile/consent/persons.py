"""Consents of persons with several ids: a purpose is allowed if all of their ids allow it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from liveprofile.consent.changes import ConsentBook
from liveprofile.identity.book import IdentityBook


class PersonConsentBook(ConsentBook):
    """The consents of all users, where an id counts with the ids that are the same person then.

    Both books may change while this one is read. For `defaults` see ConsentBook.
    """

    def __init__(
        self, consents: ConsentBook, identities: IdentityBook, defaults: Mapping[str, bool]
    ):
        super().__init__(defaults)
        self._consents, self._identities = consents, identities

    def __len__(self) -> int:
        return len(self._consents)

    def __contains__(self, user_id: str) -> bool:
        return any(each in self._consents for each in self._identities.ever_merged(user_id))

    def allowed(self, user_id: str, purpose: str, at_ms: int) -> bool:
        if user_id not in self._identities:
            return self._consents.allowed(user_id, purpose, at_ms)
        return all(
            self._consents.allowed(each, purpose, at_ms)
            for each in self._identities.ids_of(user_id, at_ms)
        )

    def users(self) -> list[str]:
        ids = self._consents.users()
        return sorted({other for each in ids for other in self._identities.ever_merged(each)})

    def change_times_ms(self, user_id: str) -> set[int]:
        times_ms: set[int] = set()
        for each in self._identities.ever_merged(user_id):
            times_ms |= self._consents.change_times_ms(each)
            for merge in self._identities.merges(each):
                times_ms |= {merge.since_ms, merge.until_ms or merge.since_ms}
        return times_ms
