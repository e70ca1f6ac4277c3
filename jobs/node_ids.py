"""The ids of the plan's nodes with state, and of those that are counted, the same in each release.

Flink finds the state of an operator by the id and the type of its node. The planner numbers nodes
one by one, so that a new step without state would change the ids of all nodes after it. Ids below
57 are those of version 0.1.0. The id of a node that is removed is never used again.

A job over an archive (`--bootstrap`) has other ids for its sources of events. So the job that
continues from its savepoint restores all state but the offsets of the archive's topic. The source
of labels reads the same topic in both jobs and keeps its id.
"""

from __future__ import annotations

from jobs.compiled_plan import NodeId
from liveprofile.flink.job_report import FIRST_PARTS, SCORING_INPUT

_OVER = "stream-exec-over-aggregate"
_SCAN = "stream-exec-table-source-scan"
_SINK = "stream-exec-sink"
# The planner names computed keys by their position, such as $10.
PARTITION_CLOCK = "partitionBy=[$"
WINDOW_COUNT = "partitionBy=[user_id, $"
MEMORY = "select=[user_id, window_time, $2, LISTAGG($2"
LAST_COUNT = "partitionBy=[user_id], orderBy=[arrival ASC], window=[ ROWS BETWEEN UNBOUNDED"

NODE_IDS = (
    NodeId(1, _SCAN, "default_database, source"),
    NodeId(57, _OVER, PARTITION_CLOCK),
    NodeId(8, "stream-exec-deduplicate"),
    NodeId(58, _OVER, WINDOW_COUNT),
    NodeId(12, "stream-exec-local-window-aggregate"),
    NodeId(14, "stream-exec-global-window-aggregate"),
    NodeId(17, _OVER, "MAX(last_purchase_ms)"),
    NodeId(20, _OVER, "LAG(this_window"),
    NodeId(61, _OVER, MEMORY),
    NodeId(62, "stream-exec-interval-join", "windowBounds=[isRowTime=true"),
    NodeId(63, "stream-exec-window-join"),
    NodeId(26, _SINK, "default_database.sink]"),
    NodeId(27, _SCAN, "default_database, label_source"),
    NodeId(30, _SCAN, "default_database, scoring_source"),
    NodeId(37, _OVER, "LISTAGG(user_token"),
    NodeId(FIRST_PARTS, "stream-exec-calc", "CONCAT('h', head"),
    NodeId(43, _OVER, "LISTAGG(entity_token"),
    NodeId(47, _OVER, "partitionBy=[event_key]"),
    NodeId(SCORING_INPUT, _OVER, LAST_COUNT),
    NodeId(56, _SINK, "default_database.scoring_sink]"),
)

_BOOTSTRAP_SOURCES = {1: 59, 30: 60}
BOOTSTRAP_SOURCE_IDS = frozenset(_BOOTSTRAP_SOURCES.values())
BOOTSTRAP_NODE_IDS = tuple(
    known._replace(id=_BOOTSTRAP_SOURCES.get(known.id, known.id)) for known in NODE_IDS
)
