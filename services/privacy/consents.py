"""Consents: read from their table, and changes of them sent to the topic that the job reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from cassandra.cluster import Session

from liveprofile.consent import changes as consent_store
from liveprofile.consent.changes import PURPOSES, ConsentChange, newest
from liveprofile.rows.operations import AuditEntry
from liveprofile.settings import Settings
from services.audit_trail import audited
from services.privacy.user_topics import send


class ConsentState(NamedTuple):
    """The changes of a user, newest first, and what is allowed without one."""

    changes: list[ConsentChange]
    defaults: Mapping[str, bool]

    def purposes(self, at_ms: int) -> dict[str, dict[str, Any]]:
        """Of each purpose: what is allowed at a time, and since when and why it is."""
        newest_of = {purpose: newest(self.changes, purpose, at_ms) for purpose in PURPOSES}
        return {
            purpose: {
                "allowed": change.granted if change else self.defaults[purpose],
                "since_ms": change.time_ms if change else None,
                "basis": change.basis if change else "",
                "text_version": change.text_version if change else "",
            }
            for purpose, change in newest_of.items()
        }


def consents(session: Session, settings: Settings, user_id: str) -> ConsentState:
    """What a user has allowed."""
    changes = consent_store.read_changes(session, [user_id])[user_id]
    return ConsentState(consent_store.in_order(changes), settings.consent.defaults)


def change_consents(
    session: Session,
    settings: Settings,
    changes: Iterable[tuple[str, ConsentChange]],
    audit: AuditEntry | None = None,
) -> int:
    """Stores changes of users, then sends each user's record to the job; returns their number.

    Repeating it changes nothing. audit: of the only change.
    """
    listed = list(changes)
    with audited(session, settings, audit) as entry:
        count = consent_store.apply_changes(
            session,
            listed,
            partial(send, settings, settings.topics.consents),
            ttl_s=consent_store.ttl_s(settings.topics.decisions_retention_ms),
        )
        if audit is not None:
            entry.after = listed[0][1]._asdict()
    return count


def send_consents(settings: Settings, session: Session, users: Sequence[str]) -> None:
    """Tells the workers what the table says of users. Raises ServiceError."""
    read, topic = partial(consent_store.read_changes, session), settings.topics.consents
    consent_store.send_users(read, users, partial(send, settings, topic))
