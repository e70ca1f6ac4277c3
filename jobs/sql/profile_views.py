"""The SQL views of the profile pipeline, one function for each view, from top to bottom.

    timed -> clocked -> prefiltered -> parsed -> validated -> behaviour_events -> deduplicated
    -> on_time -> counted -> encoded -> user_windows -> window_contributions -> with_baselines
    -> model_input
    validated -> rejected, deduplicated -> late, counted -> too_many

The stream (jobs/profile_job.py) and the backfill (jobs/backfill_job.py) use the same views. Only
the clock of a partition and the split of late events need a stream: a batch has no watermark. Each
docstring ends with the columns of the view.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from jobs.sql import expressions as sql
from jobs.sql.partition_keys import partition_key_sql
from liveprofile.config import LimitSettings, Settings, WindowSettings
from liveprofile.features import baselines
from liveprofile.wire import token_columns, window_events
from liveprofile.wire.tokens import EVENT_TYPES, id_sql, token_sql, type_letter_sql

RECORD = "record_topic, record_partition, record_offset"
# What views pass on of a record besides its payload.
RECORD_TIMES = f"event_clock, arrival, record_time, partition_clock_ms, {RECORD}"
# The planner merges a view into the next one and repeats an expression wherever it is mentioned:
# merged into `validated`, the fields of `parsed` would be parsed up to seven times. It does not
# merge a view with a random column that is mentioned twice. The condition is always true.
OPTIMIZER_FENCE = "fence >= 0 AND POWER(fence, 2) < 2"
NO_FIELDS: Mapping[str, str] = MappingProxyType({})


def timed(source: str) -> str:
    """Parses the time of a record once, for its partition's clock and for later views.

    payload, event_clock (rowtime), arrival, record_*
    """
    return f"""
        SELECT payload, event_clock, arrival, record_time, {RECORD}, RAND() AS fence
        FROM {source}"""


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
        SELECT payload, event_clock, arrival, record_time, {RECORD},
            MAX(clock_ms) {over} AS partition_clock_ms
        FROM (SELECT *, {clock_ms} AS clock_ms, {partition_key} AS partition_key
              FROM timed WHERE {OPTIMIZER_FENCE})"""


def prefiltered(
    source: str, condition: str = "TRUE", partition_clock_ms: str = "CAST(NULL AS BIGINT)"
) -> str:
    """Computes once what later views need of a payload.

    `condition`: which records pass. `partition_clock_ms`: for the split of late events.

    payload, escaped BOOLEAN, head (see jobs/sql/expressions.py), event_clock (rowtime), arrival,
    partition_clock_ms, record_*
    """
    return f"""
        SELECT payload, {sql.escaped()} AS escaped, {sql.head()} AS head,
            event_clock, arrival, record_time, {partition_clock_ms} AS partition_clock_ms,
            {RECORD}, RAND() AS fence
        FROM {source} WHERE {condition}"""


def parsed(source: str = "prefiltered", more_fields: Mapping[str, str] = NO_FIELDS) -> str:
    """Parses every field that the SQL reads, each once, as text; NULL if missing.

    `more_fields`: further columns and their JSON paths.

    payload, plain BOOLEAN, event_clock, arrival, partition_clock_ms, record_*, event_id, user_id,
    event_type, item_id, category_id, price_text, quantity_text, amount_text, rating_text,
    place_*_text, `more_fields`
    """
    ids = ", ".join(
        f"{sql.field_text(f)} AS {f}"
        for f in ("event_id", "user_id", "event_type", "item_id", "category_id")
    )
    numbers = ", ".join(f"{sql.number_text(f)} AS {sql.column(f)}" for f in sql.NUMBERS)
    others = "".join(f", {sql.path_text(path)} AS {name}" for name, path in more_fields.items())
    return f"""
        SELECT payload, {sql.plain()} AS plain, {RECORD_TIMES}, {ids},
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
            WHEN NOT plain AND (ENCODE(payload, 'UTF-8') <> CAST(payload AS BYTES)
              OR ((payload LIKE '%\\ud%' OR payload LIKE '%\\uD%')
                  AND REGEXP(payload, {sql.literal(sql.LONE_SURROGATE)}))) THEN 'BAD_ENCODING'
            WHEN ((event_type IS NULL OR event_id IS NULL)
                  AND COALESCE(payload IS NOT JSON OBJECT, TRUE))
              OR (NOT plain AND {_has_text_after_object()}) THEN 'NOT_JSON'
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
        f"payload, plain, {RECORD_TIMES}, event_id, user_id, event_type, item_id, category_id,"
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
    return f"CHAR_LENGTH({field}) > 256 OR (NOT plain AND REGEXP({field}, '[\\x00-\\x1f]'))"


def _has_no_time() -> str:
    return f"COALESCE({sql.json_value('$.event_time')}, '') = ''"


def rejected() -> str:
    """Rejected records for behavior-events-rejected.

    payload, reason, detail, record_*
    """
    return f"""
        SELECT payload, reason, CASE reason
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


def behaviour_events(settings: Settings) -> str:
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
        FROM validated WHERE reason IS NULL AND event_type <> 'heartbeat'"""


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
    return id_sql(field, is_not_id=_is_boolean_or_fraction(field, path))


def deduplicated() -> str:
    """The first record of each event_id. The columns of `behaviour_events`."""
    return """
        SELECT * FROM (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY event_id ORDER BY arrival) AS copy
            FROM behaviour_events)
        WHERE copy = 1"""


def _closed_ms(settings: Settings) -> str:
    """The time up to which windows are closed, in ms."""
    # The watermark matters if it ignores idle partitions. It is NULL before the first one.
    watermark = f"COALESCE({sql.epoch_ms('CURRENT_WATERMARK(event_clock)')}, 0)"
    behind_ms = settings.window.out_of_orderness_ms
    return f"GREATEST({watermark}, partition_clock_ms - {behind_ms})"


def _last_ms(window: WindowSettings) -> str:
    """The last millisecond of an event's window."""
    if window.stagger_ms:
        return f"({sql.epoch_ms('user_window_end')} - 1)"
    time = sql.epoch_ms("event_clock")
    return f"({time} - MOD({time}, {window.length_ms}) + {window.length_ms - 1})"


def _is_late(settings: Settings) -> str:
    """TRUE if the last millisecond of the event's window is closed."""
    return f"{_last_ms(settings.window)} <= {_closed_ms(settings)}"


def late(settings: Settings) -> str:
    """Late events for behavior-events-late.

    payload, user_id, lateness_ms, record_*
    """
    lateness = f"{_closed_ms(settings)} - {sql.epoch_ms('event_clock')}"
    return f"""
        SELECT payload, user_id, {lateness} AS lateness_ms, {RECORD}
        FROM deduplicated WHERE {_is_late(settings)}"""


def on_time(settings: Settings) -> str:
    """Events that are not late. The columns of `deduplicated`.

    The window's watermark is never ahead of the clock of a partition that is not idle, less the
    out-of-orderness, nor of this task's watermark. So the window drops none.
    """
    return f"SELECT * FROM deduplicated WHERE NOT ({_is_late(settings)})"


def counted(settings: Settings) -> str:
    """Counts the events of each user and window, so that no row grows without limit.

    The columns of `on_time`, window_events BIGINT and window_chars BIGINT: up to this event, in
    order of arrival
    """
    over = "OVER (PARTITION BY user_id, last_ms ORDER BY arrival ROWS UNBOUNDED PRECEDING)"
    return f"""
        SELECT *, COUNT(*) {over} AS window_events, SUM(payload_chars) {over} AS window_chars
        FROM (SELECT *, {_last_ms(settings.window)} AS last_ms,
                CAST(CHAR_LENGTH(payload) AS BIGINT) AS payload_chars
              FROM on_time)"""


def _fits(limits: LimitSettings) -> str:
    """TRUE if the window of a row of `counted` takes the event."""
    return f"window_events <= {limits.window_events} AND window_chars <= {limits.window_chars}"


def too_many(settings: Settings) -> str:
    """Events that their window does not take, for behavior-events-rejected.

    payload, reason, detail, record_*
    """
    limits = settings.limits
    return f"""
        SELECT payload, 'TOO_MANY' AS reason, CASE
            WHEN window_events > {limits.window_events} THEN 'events' ELSE 'characters' END
            AS detail, {RECORD}
        FROM counted WHERE NOT ({_fits(limits)})"""


def encoded(settings: Settings) -> str:
    """What a window collects of each event that it takes.

    event_clock, user_id, event (liveprofile.wire.window_events), token (liveprofile.wire.tokens),
    activity (a letter for the hour and a digit for the weekday), purchase 0/1, purchase_amount,
    purchase_ms, and with staggered windows user_window_end
    """
    ms = f"CAST({sql.epoch_ms('event_clock')} AS STRING)"
    event = window_events.event_sql(
        ms, "CAST(record_partition AS STRING)", "CAST(record_offset AS STRING)", "payload"
    )
    token = token_sql(ms, type_letter_sql(), "item_id", "category_id", "CAST(amount AS STRING)")
    hour = f"SUBSTRING('{baselines.HOUR_LETTERS}', CAST(HOUR(event_clock) AS INT) + 1, 1)"
    weekday = "CAST(EXTRACT(ISODOW FROM event_clock) AS STRING)"
    is_purchase = "event_type = 'purchase'"
    staggered = ", user_window_end" if settings.window.stagger_ms else ""
    return f"""
        SELECT event_clock, user_id, {event} AS event, {token} AS token,
            CONCAT({hour}, {weekday}) AS activity,
            CASE WHEN {is_purchase} THEN 1.0E0 ELSE 0.0E0 END AS purchase,
            CASE WHEN {is_purchase} THEN amount ELSE 0.0E0 END AS purchase_amount,
            CASE WHEN {is_purchase} THEN {sql.epoch_ms("event_clock")} END AS purchase_ms{staggered}
        FROM counted WHERE {_fits(settings.limits)}"""


def user_windows(settings: Settings) -> str:
    """One row for each user and window.

    user_id, window_start, window_end, window_time (rowtime), events, tokens, activity, n_events,
    n_purchases, amount, last_purchase_ms
    """
    return f"""
        SELECT user_id, window_start, window_end, window_time,
            {window_events.events_sql("event")} AS events,
            {token_columns.tokens_sql("token")} AS tokens,
            COALESCE(LISTAGG(activity, ''), '') AS activity,
            CAST(COUNT(*) AS DOUBLE) AS n_events, COALESCE(SUM(purchase), 0) AS n_purchases,
            COALESCE(SUM(purchase_amount), 0) AS amount, MAX(purchase_ms) AS last_purchase_ms
        FROM {_window_table(settings.window)}
        GROUP BY user_id, window_start, window_end, window_time"""


def _window_table(window: WindowSettings) -> str:
    """The rows of `encoded` with the user's window.

    With staggered windows HOP assigns each event to all windows that contain it, and the condition
    keeps the user's own.
    """
    length, step = sql.interval(window.length_ms), sql.interval(window.stagger_ms)
    if not window.stagger_ms:
        return f"TABLE(TUMBLE(TABLE encoded, DESCRIPTOR(event_clock), {length}))"
    windows = f"TABLE(HOP(TABLE encoded, DESCRIPTOR(event_clock), {step}, {length}))"
    return f"(SELECT * FROM {windows} WHERE window_end = user_window_end)"


def window_contributions(settings: Settings) -> str:
    """The window and what it adds to each baseline.

    user_id, window_*, events, last_purchase_ms, tokens, c_<baseline> for each baseline
    """
    adds = ", ".join(f"{add} AS c_{name}" for name, add in baselines.contributions_sql())
    weight = baselines.decay_weight_sql("window_end", settings.state.decay_days)
    return f"""
        SELECT user_id, window_start, window_end, window_time, events, last_purchase_ms,
            {token_columns.last_tokens_sql("tokens")} AS tokens,
            {adds}
        FROM (SELECT *, {weight} AS weight,
                CASE WHEN n_purchases > 0 THEN 1.0E0 ELSE 0.0E0 END AS has_purchase
              FROM user_windows)"""


def with_baselines() -> str:
    """The window with the user's baselines up to and including it.

    user_id, window_*, events, tokens, last_purchase_ms, added, sums (both ARRAY<DOUBLE> with the
    layout of liveprofile.features.baselines.COLUMNS)
    """
    over = "OVER (PARTITION BY user_id ORDER BY window_time RANGE UNBOUNDED PRECEDING)"
    sums = ", ".join(f"SUM(c_{name}) {over} AS s_{name}" for name in baselines.COLUMNS)
    added = ", ".join(f"c_{name}" for name in baselines.COLUMNS)
    totals = ", ".join(f"s_{name}" for name in baselines.COLUMNS)
    return f"""
        SELECT user_id, window_start, window_end, window_time, events, tokens, last_purchase_ms,
            ARRAY[{added}] AS added, ARRAY[{totals}] AS sums
        FROM (SELECT user_id, window_start, window_end, window_time, events, tokens, {added},
                MAX(last_purchase_ms) {over} AS last_purchase_ms, {sums}
              FROM window_contributions)"""


def model_input(settings: Settings) -> str:
    """The window with all that is known of its user: the input of the model and a training row.

    LAG, because an OVER window of K rows would keep those rows whole, payloads included.

    user_id STRING, window_start, window_end TIMESTAMP(3), events STRING
    (liveprofile.wire.window_events), history STRING (liveprofile.wire.token_columns), added, sums
    ARRAY<DOUBLE>
    """
    window = token_columns.window_sql("last_purchase_ms", "tokens")
    over = "OVER (PARTITION BY user_id ORDER BY window_time)"
    earlier = (f"LAG(this_window, {k}) {over}" for k in range(settings.window.history, 0, -1))
    return f"""
        SELECT user_id, window_start, window_end, events, added, sums,
            {token_columns.history_sql(*earlier, "this_window")} AS history
        FROM (SELECT *, {window} AS this_window FROM with_baselines)"""


def create(t_env, source: str, settings: Settings, *, streaming: bool) -> None:
    """Registers the views over a source table (jobs/sql/tables.py), in the order of the path."""
    if streaming:
        views = {
            "timed": timed(source),
            "clocked": clocked(),
            "prefiltered": prefiltered("clocked", partition_clock_ms="partition_clock_ms"),
        }
    else:
        views = {"prefiltered": prefiltered(source)}
    views |= {
        "parsed": parsed(),
        "validated": validated(settings),
        "rejected": rejected(),
        "behaviour_events": behaviour_events(settings),
        "deduplicated": deduplicated(),
        "on_time": on_time(settings) if streaming else "SELECT * FROM deduplicated",
        "counted": counted(settings),
        "too_many": too_many(settings),
        "encoded": encoded(settings),
        "user_windows": user_windows(settings),
        "window_contributions": window_contributions(settings),
        "with_baselines": with_baselines(),
        "model_input": model_input(settings),
    }
    if streaming:
        views["late"] = late(settings)
    for name, query in views.items():
        t_env.execute_sql(f"CREATE TEMPORARY VIEW {name} AS {query}")
