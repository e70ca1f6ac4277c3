"""What audits have found, in the table audit_result."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import orjson
from cassandra.cluster import Session

from liveprofile.rows.operations import AUDIT_RESULT
from liveprofile.storage.cql import execute, from_ms, read, to_ms

MAX_RESULTS = 10_000  # hourly audits of the 400 days that the table keeps


class AuditResult(NamedTuple):
    """counts: as `liveprofile events audit` prints them.

    next_offsets: by partition, where the next audit with `--new` starts. Only clean audits with
    `--new` have them.
    """

    ended_ms: int
    ok: bool
    counts: Mapping[str, int]
    next_offsets: Mapping[int, int] | None = None


def store_result(session: Session, topic: str, result: AuditResult, ttl_s: int) -> None:
    """topic: the input topic. Raises ServiceError."""
    counts = orjson.dumps(result.counts).decode()
    execute(
        session,
        AUDIT_RESULT.insert(ttl_s, time=str(result.ended_ms * 1_000), mark="%s"),
        (topic, from_ms(result.ended_ms), result.ok, counts, result.next_offsets),
    )


def read_results(session: Session, topic: str, limit: int) -> Iterator[AuditResult]:
    """The newest first. Raises ServiceError."""
    query = "SELECT ended, ok, counts, next_offsets FROM audit_result WHERE topic = %s LIMIT %s"
    for row in read(session, query, (topic, limit)):
        following = row.next_offsets and dict(row.next_offsets)
        yield AuditResult(to_ms(row.ended), row.ok, orjson.loads(row.counts), following)


def last_noted(session: Session, topic: str) -> AuditResult | None:
    """The newest result with `next_offsets`; None: there is none. Raises ServiceError."""
    found = read_results(session, topic, MAX_RESULTS)
    return next((each for each in found if each.next_offsets), None)
