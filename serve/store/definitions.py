"""Rules and segments in their Kafka topics, read and changed in threads.

Both use the functions of `liveprofile risk rules` and `liveprofile segments`.
"""

from __future__ import annotations

from collections.abc import Sequence

from cassandra.cluster import Session

from liveprofile.errors import ServiceError
from liveprofile.rules.definitions import Definition, DefinitionsError
from liveprofile.settings import Settings
from serve.definitions import KINDS, DefinitionKind
from serve.store.audit import audited
from serve.store.link import CassandraLink, bounded_kafka
from serve.store.protocol import AuditEntry
from udfs.definition_changes import (
    Applied,
    InForce,
    apply_definitions,
    read_in_force,
)

# A request makes a few connections in turn; the first transaction of a cluster takes seconds.
KAFKA_TIMEOUT_MS = 4_000


def read_kind_in_force(settings: Settings, kind: DefinitionKind) -> InForce:
    """The rules or segments that jobs use. Raises ServiceError."""
    of = KINDS[kind]
    try:
        return read_in_force(
            settings, of.topic_name(settings), of.read_topic, of.file(settings), of.read_file
        )
    except DefinitionsError as error:  # of the file in the settings
        raise ServiceError(str(error)) from None


class CassandraDefinitions:
    """The methods of serve.store.protocol.Store about rules and segments."""

    def __init__(self, link: CassandraLink, settings: Settings):
        self._link = link
        self._definition_settings = bounded_kafka(settings, KAFKA_TIMEOUT_MS)

    async def definitions(self, kind: DefinitionKind) -> InForce:
        settings = self._definition_settings
        return await self._link.in_thread(lambda session: read_kind_in_force(settings, kind))

    async def put_definitions(
        self,
        kind: DefinitionKind,
        definitions: Sequence[Definition],
        expected_tag: str | None,
        audit: AuditEntry | None,
    ) -> Applied:
        def write(session: Session) -> Applied:
            if audit is None:
                return self._apply(kind, definitions, "", True, expected_tag)
            with audited(session, audit, self._definition_settings.serve.audit_ttl_s) as entry:
                applied = self._apply(kind, definitions, audit.name, False, expected_tag)
                entry.before, entry.after = applied.audit()
                return applied

        return await self._link.in_thread(write)

    def _apply(
        self,
        kind: DefinitionKind,
        definitions: Sequence[Definition],
        by: str,
        dry_run: bool,
        expected_tag: str | None,
    ) -> Applied:
        of = KINDS[kind]
        return apply_definitions(
            self._definition_settings,
            of.topic_name(self._definition_settings),
            of.read_topic,
            definitions,
            by=by,
            dry_run=dry_run,
            expected_tag=expected_tag,
        )
