r"""SQL expressions that parse and validate a payload (docs/data-contract.md, sections 1 and 2).

JSON_VALUE parses the whole payload each time it is evaluated (about 1.3 us for 250 bytes), and the
planner repeats an expression wherever it is mentioned. So `jobs.sql.event_views.parsed` mentions
each field once, and the functions here evaluate their argument once. Where the payload is simple
enough, no parser runs: SPLIT_INDEX finds a fixed text in 50 ns. A regular expression that begins
with a fixed text takes 0.2 us, one that begins with a character class a microsecond or more.

In Flink SQL literals a backslash is an ordinary character, and a quote is doubled.
"""

from __future__ import annotations

from liveprofile.events.window_times import HASH_DIGITS
from liveprofile.settings import ScoringSettings, WindowSettings

EARLIEST = "TO_TIMESTAMP_LTZ(946684800000, 3)"  # 2000-01-01
DIGITS = "^[0-9]{1,15}$"
ISO_8601 = (
    r"^([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2})(?:(:[0-9]{2})(\.[0-9]+)?)?"
    r"(Z|[+-](?:(?:0[0-9]|1[0-7]):?[0-5][0-9]|18:?00))?$"
)
NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
# A backslash counts as an escape only after an even number of others.
_ESCAPE = r"(?<!\\)(?:\\\\)*\\u"
LONE_SURROGATE = (
    rf"{_ESCAPE}[dD][89abAB][0-9a-fA-F]{{2}}(?!\\u[dD][c-fC-F])"
    rf"|(?<!\\u[dD][89abAB][0-9a-fA-F]{{2}}){_ESCAPE}[dD][c-fC-F][0-9a-fA-F]{{2}}"
)
# Every ISO 8601 time matches. Without a match event_time is digits or missing. An escape in the
# time matches too.
_ISO_HINT = r"[-\\](?:(?<=\\)u|[0-9]{2}[T ][0-9]{2}:)"
_BACKSLASH, _UNDECODABLE = "\\", "\ufffd"
# TRUE for a row of `prefiltered` that is valid JSON, because its time could be parsed, without
# escapes. There a quoted name before a colon is a field, and a text ends at the next quote.
_VERBATIM = f"head IS NOT NULL AND event_clock >= {EARLIEST}"

NUMBER_LIMIT = 1e9
_PLACES = 1 << 19
NO_SCALAR = "{}"
NUMBERS = ("price", "quantity", "amount", "rating", "place.lat", "place.lon")
_COMMON = ("price", "amount")  # nearly every event has one of them
_RANGES = {
    "price": (0, NUMBER_LIMIT),
    "quantity": (0, NUMBER_LIMIT),
    "place.lat": (-90, 90),
    "place.lon": (-180, 180),
}


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def interval(ms: int) -> str:
    seconds, milli = divmod(ms, 1000)
    days, seconds = divmod(seconds, 86_400)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{milli:03}"
    return f"INTERVAL '{days} {clock}' DAY TO SECOND(3)"


def holds(text: str, payload: str = "payload") -> str:
    return f"SPLIT_INDEX({payload}, {literal(text)}, 1) IS NOT NULL"


def _at_most_once(text: str) -> str:
    return f"SPLIT_INDEX(payload, {literal(text)}, 2) IS NULL"


def head() -> str:
    """The text before the second brace, if the payload is an object without escapes, else NULL.

    A name in this text is a field of the object itself, not of a nested one. Undecodable bytes
    give NULL too.
    """
    odd = " OR ".join(holds(text) for text in (_BACKSLASH, _UNDECODABLE))
    return f"CASE WHEN payload LIKE '{{%' AND NOT ({odd}) THEN SPLIT_INDEX(payload, '{{', 1) END"


def is_complex() -> str:
    """FALSE if a row of `prefiltered` is one flat object without escapes or undecodable bytes.

    Nearly all payloads are; they skip the checks for the rest. TRUE for NULL. Conditions begin with
    this column, not with its opposite: the planner moves what NOT precedes to the end of an AND,
    behind the checks to skip.
    """
    flat = " AND ".join(_at_most_once(brace) for brace in "{}")
    return f"CASE WHEN head IS NOT NULL AND payload LIKE '%}}' AND {flat} THEN FALSE ELSE TRUE END"


def escaped() -> str:
    """TRUE if the payload contains a backslash: any name or value may be written differently."""
    return holds(_BACKSLASH)


def field_text(field: str) -> str:
    """A field of a row of `prefiltered` as text; NULL if it is missing or no scalar."""
    name = f'"{field}"'
    begins = " OR ".join(holds(f'{name}:{space}"', "head") for space in ("", " "))
    until_quote = literal(f'{name}: ?"[^"]*')
    # The piece after the third quote of `"name": "text`.
    text = f"SPLIT_INDEX(REGEXP_SUBSTR(payload, {until_quote}), '\"', 3)"
    return _cut_out(name, begins, text, json_value(f"$.{field}"))


def path_text(path: str) -> str:
    """As `field_text`, for a JSON path."""
    *objects, field = path.removeprefix("$.").split(".")
    if not objects:
        return field_text(field)
    name = f'"{field}"'
    return f"CASE WHEN {_may_have(name)} THEN {json_value(path)} END"


def _cut_out(name: str, is_common: str, text: str, parsed: str) -> str:
    """NULL if the name is absent, `text` where `is_common` holds, else `parsed`."""
    return (
        f"CASE WHEN NOT ({_may_have(name)}) THEN CAST(NULL AS STRING)"
        f" WHEN {_VERBATIM} AND {_at_most_once(name)} AND ({is_common}) THEN {text}"
        f" ELSE {parsed} END"
    )


def _may_have(name: str) -> str:
    return f"escaped OR {holds(name)}"


def json_value(path: str, payload: str = "payload") -> str:
    return f"JSON_VALUE({payload}, '{path}')"


def column(number: str) -> str:
    """The column of a number field in `parsed`: place.lat -> place_lat_text."""
    return number.replace(".", "_") + "_text"


def as_double(number: str) -> str:
    """A number field of a row of `parsed`; NULL if it is missing or no number."""
    return f"TRY_CAST({column(number)} AS DOUBLE)"


def epoch_ms(time: str) -> str:
    return f"(EXTRACT(EPOCH FROM {time}) * 1000 + EXTRACT(MILLISECOND FROM {time}))"


def _iso_ms(text: str) -> str:
    """Epoch ms of ISO 8601 text, NULL for other text. Evaluates `text` often: the rare case."""
    part = [f"REGEXP_EXTRACT({text}, {literal(ISO_8601)}, {group})" for group in range(6)]
    clock = (
        f"TRY_CAST(CONCAT({part[1]}, ' ', {part[2]}, COALESCE({part[3]}, ':00')) AS TIMESTAMP(3))"
    )
    fraction = f"COALESCE(CAST(RPAD(SUBSTRING({part[4]}, 2, 3), 3, '0') AS BIGINT), 0)"
    zone = f"REPLACE({part[5]}, ':', '')"
    minutes = (
        f"CASE WHEN {part[5]} IS NULL OR {part[5]} = 'Z' THEN 0 ELSE "
        f"(CAST(SUBSTRING({zone}, 2, 2) AS INT) * 60 + CAST(SUBSTRING({zone}, 4, 2) AS INT))"
        f" * CASE WHEN LEFT({part[5]}, 1) = '-' THEN -1 ELSE 1 END END"
    )
    # The cast turns 30 February into the 28th, so the date must print as it was given.
    return (
        f"CASE WHEN {part[0]} IS NOT NULL AND LEFT(CAST({clock} AS STRING), 10) = {part[1]} THEN "
        f"EXTRACT(EPOCH FROM {clock}) * 1000 + {fraction} - {minutes} * CAST(60000 AS BIGINT) END"
    )


def event_ms(text: str) -> str:
    """Epoch ms of a time given as digits or as ISO 8601, NULL for other text."""
    return (
        f"CASE WHEN REGEXP({text}, '{DIGITS}') THEN CAST({text} AS BIGINT) ELSE {_iso_ms(text)} END"
    )


def _latest_ms(record_time: str, max_clock_skew_ms: int) -> str:
    return f"(EXTRACT(EPOCH FROM {record_time}) * 1000 + {max_clock_skew_ms})"


def time_reason(max_clock_skew_ms: int) -> str:
    """The reason to reject a record that has an event_time but no usable event_clock."""
    ms = event_ms(json_value("$.event_time"))
    return (
        f"CASE WHEN {ms} > {_latest_ms('record_time', max_clock_skew_ms)}"
        f" THEN 'FUTURE_TIME' ELSE 'BAD_TIME' END"
    )


def event_clock(payload: str, record_time: str, max_clock_skew_ms: int) -> str:
    """The rowtime: event_time if it is valid and not too far in the future, else epoch 0.

    A NULL would crash the watermark assigner. The record's own time would push the watermark of
    replayed history to today.
    """
    text = json_value("$.event_time", payload)
    latest = _latest_ms(record_time, max_clock_skew_ms)
    # LEAST, MOD and IFNULL evaluate their argument once; CASE would parse it twice. A time past
    # `latest` becomes `latest + 1`, and that modulo itself is 0. The cast accepts digits only: no
    # sign, blank or fraction fits between '0' and '.0'. (Functions that need the class loader,
    # such as ARRAY_REMOVE, fail in a watermark generator.)
    after, digits = f"({latest} + 1)", f"TRY_CAST(CONCAT('0', {text}, '.0') AS BIGINT)"
    once = f"MOD(LEAST(IFNULL({digits}, 0), {after}), {after})"
    any_form = event_ms(text)
    checked = f"CASE WHEN {any_form} <= {latest} THEN {any_form} ELSE 0 END"
    may_be_iso = " OR ".join(holds(text, payload) for text in ("T", " ", _BACKSLASH))
    return (
        f"TO_TIMESTAMP_LTZ(CASE WHEN ({may_be_iso}) AND REGEXP({payload}, {literal(_ISO_HINT)})"
        f" THEN {checked} ELSE {once} END, 3)"
    )


def scoring_ms(clock: str, record_time: str, scoring: ScoringSettings) -> str:
    """The time of an event in the scoring pipeline, in ms.

    Nobody can hide a series of events by dating them days apart: an event is at most
    `scoring.max_delay_ms` older than its record, unless the topic holds history.
    """
    if scoring.replay:
        return epoch_ms(clock)
    return f"GREATEST({epoch_ms(clock)}, {epoch_ms(record_time)} - {scoring.max_delay_ms})"


def arrival_order(ms: str, offset: str, *, label: bool = False) -> str:
    """The position of an event or label in a batch, as a BIGINT.

    It orders by time, then labels before events (an event knows the labels of its own
    millisecond), then by place in the file or partition. OVER orders by one column, so all three
    share one number: 19 bits of the offset, and times up to the year 2248. Later times are equal.
    """
    place = f"MOD({offset}, {_PLACES})"
    in_range = f"LEAST({ms}, {(2**63 - 1) // (2 * _PLACES) - 1})"
    return f"{in_range} * {2 * _PLACES} + {place if label else f'{_PLACES} + {place}'}"


def shift_ms(user_id: str, window: WindowSettings) -> str:
    """As liveprofile.events.window_times has it."""
    places = range(1, HASH_DIGITS + 1)
    number = " + ".join(
        f"(LOCATE(SUBSTRING(MD5({user_id}), {place}, 1), '0123456789abcdef') - 1)"
        f" * {16 ** (HASH_DIGITS - place)}"
        for place in places
    )
    return f"MOD({number}, {window.steps}) * {window.stagger_ms}"


def watermark(window: WindowSettings) -> str:
    """The watermark: the earlier of event time and record time, less the out-of-orderness.

    The broker's clock bounds it, so a client whose clock is fast closes no windows of other users.
    LEAST evaluates event_clock once, CASE would twice.

    It is rounded down to whole seconds less a millisecond if windows end on seconds. No window
    closes earlier or later, and the job forwards one watermark for each second of event time
    instead of one for each event.
    """
    behind = f"LEAST(event_clock, record_time) - {interval(window.out_of_orderness_ms)}"
    if window.length_ms % 1000:
        return behind
    return f"FLOOR({behind} + {interval(1)} TO SECOND) - {interval(1)}"


def number_text(number: str) -> str:
    """A number field of a row of `prefiltered` as text.

    NULL if it is absent or null, NO_SCALAR if it may be an object or a list.
    """
    field = number.split(".")[0]
    name = f'"{field}"'
    # Strict mode distinguishes a value that is no scalar from null in the same parse.
    parsed = (
        f"JSON_VALUE(payload, 'strict $.{number}' NULL ON EMPTY DEFAULT '{NO_SCALAR}' ON ERROR)"
    )
    if number not in _COMMON:
        return f"CASE WHEN {_may_have(name)} THEN {parsed} END"
    common = literal(f"{name}: ?[0-9]{{1,9}}(?:\\.[0-9]{{1,6}})?[,}}]")
    digits = literal(f"{name}: ?[0-9.]+")
    text = f"TRIM(SPLIT_INDEX(REGEXP_SUBSTR(head, {digits}), ':', 1))"
    return _cut_out(name, f"REGEXP(head, {common})", text, parsed)


def bad_number(number: str) -> str:
    """TRUE if the number is given and invalid."""
    text, path = column(number), f"$.{number}"
    low, high = _RANGES.get(number, (-NUMBER_LIMIT, NUMBER_LIMIT))
    value = as_double(number)
    return (
        f"({text} IS NOT NULL AND CASE WHEN {text} = '{NO_SCALAR}'"
        # Strict mode also fails where the key occurs only deeper inside: then it is absent.
        f" THEN JSON_QUERY(payload, '{path}') IS NOT NULL OR {json_value(path)} IS NOT NULL"
        f" ELSE NOT REGEXP({text}, {literal(NUMBER)})"
        f" OR COALESCE({value} < {low:g} OR {value} > {high:g}, TRUE) END)"
    )


def first_bad_number() -> str:
    """The name of the first invalid number field, NULL if there is none."""
    cases = {field: bad_number(field) for field in NUMBERS}
    cases["amount"] = f"{cases['amount']} OR {_is_product_too_large()}"
    whens = " ".join(f"WHEN {is_bad} THEN '{field}'" for field, is_bad in cases.items())
    return f"CASE {whens} END"


def _is_product_too_large() -> str:
    """TRUE if price x quantity stands for a missing amount and exceeds the limit of an amount."""
    amount, price, quantity = map(as_double, ("amount", "price", "quantity"))
    return (
        f"({column('quantity')} IS NOT NULL AND {amount} IS NULL"
        f" AND COALESCE({price} * {quantity} > {NUMBER_LIMIT:g}, FALSE))"
    )
