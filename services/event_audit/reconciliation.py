"""Classifies input records: used, duplicate, late, corrected, rejected, erased, heartbeat or lost.

In SQL on the rows of services.event_audit.rows. It does not use the job's own counters. The rules
are in docs/data-contract.md, section 3.
"""

from collections import Counter
from dataclasses import dataclass

from liveprofile.disk_tables import DiskTables
from services.event_audit.rows import EVENT, HEARTBEAT, OFFSET_BITS


@dataclass(frozen=True)
class Reconciliation:
    """Counts of records. The eight after `in_topic` add up to it."""

    in_topic: int = 0
    heartbeats: int = 0
    used: int = 0
    duplicate: int = 0
    late: int = 0
    corrected: int = 0  # late, and used by a correction
    rejected: int = 0
    erased: int = 0  # no trace is left: the user was erased after the record's window had begun
    unaccounted: int = 0
    open_windows: int = 0  # unaccounted records of windows that have not closed yet
    used_twice: int = 0  # digests stored more than once
    unknown: int = 0  # stored digests without a record
    late_and_used: int = 0  # in the late topic and stored as used, without an earlier used copy
    expired: int = 0  # records that retention has removed from the topic
    archive: bool = False  # the state was built from an archive (`liveprofile events bootstrap`)
    of_range: bool = False  # the topic grows after the range, which may close its open windows

    @property
    def unexplained(self) -> int:
        """Stored digests without a record; 0 if expired records or an archive explain them."""
        return 0 if self.expired or self.archive else self.unknown

    @property
    def lost(self) -> int:
        """Unaccounted records that are an error."""
        return self.unaccounted - (self.open_windows if self.of_range else 0)

    @property
    def ok(self) -> bool:
        """Whether every record has exactly one class and no event is wrongly used."""
        return not (self.lost or self.used_twice or self.unexplained or self.late_and_used)


# Input rows, each with what became of it in the rejected and the late topic.
TRACED = """
    SELECT input.*, coalesce(rejected, FALSE) AS rejected, coalesce(claimed, FALSE) AS claimed,
        coalesce(late, FALSE) AS late
    FROM input LEFT JOIN (
        SELECT position, bool_or(outcome <> 'late') AS rejected,
            bool_or(outcome = 'claimed') AS claimed, bool_or(outcome = 'late') AS late
        FROM outcomes GROUP BY position) USING (position)"""
# A key of user and event. Among 2 million pairs, two share a key with a probability of 1 in 10
# million.
_PAIR = 'xor(key, "user") AS pair'
_NEVER = 2**63 - 1
# Stored events by pair, without those of an alias that a correction has stored for the person, too:
# the rows of the alias are deleted after that.
_FOUND = f"""
    CREATE OR REPLACE TEMP TABLE found AS
    SELECT pair, count(*) AS copies, bool_or(proven) AS proven, bool_or(corrected) AS corrected
    FROM (SELECT *, bool_or(corrected AND NOT alias) OVER (PARTITION BY pair) AS moved
        FROM (SELECT *, {_PAIR} FROM stored WHERE key BETWEEN {{first}} AND {{last}}))
    WHERE NOT (alias AND moved) GROUP BY pair"""


def _has_earlier(first: str, last: str) -> str:
    """SQL: a copy between these positions came before the row.

    In another partition offsets do not give the order of arrival: any copy there counts.
    """
    other = f"{last} >> {OFFSET_BITS} <> position >> {OFFSET_BITS}"
    return f"coalesce({first} < position OR {other}, FALSE)"


# The job uses the first record of a user and event in order of offset. Rows before the range came
# before rows in it, in whatever partition. A late row before the first one on time was used if a
# correction has stored it, and copies of it that came later are duplicates.
_CLASSIFIED = f"""
    CREATE OR REPLACE TEMP TABLE part AS
    WITH flagged AS (
        SELECT *, {_PAIR}, position + (in_range::BIGINT << 62) AS place,
            kind = {EVENT} AND NOT rejected AS is_event, late AND NOT rejected AS is_late,
            kind = {EVENT} AND rejected AND claimed AS is_claimed
        FROM ({TRACED}) WHERE key BETWEEN {{first}} AND {{last}}
    ), paired AS (
        SELECT flagged.*, copies IS NOT NULL AS is_stored, corrected IS TRUE AS is_in_corrected,
            coalesce(min(place) FILTER (is_event AND NOT is_late OR is_claimed) OVER of_pair,
                {_NEVER}) AS first_place,
            coalesce(min(place) FILTER (is_event AND is_late) OVER of_pair,
                {_NEVER}) AS first_late_place
        FROM flagged LEFT JOIN found USING (pair)
        WINDOW of_pair AS (PARTITION BY flagged.pair)
    ), used AS (
        SELECT *,
            is_stored AND NOT (is_in_corrected AND first_late_place < first_place) AS is_usable,
            is_usable AND place = first_place AS is_used
        FROM paired
    ), compared AS (
        SELECT *, is_used OR is_late OR is_claimed AS is_kept,
            min(position) FILTER (is_kept) OVER of_event AS first_kept,
            max(position) FILTER (is_kept) OVER of_event AS last_kept
        FROM used WINDOW of_event AS (PARTITION BY key)
    )
    SELECT key, pair, position, time_ms, end_ms, in_range,
        is_event AND is_late AS is_late_event, CASE
            WHEN is_used THEN 'used'
            WHEN rejected THEN 'rejected'
            WHEN is_late AND is_event AND is_in_corrected AND place < first_place THEN 'corrected'
            WHEN is_late THEN 'late'
            WHEN kind = {HEARTBEAT} THEN 'heartbeats'
            WHEN is_event AND {_has_earlier("first_kept", "last_kept")} THEN 'duplicate'
            WHEN is_event AND erased THEN 'erased'
            ELSE 'unaccounted' END AS class,
        -- A copy that arrives after `state.dedup_ttl` is correctly late.
        is_late_event AND class = 'late' AND is_stored AND NOT (is_usable AND first_place < place)
            AS is_late_and_used
    FROM compared"""
# The fate of a lost copy with another time is that of the first.
_LOST = f"""
    INSERT INTO lost
    SELECT position, time_ms,
        is_open OR {_has_earlier("first_open", "last_open")} AS is_open
    FROM (SELECT *, end_ms > {{watermark_ms}} + 1 AS is_open,
            min(position) FILTER (is_open) OVER of_event AS first_open,
            max(position) FILTER (is_open) OVER of_event AS last_open
        FROM part WHERE class = 'unaccounted' WINDOW of_event AS (PARTITION BY key))
    WHERE in_range"""
_COUNTS = """
    SELECT class, count(*) FROM part WHERE in_range GROUP BY class
    UNION ALL SELECT 'in_topic', count(*) FROM part WHERE in_range
    UNION ALL SELECT 'late_and_used', count(*) FROM part
        WHERE is_late_and_used AND in_range AND end_ms >= {first_end_ms}"""
_STORED_COUNTS = """
    SELECT coalesce(sum(copies - 1) FILTER (here AND NOT elsewhere OR is_unknown), 0)::BIGINT,
        count(*) FILTER (is_unknown)
    FROM (SELECT copies, here IS TRUE AS here, elsewhere IS TRUE AS elsewhere,
            proven AND traces.pair IS NULL AS is_unknown
        FROM found LEFT JOIN (
            SELECT pair, bool_or(in_range) AS here,
                bool_or(class = 'used' AND NOT in_range) AS elsewhere
            FROM part WHERE class = 'used' OR is_late_event GROUP BY pair) traces USING (pair))"""


def reconcile(
    tables: DiskTables, keys: tuple[int, int], watermark_ms: int, first_end_ms: int
) -> Counter[str]:
    """Counts the input rows in the range with these keys by class, as Reconciliation names them.

    tables: input and stored have all rows of each key, outcomes those of each position. The
    unaccounted rows are added to the table lost, with whether their window is still open.
    watermark_ms: after the last record; NO_TIME if no window has closed. first_end_ms: all records
    of windows that end at this time or later have been read.
    """
    values = {"first": keys[0], "last": keys[1], "watermark_ms": watermark_ms}
    values["first_end_ms"] = first_end_ms
    for statement in (_FOUND, _CLASSIFIED, _LOST):
        tables.query(statement.format(**values))
    counts = Counter(dict(tables.query(_COUNTS.format(**values))))
    counts["used_twice"], counts["unknown"] = tables.query(_STORED_COUNTS)[0]
    return counts
