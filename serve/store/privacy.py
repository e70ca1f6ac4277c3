"""Consents and erasures: read from their tables, and sent to the topics that the job reads."""

from __future__ import annotations

from collections.abc import Sequence

from cassandra.cluster import Session

from liveprofile.consent import store as consent_store
from liveprofile.consent.changes import ConsentChange
from liveprofile.privacy.erasure_log import (
    REQUESTED,
    Deletion,
    is_done,
    read_deletions,
    write_deletion,
)
from liveprofile.privacy.erasure_status import place_statuses
from liveprofile.settings import Settings
from liveprofile.storage.cql import now_ms
from serve.store.audit import audited
from serve.store.link import SEND_TIMEOUT_MS, CassandraLink, bounded_kafka
from serve.store.protocol import AuditEntry, ConsentState, ErasureState


class CassandraPrivacy:
    """The methods of serve.store.protocol.Store about consents and erasures."""

    def __init__(self, link: CassandraLink, settings: Settings):
        self._link = link
        self._privacy_settings = bounded_kafka(settings, SEND_TIMEOUT_MS)

    async def consents(self, user_id: str) -> ConsentState:
        return await self._link.in_thread(lambda session: self._consents(session, user_id))

    async def change_consent(
        self, user_id: str, change: ConsentChange, audit: AuditEntry
    ) -> ConsentState:
        # Only writes need Kafka, and the packages that its records need.
        from liveprofile.kafka.records import send_all
        from liveprofile.wire.user_records import CONTENT_TYPE

        settings = self._privacy_settings

        def send(records: Sequence[consent_store.Record]) -> None:
            send_all(
                settings, settings.topics.consents, ((*each, CONTENT_TYPE) for each in records)
            )

        def write(session: Session) -> ConsentState:
            with audited(session, audit, settings.serve.audit_ttl_s) as entry:
                consent_store.apply_changes(
                    session,
                    [(user_id, change)],
                    send,
                    ttl_s=consent_store.ttl_s(settings.topics.decisions_retention_ms),
                    in_flight=settings.cassandra.in_flight,
                )
                entry.after = change._asdict()
            return self._consents(session, user_id)

        return await self._link.in_thread(write)

    async def erasure(self, user_id: str) -> ErasureState | None:
        def read(session: Session) -> ErasureState | None:
            found = read_deletions(session, [user_id]).get(user_id)
            return None if found is None else self._erasure(found)

        return await self._link.in_thread(read)

    async def request_erasure(
        self, user_id: str, before_ms: int, audit: AuditEntry
    ) -> ErasureState:
        from liveprofile.kafka.records import send_all
        from liveprofile.privacy.erasure_records import to_record
        from liveprofile.wire.user_records import CONTENT_TYPE, key_of

        settings = self._privacy_settings
        record = (key_of(user_id), to_record(user_id, before_ms), CONTENT_TYPE)
        keep_s = consent_store.ttl_s(settings.topics.decisions_retention_ms)

        def write(session: Session) -> ErasureState:
            known = read_deletions(session, [user_id]).get(user_id)
            if known is not None and known.before_ms >= before_ms:
                return self._erasure(known)  # repeated, or covered by a later one
            with audited(session, audit, settings.serve.audit_ttl_s) as entry:
                send_all(settings, settings.topics.erasures, [record])
                requested = Deletion(before_ms, before_ms, REQUESTED)
                write_deletion(session, user_id, requested, keep_s)
                entry.after = {"before_ms": before_ms}
            return self._erasure(requested)

        return await self._link.in_thread(write)

    def _consents(self, session: Session, user_id: str) -> ConsentState:
        changes = consent_store.read_changes(session, [user_id])[user_id]
        return ConsentState(changes, self._privacy_settings.consent.defaults)

    def _erasure(self, known: Deletion) -> ErasureState:
        places = place_statuses(known.before_ms, known, self._privacy_settings, now_ms())
        return ErasureState(known.before_ms, is_done(known, known.before_ms), list(places))
