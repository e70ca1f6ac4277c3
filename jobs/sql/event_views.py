"""The SQL views from records to valid events, one function for each view, from top to bottom.

    timed -> clocked -> prefiltered -> parsed -> validated -> behaviour_events
    validated -> rejected

In a job that follows merges (`merges.enabled`), `identified` is between `validated` and the events.

Both pipelines parse and validate with them (jobs/sql/profile_views.py, jobs/sql/scoring_views.py).
Each docstring ends with the columns of the view.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pyflink.table import TableEnvironment

from jobs.sql import expressions as sql
from liveprofile.settings import Settings, WindowSettings
from liveprofile.wire.tokens import EVENT_TYPES, id_sql

RECORD = "record_topic, record_partition, record_offset"
# What `clocked` and `timed` know of a record. Only a stream has these views.
STREAM_COLUMNS = "partition_clock_ms, original"
NO_STREAM_COLUMNS = "CAST(NULL AS BIGINT) AS partition_clock_ms, CAST(NULL AS STRING) AS original"
# What views pass on of a record besides its payload.
RECORD_COLUMNS = f"event_clock, arrival, record_time, {STREAM_COLUMNS}, {RECORD}"
# The planner merges a view into the next one and repeats an expression wherever it is mentioned:
# merged into `validated`, the fields of `parsed` would be parsed up to seven times. It does not
# merge a view with a random column that is mentioned twice. The condition is always true.
OPTIMIZER_FENCE = "fence >= 0 AND POWER(fence, 2) < 2"
IS_EVENT = "reason IS NULL AND event_type <> 'heartbeat'"
NO_FIELDS: Mapping[str, str] = MappingProxyType({})


def register_functions(t_env: TableEnvironment) -> None:
    """Registers the functions of jobs/java.

    They are written in Java because Flink has no Python aggregate for OVER and no Python process
    table function (FLINK-40251).
    """
    t_env.create_java_temporary_system_function("LAST_JOINED", "liveprofile.LastJoined")


def create_view(t_env: TableEnvironment, name: str, query: str) -> None:
    """Creates a temporary view that keeps the planned query.

    CREATE VIEW keeps the text, which the planner parses again for each view and sink above it.
    """
    t_env.create_temporary_view(name, t_env.sql_query(query))


def timed(source: str, settings: Settings) -> str:
    """Parses the time of a record once, for its partition's clock and for later views.

    It truncates a payload that is too large: exchanges would copy it several times. A character
    more than the limit is left, for `validated`.

    payload, original (of a truncated payload: its bytes and SHA-256 digest, see `original_sql`),
    event_clock (rowtime), arrival, record_*
    """
    is_long = f"CHAR_LENGTH(payload) > {settings.limits.payload_chars}"
    return f"""
        SELECT CASE WHEN {is_long} THEN LEFT(payload, {settings.limits.payload_chars + 1})
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

    The fence keeps the planner from computing `head` of `prefiltered` before the exchange, which
    would then carry most of the payload twice.

    The columns of `timed`, and partition_clock_ms BIGINT
    """
    clock_ms = f"LEAST({sql.epoch_ms('event_clock')}, {sql.epoch_ms('record_time')})"
    partition_key = partition_key_sql("record_partition")
    over = "OVER (PARTITION BY partition_key ORDER BY arrival ROWS UNBOUNDED PRECEDING)"
    return f"""
        SELECT payload, original, event_clock, arrival, record_time, {RECORD},
            MAX(clock_ms) {over} AS partition_clock_ms, RAND() AS fence
        FROM (SELECT *, {clock_ms} AS clock_ms, {partition_key} AS partition_key
              FROM timed WHERE {OPTIMIZER_FENCE})"""


def prefiltered(
    source: str, condition: str = "TRUE", stream_columns: str = NO_STREAM_COLUMNS
) -> str:
    """Computes once what later views need of a payload.

    `condition`: which records pass. `stream_columns`: STREAM_COLUMNS if `source` has them.

    payload, escaped BOOLEAN, head (see jobs/sql/expressions.py), event_clock (rowtime), arrival,
    partition_clock_ms, original, record_*
    """
    return f"""
        SELECT payload, {sql.escaped()} AS escaped, {sql.head()} AS head,
            event_clock, arrival, record_time, {stream_columns}, {RECORD}, RAND() AS fence
        FROM {source} WHERE {condition}"""


def parsed(source: str = "prefiltered", more_fields: Mapping[str, str] = NO_FIELDS) -> str:
    """Parses every field that the SQL reads, each once, as text; NULL if missing.

    `more_fields`: further columns and their JSON paths.

    payload, complex BOOLEAN (see `expressions.is_complex`), event_clock, arrival,
    partition_clock_ms, original, record_*, event_id, user_id, event_type, item_id, category_id,
    price_text, quantity_text, amount_text, rating_text, place_*_text, `more_fields`
    """
    ids = ", ".join(
        f"{sql.field_text(f)} AS {f}"
        for f in ("event_id", "user_id", "event_type", "item_id", "category_id")
    )
    numbers = ", ".join(f"{sql.number_text(f)} AS {sql.column(f)}" for f in sql.NUMBERS)
    others = "".join(f", {sql.path_text(path)} AS {name}" for name, path in more_fields.items())
    return f"""
        SELECT payload, {sql.is_complex()} AS complex, {RECORD_COLUMNS}, {ids},
            {numbers}{others}, RAND() AS fence
        FROM {source} WHERE {OPTIMIZER_FENCE}"""


def validated(
    settings: Settings, source: str = "parsed", more_fields: Mapping[str, str] = NO_FIELDS
) -> str:
    """Validates a record by sections 1 and 2 of docs/data-contract.md.

    The columns of `parsed`, and `reason`: why the record is rejected, or NULL.
    """
    limits = settings.limits
    types = ", ".join(f"'{name}'" for name in EVENT_TYPES)
    no_id = " OR ".join(f"{f} IS NULL OR {f} = ''" for f in ("event_id", "user_id"))
    not_ids = " OR ".join(_is_boolean_or_fraction(f) for f in ("event_id", "user_id"))
    bad_id = " OR ".join(_is_bad_id(f) for f in ("event_id", "user_id"))
    return f"""
        SELECT {", ".join((_parsed_columns(), *more_fields))}, CASE
            WHEN CHAR_LENGTH(payload) > {limits.payload_chars} THEN 'TOO_LARGE'
            WHEN complex AND (ENCODE(payload, 'UTF-8') <> CAST(payload AS BYTES)
              OR ((payload LIKE '%\\ud%' OR payload LIKE '%\\uD%')
                  AND REGEXP(payload, {sql.literal(sql.LONE_SURROGATE)}))) THEN 'BAD_ENCODING'
            WHEN ((event_type IS NULL OR event_id IS NULL)
                  AND COALESCE(payload IS NOT JSON OBJECT, TRUE))
              OR (complex AND {_has_text_after_object()}) THEN 'NOT_JSON'
            WHEN event_type IS NULL OR event_type = ''
              OR (event_type <> 'heartbeat' AND ({no_id} OR {not_ids}))
              OR (event_clock < {sql.EARLIEST} AND {_has_no_time()}) THEN 'MISSING_FIELD'
            WHEN event_type <> 'heartbeat' AND ({bad_id}) THEN 'BAD_ID'
            WHEN event_type NOT IN ({types}, 'heartbeat') THEN 'UNKNOWN_TYPE'
            WHEN event_clock < {sql.EARLIEST} THEN {sql.time_reason(limits.max_clock_skew_ms)}
            WHEN event_type <> 'heartbeat' AND {sql.first_bad_number()} IS NOT NULL
              THEN 'BAD_NUMBER'
            END AS reason
        FROM {source} WHERE {OPTIMIZER_FENCE}"""


def _parsed_columns() -> str:
    """The columns of `parsed` without its fence."""
    numbers = ", ".join(sql.column(field) for field in sql.NUMBERS)
    return (
        f"payload, complex, {RECORD_COLUMNS}, event_id, user_id, event_type, item_id, category_id,"
        f" {numbers}"
    )


def _has_text_after_object() -> str:
    """Java's parser ignores what follows the object.

    Wrapped in a list and in an object, such text breaks at least one of the two. Only white space
    fits in both.
    """
    in_list = "CONCAT('[', payload, ']') IS JSON ARRAY"
    in_object = """CONCAT('{"":', payload, '}') IS JSON OBJECT"""
    return f"NOT COALESCE({in_list} AND {in_object}, FALSE)"


def _is_boolean_or_fraction(field: str, path: str = "") -> str:
    """TRUE if an id is a JSON boolean or fraction, which JSON_VALUE returns as text.

    `path`: where the field was read, if not at the top level.
    """
    in_a_list = f"JSON_QUERY(payload, '{path or f'$.{field}'}' WITH UNCONDITIONAL ARRAY WRAPPER)"
    exponent = "[eE][+-]?[0-9]+"
    scalar = f"^(true|false|-?[0-9]+(\\.[0-9]+({exponent})?|{exponent}))$"
    # The first character of most ids decides.
    return (
        f"(({field} < ':' OR {field} LIKE 't%' OR {field} LIKE 'f%')"
        f" AND REGEXP({field}, '{scalar}') AND {in_a_list} NOT LIKE '[\"%')"
    )


def _is_bad_id(field: str) -> str:
    return f"CHAR_LENGTH({field}) > 256 OR (complex AND REGEXP({field}, '[\\x00-\\x1f]'))"


def _has_no_time() -> str:
    return f"COALESCE({sql.json_value('$.event_time')}, '') = ''"


def rejected() -> str:
    """Rejected records for behavior-events-rejected.

    payload, original, reason, detail, record_*
    """
    return f"""
        SELECT payload, original, reason, CASE reason
            WHEN 'MISSING_FIELD' THEN CASE
                WHEN event_type IS DISTINCT FROM 'heartbeat'
                  AND (COALESCE(event_id, '') = '' OR {_is_boolean_or_fraction("event_id")})
                  THEN 'event_id'
                WHEN event_type IS DISTINCT FROM 'heartbeat'
                  AND (COALESCE(user_id, '') = '' OR {_is_boolean_or_fraction("user_id")})
                  THEN 'user_id'
                WHEN COALESCE(event_type, '') = '' THEN 'event_type'
                ELSE 'event_time' END
            WHEN 'BAD_ID' THEN
                CASE WHEN {_is_bad_id("event_id")} THEN 'event_id' ELSE 'user_id' END
            WHEN 'UNKNOWN_TYPE' THEN LEFT(event_type, 64)
            WHEN 'BAD_TIME' THEN LEFT({sql.json_value("$.event_time")}, 64)
            WHEN 'FUTURE_TIME' THEN LEFT({sql.json_value("$.event_time")}, 64)
            WHEN 'BAD_NUMBER' THEN {sql.first_bad_number()}
            ELSE '' END AS detail, {RECORD}
        FROM validated WHERE reason IS NOT NULL"""


def identified(source: str = "validated", more_fields: Mapping[str, str] = NO_FIELDS) -> str:
    """Valid events whose user is the person that `person_id` (udfs/identity) finds.

    Only a job that follows merges has this view. The payload keeps the user's own id.

    The columns of `validated`
    """
    columns = ", ".join((_parsed_columns(), *more_fields)).replace(" user_id,", "")
    return f"""
        SELECT {columns}, reason, person_id(user_id, {sql.epoch_ms("event_clock")}) AS user_id
        FROM {source} WHERE {IS_EVENT}"""


def behaviour_events(settings: Settings, source: str = "validated") -> str:
    """Valid events with typed columns, without heartbeats.

    payload, event_clock, arrival, partition_clock_ms, record_*, event_id, user_id, event_type,
    item_id, category_id (as tokens contain them, '' if unknown), amount DOUBLE, and with staggered
    windows also user_window_end TIMESTAMP(3)
    """
    ids = ", ".join(f"{token_id(f)} AS {f}" for f in ("item_id", "category_id"))
    staggered = (
        f", {window_end(settings.window)} AS user_window_end" if settings.window.stagger_ms else ""
    )
    return f"""
        SELECT payload, event_clock, arrival, partition_clock_ms, {RECORD}, event_id, user_id,
            event_type, {ids}, {amount()} AS amount{staggered}
        FROM {source} WHERE {IS_EVENT}"""


def window_end(window: WindowSettings) -> str:
    """The end of the window of a row of `validated`, as liveprofile.events.window_times does."""
    time = sql.epoch_ms("event_clock")
    into = f"MOD({time} - {sql.shift_ms('user_id', window)}, {window.length_ms})"
    return f"CAST(TO_TIMESTAMP_LTZ({time} - {into} + {window.length_ms}, 3) AS TIMESTAMP(3))"


def amount() -> str:
    """The amount of a row of `validated`, as liveprofile.wire.payload.amount does."""
    given, price, quantity = map(sql.as_double, ("amount", "price", "quantity"))
    return f"COALESCE({given}, {price} * COALESCE({quantity}, 1), 0)"


def token_id(field: str, path: str = "") -> str:
    """An id as tokens contain it.

    `path`: where the field was read, if not at the top level.
    """
    return id_sql(field, is_not_id=_is_boolean_or_fraction(field, path), is_complex="complex")


# Keys that spread the partitions of a topic evenly over the tasks of an operator. Flink assigns a
# key to a task by a hash, and few keys, such as the numbers of four partitions, often share one.
# These keys fall into key groups that lie far apart, in the order of the van der Corput sequence.
# Position = partition. With Flink's default of 128 key groups, the key at position p falls into
# the group whose number is p with its seven bits reversed. A key never changes: it is in the state.
PARTITION_KEYS = (
    *(35, 46, 198, 74, 331, 80, 12, 3, 68, 17, 172, 323, 18, 101, 15, 173),
    *(7, 154, 116, 235, 36, 63, 130, 62, 96, 109, 88, 31, 333, 19, 273, 98),
    *(54, 100, 247, 32, 162, 49, 45, 110, 128, 119, 131, 6, 47, 71, 64, 171),
    *(97, 107, 13, 0, 4, 328, 190, 155, 104, 27, 60, 9, 102, 1, 24, 52),
    *(41, 34, 207, 228, 424, 94, 386, 186, 28, 164, 281, 140, 23, 174, 29, 568),
    *(84, 42, 123, 82, 246, 194, 11, 139, 69, 16, 50, 26, 10, 2, 91, 115),
    *(460, 138, 81, 61, 5, 163, 304, 20, 59, 44, 286, 345, 33, 126, 8, 244),
    *(57, 73, 92, 86, 38, 87, 53, 79, 99, 133, 540, 43, 200, 14, 85, 77),
)
_NEXT_KEY = 1_000  # above all keys: the distance between two partitions at the same position


def partition_key_sql(partition: str) -> str:
    """SQL, INT: the key of a partition. Different partitions have different keys."""
    keys = ", ".join(map(str, PARTITION_KEYS))
    n = len(PARTITION_KEYS)
    return f"(ARRAY[{keys}][MOD({partition}, {n}) + 1] + {_NEXT_KEY} * ({partition} / {n}))"
