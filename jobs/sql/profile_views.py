"""The event path as SQL views, one function a step, top to bottom.

The stream (jobs/profile_job.py), the backfill and with it the training rows (jobs/backfill_job.py)
are made of these same views; only the late split needs a stream, since a batch has no watermark.
Each docstring gives the row that the step yields.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from jobs.sql import expressions as sql
from liveprofile.config import Settings, WindowSettings
from liveprofile.features import baselines
from liveprofile.wire.tokens import (
    EVENT,
    EVENT_TYPES,
    FIELD,
    HEADER,
    ID_CHARS,
    TOKEN_CHARS_PER_WINDOW,
    WINDOW,
)

RECORD = "record_topic, record_partition, record_offset"
# The planner folds a step into the next and writes an expression wherever it is mentioned: folded
# into `checked`, the fields of `extracted` would be parsed up to seven times. It does not fold a
# step with a random column that is mentioned twice. Always true.
BARRIER = "barrier >= 0 AND POWER(barrier, 2) < 2"
NOTHING_MORE: Mapping[str, str] = MappingProxyType({})


def scanned(source: str, only: str = "TRUE") -> str:
    """What a glance at the payload saves the steps behind it.

    only: a condition on the records that go on

    payload, escaped BOOLEAN, head (see jobs/sql/expressions.py), event_clock (rowtime), arrival,
    record_*
    """
    return f"""
        SELECT payload, {sql.escaped()} AS escaped, {sql.head()} AS head,
            event_clock, arrival, record_time, {RECORD}, RAND() AS barrier
        FROM {source} WHERE {only}"""


def extracted(source: str = "scanned", more: Mapping[str, str] = NOTHING_MORE) -> str:
    """Every field that the SQL reads, as text, NULL if missing; each parsed once.

    more: further columns and their JSON paths

    payload, plain BOOLEAN, event_clock, arrival, record_*, event_id, user_id, event_type, item_id,
    category_id, price_text, quantity_text, amount_text, rating_text, place_*_text, those of `more`
    """
    ids = ", ".join(
        f"{sql.field_text(f)} AS {f}"
        for f in ("event_id", "user_id", "event_type", "item_id", "category_id")
    )
    numbers = ", ".join(f"{sql.number_text(f)} AS {sql.column(f)}" for f in sql.NUMBERS)
    others = "".join(f", {sql.path_text(path)} AS {name}" for name, path in more.items())
    return f"""
        SELECT payload, {sql.plain()} AS plain, event_clock, arrival, record_time, {RECORD}, {ids},
            {numbers}{others}, RAND() AS barrier
        FROM {source} WHERE {BARRIER}"""


def checked(
    settings: Settings, source: str = "extracted", more: Mapping[str, str] = NOTHING_MORE
) -> str:
    """The row of `extracted` and `reason`: NULL, or why the record is rejected."""
    limits = settings.limits
    types = ", ".join(f"'{name}'" for name in EVENT_TYPES)
    no_id = " OR ".join(f"{f} IS NULL OR {f} = ''" for f in ("event_id", "user_id"))
    not_ids = " OR ".join(_no_id_but_a_scalar(f) for f in ("event_id", "user_id"))
    bad_id = " OR ".join(_bad_id(f) for f in ("event_id", "user_id"))
    return f"""
        SELECT {", ".join((_columns(), *more))}, CASE
            WHEN CHAR_LENGTH(payload) > {limits.payload_chars} THEN 'TOO_LARGE'
            WHEN NOT plain AND (ENCODE(payload, 'UTF-8') <> CAST(payload AS BYTES)
              OR ((payload LIKE '%\\ud%' OR payload LIKE '%\\uD%')
                  AND REGEXP(payload, {sql.literal(sql.LONE_SURROGATE)}))) THEN 'BAD_ENCODING'
            WHEN ((event_type IS NULL OR event_id IS NULL)
                  AND COALESCE(payload IS NOT JSON OBJECT, TRUE))
              OR (NOT plain AND {_text_behind()}) THEN 'NOT_JSON'
            WHEN event_type IS NULL OR event_type = ''
              OR (event_type <> 'heartbeat' AND ({no_id} OR {not_ids}))
              OR (event_clock < {sql.EARLIEST} AND {_no_time()}) THEN 'MISSING_FIELD'
            WHEN event_type <> 'heartbeat' AND ({bad_id}) THEN 'BAD_ID'
            WHEN event_type NOT IN ({types}, 'heartbeat') THEN 'UNKNOWN_TYPE'
            WHEN event_clock < {sql.EARLIEST} THEN {sql.time_reason(limits.max_clock_skew_ms)}
            WHEN event_type <> 'heartbeat' AND {sql.first_bad_number()} IS NOT NULL
              THEN 'BAD_NUMBER'
            END AS reason
        FROM {source} WHERE {BARRIER}"""


def _columns() -> str:
    """Those of `extracted`, but for its barrier."""
    numbers = ", ".join(sql.column(field) for field in sql.NUMBERS)
    return (
        f"payload, plain, event_clock, arrival, record_time, {RECORD}, event_id, user_id,"
        f" event_type, item_id, category_id, {numbers}"
    )


def _text_behind() -> str:
    """Java's parser does not look behind the object. What stands there breaks the list or the
    object that the payload is wrapped in here: nothing but white space fits both."""
    in_list = "CONCAT('[', payload, ']') IS JSON ARRAY"
    in_object = """CONCAT('{"":', payload, '}') IS JSON OBJECT"""
    return f"NOT COALESCE({in_list} AND {in_object}, FALSE)"


def _no_id_but_a_scalar(field: str, path: str = "") -> str:
    """True of a JSON boolean or fraction, which JSON_VALUE gives as text like any string.

    path: where the field was read, if not at the top
    """
    in_a_list = f"JSON_QUERY(payload, '{path or f'$.{field}'}' WITH UNCONDITIONAL ARRAY WRAPPER)"
    exponent = "[eE][+-]?[0-9]+"
    scalar = f"^(true|false|-?[0-9]+(\\.[0-9]+({exponent})?|{exponent}))$"
    # The first character of most ids says enough.
    return (
        f"(({field} < ':' OR {field} LIKE 't%' OR {field} LIKE 'f%')"
        f" AND REGEXP({field}, '{scalar}') AND {in_a_list} NOT LIKE '[\"%')"
    )


def _bad_id(field: str) -> str:
    return f"CHAR_LENGTH({field}) > 256 OR (NOT plain AND REGEXP({field}, '[\\x00-\\x1f]'))"


def _no_time() -> str:
    return f"COALESCE({sql.json_value('$.event_time')}, '') = ''"


def rejected() -> str:
    """For behavior-events-rejected: payload, reason, detail, record_*"""
    return f"""
        SELECT payload, reason, CASE reason
            WHEN 'MISSING_FIELD' THEN CASE
                WHEN event_type IS DISTINCT FROM 'heartbeat'
                  AND (COALESCE(event_id, '') = '' OR {_no_id_but_a_scalar("event_id")})
                  THEN 'event_id'
                WHEN event_type IS DISTINCT FROM 'heartbeat'
                  AND (COALESCE(user_id, '') = '' OR {_no_id_but_a_scalar("user_id")})
                  THEN 'user_id'
                WHEN COALESCE(event_type, '') = '' THEN 'event_type'
                ELSE 'event_time' END
            WHEN 'BAD_ID' THEN CASE WHEN {_bad_id("event_id")} THEN 'event_id' ELSE 'user_id' END
            WHEN 'UNKNOWN_TYPE' THEN LEFT(event_type, 64)
            WHEN 'BAD_TIME' THEN LEFT({sql.json_value("$.event_time")}, 64)
            WHEN 'FUTURE_TIME' THEN LEFT({sql.json_value("$.event_time")}, 64)
            WHEN 'BAD_NUMBER' THEN {sql.first_bad_number()}
            ELSE '' END AS detail, {RECORD}
        FROM checked WHERE reason IS NOT NULL"""


def valid(settings: Settings) -> str:
    """A behaviour that passed the checks, typed.

    payload, event_clock, arrival, record_*, event_id, user_id, event_type, item_id, category_id
    (as tokens have them, '' if unknown), amount DOUBLE, and if windows are staggered ends
    TIMESTAMP(3)
    """
    ids = ", ".join(f"{token_id(f)} AS {f}" for f in ("item_id", "category_id"))
    staggered = f", {ends(settings.window)} AS ends" if settings.window.stagger_ms else ""
    return f"""
        SELECT payload, event_clock, arrival, {RECORD}, event_id, user_id, event_type, {ids},
            {amount()} AS amount{staggered}
        FROM checked WHERE reason IS NULL AND event_type <> 'heartbeat'"""


def ends(window: WindowSettings) -> str:
    """When the window of a row of `checked` ends, as liveprofile.events.window_times has it."""
    time = sql.epoch_ms("event_clock")
    into = f"MOD({time} - {sql.shift_ms('user_id', window)}, {window.length_ms})"
    return f"CAST(TO_TIMESTAMP_LTZ({time} - {into} + {window.length_ms}, 3) AS TIMESTAMP(3))"


def amount() -> str:
    """Of a row of `checked`: as liveprofile.wire.tokens.amount has it."""
    given, price, quantity = (
        f"TRY_CAST({sql.column(f)} AS DOUBLE)" for f in ("amount", "price", "quantity")
    )
    return f"COALESCE({given}, {price} * COALESCE({quantity}, 1), 0)"


def token_id(field: str, path: str = "") -> str:
    """As liveprofile.wire.tokens.token has it. Only an escape can hide a separator in an id.

    path: where the field was read, if not at the top
    """
    separators = f"TRANSLATE({field}, '{FIELD}{EVENT}{WINDOW}', '___')"
    return (
        f"CASE WHEN {field} IS NULL OR {_no_id_but_a_scalar(field, path)} THEN ''"
        f" ELSE LEFT(CASE WHEN plain THEN {field} ELSE {separators} END, {ID_CHARS}) END"
    )


def unique() -> str:
    """The row of `valid`, the first of each event_id to arrive."""
    return """
        SELECT * FROM (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY event_id ORDER BY arrival) AS copy FROM valid)
        WHERE copy = 1"""


def _is_late(settings: Settings) -> str:
    """Its window has closed: the watermark has reached the window's last millisecond."""
    if settings.window.stagger_ms:
        last_ms = f"({sql.epoch_ms('ends')} - 1)"
    else:
        length, time = settings.window.length_ms, sql.epoch_ms("event_clock")
        last_ms = f"({time} - MOD({time}, {length}) + {length - 1})"
    # NULL before the first watermark.
    return f"{last_ms} <= COALESCE({sql.epoch_ms('CURRENT_WATERMARK(event_clock)')}, 0)"


def late(settings: Settings) -> str:
    """For behavior-events-late: payload, user_id, lateness_ms, record_*"""
    lateness = f"{sql.epoch_ms('CURRENT_WATERMARK(event_clock)')} - {sql.epoch_ms('event_clock')}"
    return f"""
        SELECT payload, user_id, {lateness} AS lateness_ms, {RECORD}
        FROM unique_events WHERE {_is_late(settings)}"""


def on_time(settings: Settings) -> str:
    """The row of `unique`. Its subtask's watermark is never behind the window's, so no row that
    passes is dropped by the window."""
    return f"SELECT * FROM unique_events WHERE NOT ({_is_late(settings)})"


def packed(settings: Settings) -> str:
    """What a window collects of an event.

    event_clock, user_id, packed (time, partition, offset, payload), token (see liveprofile.wire.tokens.Token),
    activity (a letter for its hour, a digit for its weekday), purchase 0/1, purchase_amount,
    purchase_ms, and if windows are staggered ends
    """
    ms = f"CAST({sql.epoch_ms('event_clock')} AS STRING)"
    hour = f"SUBSTRING('{baselines.HOUR_LETTERS}', CAST(HOUR(event_clock) AS INT) + 1, 1)"
    weekday = "CAST(EXTRACT(ISODOW FROM event_clock) AS STRING)"
    is_purchase = "event_type = 'purchase'"
    staggered = ", ends" if settings.window.stagger_ms else ""
    return f"""
        SELECT event_clock, user_id,
            CONCAT_WS('{FIELD}', {ms}, CAST(record_partition AS STRING),
                CAST(record_offset AS STRING), payload) AS packed,
            CONCAT_WS('{FIELD}', {ms}, {sql.type_letter()}, item_id, category_id,
                CAST(amount AS STRING)) AS token,
            CONCAT({hour}, {weekday}) AS activity,
            CASE WHEN {is_purchase} THEN 1.0E0 ELSE 0.0E0 END AS purchase,
            CASE WHEN {is_purchase} THEN amount ELSE 0.0E0 END AS purchase_amount,
            CASE WHEN {is_purchase} THEN {sql.epoch_ms("event_clock")} END AS purchase_ms{staggered}
        FROM on_time"""


def windows(settings: Settings) -> str:
    """One user's window.

    user_id, window_start, window_end, window_time (rowtime), events (packed), tokens, activity,
    n_events, n_purchases, amount, last_purchase_ms

    ARRAY_AGG of what is long: LISTAGG copies all it has for each event more.
    """
    return f"""
        SELECT user_id, window_start, window_end, window_time,
            ARRAY_JOIN(ARRAY_AGG(packed), '{EVENT}') AS events,
            LISTAGG(token, '{EVENT}') AS tokens,
            COALESCE(LISTAGG(activity, ''), '') AS activity,
            CAST(COUNT(*) AS DOUBLE) AS n_events, COALESCE(SUM(purchase), 0) AS n_purchases,
            COALESCE(SUM(purchase_amount), 0) AS amount, MAX(purchase_ms) AS last_purchase_ms
        FROM {_in_windows(settings.window)}
        GROUP BY user_id, window_start, window_end, window_time"""


def _in_windows(window: WindowSettings) -> str:
    """Rows of `packed` with the user's window. Staggered, the windows of all users overlap: an
    event gets each that it lies in, and keeps the one that is its user's."""
    length, step = sql.interval(window.length_ms), sql.interval(window.stagger_ms)
    if not window.stagger_ms:
        return f"TABLE(TUMBLE(TABLE packed, DESCRIPTOR(event_clock), {length}))"
    windows = f"TABLE(HOP(TABLE packed, DESCRIPTOR(event_clock), {step}, {length}))"
    return f"(SELECT * FROM {windows} WHERE window_end = ends)"


def contributed(settings: Settings) -> str:
    """The window and what it adds to each baseline: columns of `windows`, c_<baseline>."""
    adds = ", ".join(f"{add} AS c_{name}" for name, add in baselines.contributions())
    tail = f"RIGHT(tokens, {TOKEN_CHARS_PER_WINDOW})"
    weight = baselines.weight("window_end", settings.state.decay_days)
    return f"""
        SELECT user_id, window_start, window_end, window_time, events, last_purchase_ms,
            CASE WHEN CHAR_LENGTH(tokens) < {TOKEN_CHARS_PER_WINDOW} THEN tokens
                ELSE SUBSTRING({tail}, LOCATE('{EVENT}', {tail}) + 1) END AS tokens,
            {adds}
        FROM (SELECT *, {weight} AS weight,
                CASE WHEN n_purchases > 0 THEN 1.0E0 ELSE 0.0E0 END AS has_purchase
              FROM user_windows)"""


def baselined() -> str:
    """The window with the user's baselines up to and including it.

    user_id, window_*, events, tokens, last_purchase_ms, added, sums (ARRAY<DOUBLE>, the layout of
    liveprofile.features.baselines.COLUMNS)
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
              FROM contributed)"""


def remembered(settings: Settings) -> str:
    """The window with everything that is known of its user: what the model is called with, and a
    row of training data.

    LAG, since an OVER window of K rows keeps those rows whole, payloads included, for K windows.

    user_id STRING, window_start, window_end TIMESTAMP(3), events STRING, history STRING (this
    window and the K before it, each a header with the last purchase, then its tokens), added, sums
    ARRAY<DOUBLE>
    """
    last_purchase = "CAST(COALESCE(last_purchase_ms, CAST(0 AS BIGINT)) AS STRING)"
    header = f"CONCAT_WS('{FIELD}', {last_purchase}, '{HEADER}', '', '', '0')"
    over = "OVER (PARTITION BY user_id ORDER BY window_time)"
    earlier = ", ".join(f"LAG(known, {k}) {over}" for k in range(settings.window.history, 0, -1))
    return f"""
        SELECT user_id, window_start, window_end, events, added, sums,
            CONCAT_WS('{WINDOW}', {earlier}, known) AS history
        FROM (SELECT *, CONCAT({header}, '{EVENT}', tokens) AS known FROM baselined)"""


def create(t_env, source: str, settings: Settings, *, streaming: bool) -> None:
    """Registers the views over a source table (jobs/sql/tables.py), in the order of the path."""
    steps = {
        "scanned": scanned(source),
        "extracted": extracted(),
        "checked": checked(settings),
        "rejected": rejected(),
        "valid": valid(settings),
        "unique_events": unique(),
        "on_time": on_time(settings) if streaming else "SELECT * FROM unique_events",
        "packed": packed(settings),
        "user_windows": windows(settings),
        "contributed": contributed(settings),
        "baselined": baselined(),
        "remembered": remembered(settings),
    }
    if streaming:
        steps["late"] = late(settings)
    for name, query in steps.items():
        t_env.execute_sql(f"CREATE TEMPORARY VIEW {name} AS {query}")
