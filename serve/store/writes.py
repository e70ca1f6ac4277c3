"""The writes of the API, in threads: each is several requests in turn and rare.

They use the functions of the command line. A write that takes longer than the deadline of its
request may still be done; repeating it is safe.
"""

from __future__ import annotations

from typing import Any

from cassandra.cluster import Session

from liveprofile.alerts.cases import case_store, states
from liveprofile.alerts.cases import snooze as snoozes
from liveprofile.alerts.cases.flags import find_flag
from liveprofile.alerts.cases.snooze import Snooze
from liveprofile.alerts.cases.states import AlertState, StoredAlertState
from liveprofile.settings import Settings
from liveprofile.storage.queries import StoredFlag
from serve.store.audit import OpenEntry, audited, read_trail
from serve.store.link import SEND_TIMEOUT_MS, CassandraLink, bounded_kafka
from serve.store.protocol import AuditEntry, LabelName


class CassandraWrites:
    """The methods of serve.store.protocol.Store that write, and the audit trail."""

    def __init__(self, link: CassandraLink, settings: Settings):
        self._link = link
        self._settings = bounded_kafka(settings, SEND_TIMEOUT_MS)

    async def set_state(
        self, flag_id: str, state: AlertState, by: str, note: str, audit: AuditEntry
    ) -> StoredAlertState:
        def write(session: Session) -> StoredAlertState:
            flag = find_flag(session, flag_id)
            with self._audited(session, audit) as entry:
                return self._transition(session, flag, state, by, note, entry)

        return await self._link.in_thread(write)

    async def label(
        self, flag_id: str, label: LabelName, by: str, note: str, audit: AuditEntry
    ) -> tuple[StoredAlertState, int]:
        # Only this needs Kafka, and the packages that the topic's records need.
        from liveprofile.labels import feedback

        def write(session: Session) -> tuple[StoredAlertState, int]:
            flag = find_flag(session, flag_id)
            with self._audited(session, audit) as entry:
                state = feedback.STATE_OF_LABEL[label]
                stored = self._transition(session, flag, state, by, note, entry)
                if not flag.event_id:
                    return stored, 0
                record = feedback.label_of_flag(session, flag, stored)
                return stored, feedback.send_labels(self._settings, [record])

        return await self._link.in_thread(write)

    async def snooze(
        self, user_id: str, rule_id: str, until_ms: int, by: str, note: str, audit: AuditEntry
    ) -> Snooze:
        def write(session: Session) -> Snooze:
            with self._audited(session, audit) as entry:
                entry.before = _snooze_of(session, user_id, rule_id)
                stored = snoozes.snooze(session, user_id, rule_id, until_ms, by, note)
                entry.after = stored._asdict()
                return stored

        return await self._link.in_thread(write)

    async def end_snooze(self, user_id: str, rule_id: str, audit: AuditEntry) -> None:
        def write(session: Session) -> None:
            with self._audited(session, audit) as entry:
                entry.before = _snooze_of(session, user_id, rule_id)
                snoozes.end_snooze(session, user_id, rule_id)

        await self._link.in_thread(write)

    async def audit_trail(self, day_ms: int, limit: int) -> list[AuditEntry]:
        return await self._link.in_thread(lambda session: read_trail(session, day_ms, limit))

    def _audited(self, session: Session, audit: AuditEntry) -> Any:
        return audited(session, audit, self._settings.serve.audit_ttl_s)

    def _transition(
        self,
        session: Session,
        flag: StoredFlag,
        state: AlertState,
        by: str,
        note: str,
        entry: OpenEntry,
    ) -> StoredAlertState:
        """Stores the state, and closes the case if all its flags are resolved."""
        entry.before = states.read_state(session, flag.flag_id)._asdict()
        ttl_s = self._settings.cassandra.flag_ttl_s
        stored = states.transition(session, flag, state, by, note, ttl_s=ttl_s)
        entry.after = stored._asdict()
        if state in case_store.RESOLVED_STATES:
            ttl_s = self._settings.cassandra.case_ttl_s
            case_store.close_if_resolved(session, flag.user_id, flag.rule_id, by, ttl_s=ttl_s)
        return stored


def _snooze_of(session: Session, user_id: str, rule_id: str) -> dict[str, Any] | None:
    found = [each for each in snoozes.read_snoozes(session, user_id) if each.rule_id == rule_id]
    return found[0]._asdict() if found else None
