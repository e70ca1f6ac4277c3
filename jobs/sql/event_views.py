"""The SQL views from records to valid events, one function for each view, from top to bottom.

    timed -> clocked -> parsed -> behaviour_events
    parsed -> rejected

In a job that follows merges (`merges.enabled`), `identified` is between `parsed` and the events.

Both pipelines parse and validate with them (jobs/sql/profile_views.py, jobs/sql/scoring_views.py).
Each docstring ends with the columns of the view.
"""

from collections.abc import Mapping, Sequence

from pyflink.table import TableEnvironment

from jobs.sql import expressions as sql
from liveprofile.attributes.computed import ComputedAttribute, attribute_tokens_sql
from liveprofile.attributes.event_types import EventTypes, event_types
from liveprofile.settings import Settings, WindowSettings
from liveprofile.wire.tokens import type_letter_sql

RECORD = "record_topic, record_partition, record_offset"
# What `clocked` and `timed` know of a record. Only a stream has these views.
STREAM_COLUMNS = "partition_clock_ms, original"
NO_STREAM_COLUMNS = "CAST(NULL AS BIGINT) AS partition_clock_ms, CAST(NULL AS STRING) AS original"
# What views pass on of a record besides its payload.
RECORD_COLUMNS = f"event_clock, arrival, record_time, partition_clock_ms, original, {RECORD}"
# What PARSE_EVENT returns of an event besides the user.
_FIELDS = (
    "event_id, event_type, item_id, category_id, device_id, coupon_id, shop_id, address_id, amount,"
    " quantity, rating, lat, lon, event_ms, event_name, properties"
)
# The planner merges a view into the next one and repeats an expression wherever it is mentioned:
# the time of a record would be parsed several times. It does not merge a view with a random column
# that is mentioned twice. The condition is always true.
_OPTIMIZER_FENCE = "fence >= 0 AND POWER(fence, 2) < 2"
HEARTBEAT = "heartbeat"
IS_EVENT = f"reason IS NULL AND event_type <> '{HEARTBEAT}'"


def register_functions(t_env: TableEnvironment) -> None:
    """Registers the functions of jobs/java.

    They are written in Java because Flink has no Python aggregate for OVER and no Python process
    table function (FLINK-40251), and Python would cross the JVM's border for each record.
    """
    for name, of_class in (
        ("LAST_JOINED", "LastJoined"),
        ("PARSE_EVENT", "ParseEvent"),
        ("EVENT_TIME", "EventTime"),
        ("TILES", "Tiles"),
    ):
        t_env.create_java_temporary_system_function(name, f"liveprofile.{of_class}")


def create_views(t_env: TableEnvironment, queries: Mapping[str, str]) -> None:
    """Creates temporary views that keep the planned queries.

    CREATE VIEW keeps the text, which the planner parses again for each view and sink above it.
    """
    for name, query in queries.items():
        t_env.create_temporary_view(name, t_env.sql_query(query))


def timed(source: str, settings: Settings) -> str:
    """Parses the time of a record once, for its partition's clock and for later views.

    It truncates a payload that is too large: exchanges would copy it several times. A character
    more than the limit is left, for `parsed`.

    payload, original (of a truncated payload: its bytes and SHA-256 digest, see `original_sql`),
    event_clock (rowtime), arrival, record_*
    """
    is_long = f"CHAR_LENGTH(payload) > {settings.limits.max_payload_chars}"
    return f"""
        SELECT CASE WHEN {is_long} THEN LEFT(payload, {settings.limits.max_payload_chars + 1})
                ELSE payload END AS payload,
            CASE WHEN {is_long} THEN {original_sql()} END AS original,
            event_clock, arrival, record_time, {RECORD}, RAND() AS fence
        FROM {source}"""


def original_sql() -> str:
    """What the headers of a truncated payload tell of the original: "BYTES SHA256"."""
    # Each byte is one character in ISO-8859-1.
    size = "CHAR_LENGTH(DECODE(CAST(payload AS BYTES), 'ISO-8859-1'))"
    return f"CONCAT(CAST({size} AS STRING), ' ', SHA256(payload))"


def clocked() -> str:
    """Adds the clock of the partition: the largest time of its records up to this one.

    It counts the records that the watermark counts. Unlike the watermark it is part of the state.
    So after a restore it is never behind the watermark that the windows restore, and which events
    are late does not depend on how fast the partitions are read.

    The columns of `timed`, and partition_clock_ms BIGINT
    """
    clock_ms = f"LEAST({sql.epoch_ms('event_clock')}, {sql.epoch_ms('record_time')})"
    partition_key = partition_key_sql("record_partition")
    over = "OVER (PARTITION BY partition_key ORDER BY arrival ROWS UNBOUNDED PRECEDING)"
    return f"""
        SELECT payload, original, event_clock, arrival, record_time, {RECORD},
            MAX(clock_ms) {over} AS partition_clock_ms
        FROM (SELECT *, {clock_ms} AS clock_ms, {partition_key} AS partition_key
              FROM timed WHERE {_OPTIMIZER_FENCE})"""


def parsed(
    settings: Settings,
    source: str,
    condition: str = "TRUE",
    stream_columns: str = NO_STREAM_COLUMNS,
) -> str:
    """Parses and validates a record by sections 1 and 2 of docs/data-contract.md, in one pass.

    `condition`: which records pass. `stream_columns`: STREAM_COLUMNS if `source` has them.

    payload, event_clock (rowtime), arrival, partition_clock_ms, original, record_*, reason (why the
    record is rejected, or NULL), detail, and of a valid event event_id, user_id, event_type,
    item_id, category_id, device_id, coupon_id, shop_id, address_id (as tokens contain them, '' if
    unknown), amount DOUBLE (0 if unknown), quantity, rating, lat and lon DOUBLE (NULL if unknown),
    event_ms BIGINT, event_name (its declared type, of which event_type is the role), properties MAP
    """
    limits, declared = settings.limits, event_types(settings).text
    return f"""
        SELECT payload, event_clock, arrival, record_time, {stream_columns}, {RECORD}, reason,
            detail, user_id, {_FIELDS}
        FROM (SELECT * FROM {source} WHERE {condition}) CROSS JOIN LATERAL TABLE(PARSE_EVENT(
            payload, {sql.epoch_ms("record_time")}, '{declared}', '{HEARTBEAT}',
            {limits.max_payload_chars}, CAST({limits.max_clock_skew_ms} AS BIGINT)))"""


def rejected() -> str:
    """Rejected records for behavior-events-rejected.

    payload, original, reason, detail, record_*
    """
    return (
        f"SELECT payload, original, reason, detail, {RECORD} FROM parsed WHERE reason IS NOT NULL"
    )


def identified(source: str = "parsed") -> str:
    """Valid events whose user is the person that `person_id` (udfs/person_id.py) finds.

    Only a job that follows merges has this view. The payload keeps the user's own id.

    The columns of `parsed` without `detail`
    """
    return f"""
        SELECT payload, {RECORD_COLUMNS}, {_FIELDS}, reason,
            person_id(user_id, {sql.epoch_ms("event_clock")}) AS user_id
        FROM {source} WHERE {IS_EVENT}"""


def behaviour_events(
    settings: Settings,
    attributes: Sequence[ComputedAttribute],
    types: EventTypes,
    source: str = "parsed",
) -> str:
    """Valid events without heartbeats.

    payload, event_clock, arrival, partition_clock_ms, record_*, event_id, user_id, letter (of the
    type: liveprofile.wire.tokens), item_id, category_id, amount, attribute_tokens
    (liveprofile.wire.attribute_tiles), and with staggered windows also user_window_end TIMESTAMP(3)
    """
    tokens = attribute_tokens_sql(attributes, types.fields, "event_ms")
    staggered = (
        f", {window_end(settings.window)} AS user_window_end" if settings.window.stagger_ms else ""
    )
    return f"""
        SELECT payload, event_clock, arrival, partition_clock_ms, {RECORD}, event_id, user_id,
            {type_letter_sql()} AS letter, item_id, category_id, amount,
            {tokens} AS attribute_tokens{staggered}
        FROM {source} WHERE {IS_EVENT}"""


def window_end(window: WindowSettings) -> str:
    """The end of the window of a row of `parsed`, as liveprofile.events.window_times does."""
    time = sql.epoch_ms("event_clock")
    into = f"MOD({time} - {sql.shift_ms('user_id', window)}, {window.length_ms})"
    return f"CAST(TO_TIMESTAMP_LTZ({time} - {into} + {window.length_ms}, 3) AS TIMESTAMP(3))"


# Keys that spread the partitions of a topic evenly over the tasks of an operator. Flink assigns a
# key to a task by a hash, and few keys, such as the numbers of four partitions, often share one.
# These keys fall into key groups that lie far apart, in the order of the van der Corput sequence.
# Position = partition. With Flink's default of 128 key groups, the key at position p falls into
# the group whose number is p with its seven bits reversed. A key never changes: it is in the state.
# fmt: off
PARTITION_KEYS = (
    35, 46, 198, 74, 331, 80, 12, 3, 68, 17, 172, 323, 18, 101, 15, 173,
    7, 154, 116, 235, 36, 63, 130, 62, 96, 109, 88, 31, 333, 19, 273, 98,
    54, 100, 247, 32, 162, 49, 45, 110, 128, 119, 131, 6, 47, 71, 64, 171,
    97, 107, 13, 0, 4, 328, 190, 155, 104, 27, 60, 9, 102, 1, 24, 52,
    41, 34, 207, 228, 424, 94, 386, 186, 28, 164, 281, 140, 23, 174, 29, 568,
    84, 42, 123, 82, 246, 194, 11, 139, 69, 16, 50, 26, 10, 2, 91, 115,
    460, 138, 81, 61, 5, 163, 304, 20, 59, 44, 286, 345, 33, 126, 8, 244,
    57, 73, 92, 86, 38, 87, 53, 79, 99, 133, 540, 43, 200, 14, 85, 77,
)
# fmt: on
_NEXT_KEY = 1_000  # above all keys: the distance between two partitions at the same position


def partition_key_sql(partition: str) -> str:
    """SQL, INT: the key of a partition. Different partitions have different keys."""
    keys = ", ".join(map(str, PARTITION_KEYS))
    n = len(PARTITION_KEYS)
    return f"(ARRAY[{keys}][MOD({partition}, {n}) + 1] + {_NEXT_KEY} * ({partition} / {n}))"
