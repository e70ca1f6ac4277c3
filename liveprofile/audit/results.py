"""What audits have found, in the table audit_result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import orjson
from cassandra.cluster import Session

from liveprofile.rows.operations import AUDIT_RESULT
from liveprofile.storage.cql import execute, from_ms, read, to_ms


class AuditResult(NamedTuple):
    """counts: as `liveprofile events audit` prints them."""

    ended_ms: int
    ok: bool
    counts: Mapping[str, int]


def store_result(session: Session, topic: str, result: AuditResult, ttl_s: int) -> None:
    """topic: the input topic. Raises ServiceError."""
    execute(
        session,
        AUDIT_RESULT.insert(ttl_s, time=str(result.ended_ms * 1_000), mark="%s"),
        (topic, from_ms(result.ended_ms), result.ok, orjson.dumps(result.counts).decode()),
    )


def read_results(session: Session, topic: str, limit: int) -> list[AuditResult]:
    """The newest first. Raises ServiceError."""
    query = "SELECT ended, ok, counts FROM audit_result WHERE topic = %s LIMIT %s"
    return [
        AuditResult(to_ms(row.ended), row.ok, orjson.loads(row.counts))
        for row in read(session, query, (topic, limit))
    ]
