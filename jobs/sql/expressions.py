"""SQL expressions that several views and tables use.

In Flink SQL literals a backslash is an ordinary character, and a quote is doubled.
"""

from liveprofile.events.window_times import HASH_DIGITS
from liveprofile.settings import ScoringSettings, WindowSettings

_PLACES = 1 << 19


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def interval(ms: int) -> str:
    seconds, milli = divmod(ms, 1000)
    days, seconds = divmod(seconds, 86_400)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{milli:03}"
    return f"INTERVAL '{days} {clock}' DAY TO SECOND(3)"


def json_value(path: str, payload: str = "payload") -> str:
    return f"JSON_VALUE({payload}, '{path}')"


def epoch_ms(time: str) -> str:
    return f"(EXTRACT(EPOCH FROM {time}) * 1000 + EXTRACT(MILLISECOND FROM {time}))"


def event_clock(payload: str, record_time: str, max_clock_skew_ms: int) -> str:
    """The rowtime: event_time if it is valid and not too far in the future, else epoch 0.

    A NULL would crash the watermark assigner. The record's own time would push the watermark of
    replayed history to today.
    """
    latest = f"{epoch_ms(record_time)} + {max_clock_skew_ms}"
    no_time = "CAST(0 AS BIGINT)"
    return f"TO_TIMESTAMP_LTZ(EVENT_TIME({payload}, 'event_time', {latest}, {no_time}), 3)"


def label_ms(payload: str = "payload") -> str:
    """The time of a label in ms, NULL if it is missing or no time."""
    return f"EVENT_TIME({payload}, 'time', {2**63 - 1}, CAST(NULL AS BIGINT))"


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
