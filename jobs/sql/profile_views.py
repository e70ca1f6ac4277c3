"""The SQL views of the profile pipeline, one function for each view, from top to bottom.

    behaviour_events (jobs/sql/event_views.py) -> deduplicated -> on_time -> counted -> encoded
    -> user_windows -> window_contributions -> profile_input
    deduplicated -> late, counted -> too_many

The stream (jobs/profile_job.py) and the backfill (jobs/backfill_job.py) use the same views. Only
the clock of a partition and the split of late events need a stream: a batch has no watermark. Each
docstring ends with the columns of the view.
"""

from collections.abc import Sequence

from jobs.sql import event_views
from jobs.sql import expressions as sql
from jobs.sql.event_views import RECORD
from liveprofile.attributes.catalogue import read_catalogue
from liveprofile.attributes.computed import ComputedAttribute
from liveprofile.attributes.event_types import event_types
from liveprofile.features import baselines
from liveprofile.settings import LimitSettings, Settings, WindowSettings
from liveprofile.wire import attribute_tiles, histories, token_columns, window_events
from liveprofile.wire.tokens import TYPE_INDEX, TYPE_LETTERS, token_sql


def deduplicated() -> str:
    """The first record of each event_id. The columns of `behaviour_events`."""
    return """
        SELECT * FROM (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY event_id ORDER BY arrival) AS copy
            FROM behaviour_events)
        WHERE copy = 1"""


def _closed_ms(settings: Settings) -> str:
    """The time up to which windows are closed, in ms."""
    # The watermark is ahead of the clock of a partition that was added later. It is NULL before the
    # first one.
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

    The window's watermark is never ahead of the clock of any partition it reads, less the
    out-of-orderness, nor of this task's watermark. So the window drops none.
    """
    return f"SELECT * FROM deduplicated WHERE NOT ({_is_late(settings)})"


def counted(settings: Settings) -> str:
    """Counts the events of each user and window, so that no row grows without limit.

    payload, event_clock, record_*, user_id, letter, item_id, category_id, amount,
    attribute_tokens, with staggered windows also user_window_end, and window_events and
    window_chars BIGINT: up to this event, in order of arrival
    """
    over = "OVER (PARTITION BY user_id, last_ms ORDER BY arrival ROWS UNBOUNDED PRECEDING)"
    return f"""
        SELECT payload, event_clock, {RECORD}, user_id, letter, item_id, category_id, amount,
            attribute_tokens{_window_end_column(settings)},
            COUNT(*) {over} AS window_events, SUM(payload_chars) {over} AS window_chars
        FROM (SELECT *, {_last_ms(settings.window)} AS last_ms,
                CAST(CHAR_LENGTH(payload) AS BIGINT) AS payload_chars
              FROM on_time)"""


def _window_end_column(settings: Settings) -> str:
    return ", user_window_end" if settings.window.stagger_ms else ""


def _fits(limits: LimitSettings) -> str:
    """TRUE if the window of a row of `counted` takes the event."""
    return (
        f"window_events <= {limits.max_window_events} AND window_chars <= {limits.max_window_chars}"
    )


def too_many(settings: Settings) -> str:
    """Events that their window does not take, for behavior-events-rejected.

    payload, reason, detail, record_*
    """
    limits = settings.limits
    return f"""
        SELECT payload, 'TOO_MANY' AS reason, CASE
            WHEN window_events > {limits.max_window_events} THEN 'events' ELSE 'characters' END
            AS detail, {RECORD}
        FROM counted WHERE NOT ({_fits(limits)})"""


def encoded(settings: Settings) -> str:
    """What a window collects of each event that it takes.

    event_clock, user_id, event (liveprofile.wire.window_events), token (liveprofile.wire.tokens),
    activity (a letter for the hour and a digit for the weekday), purchase 0/1, purchase_amount,
    purchase_ms, and with staggered windows user_window_end
    """
    ms = f"CAST({sql.epoch_ms('event_clock')} AS STRING)"
    partition, offset = (f"CAST(record_{name} AS STRING)" for name in ("partition", "offset"))
    event = window_events.event_sql(ms, "letter", partition, offset, "payload")
    token = token_sql(ms, "letter", "item_id", "category_id", "CAST(amount AS STRING)")
    hour = f"SUBSTRING('{baselines.HOUR_LETTERS}', CAST(HOUR(event_clock) AS INT) + 1, 1)"
    weekday = "CAST(EXTRACT(ISODOW FROM event_clock) AS STRING)"
    is_purchase = f"letter = '{TYPE_LETTERS[TYPE_INDEX['purchase']]}'"
    return f"""
        SELECT event_clock, user_id, {event} AS event, {token} AS token,
            CONCAT({hour}, {weekday}) AS activity,
            CASE WHEN {is_purchase} THEN 1.0E0 ELSE 0.0E0 END AS purchase,
            CASE WHEN {is_purchase} THEN amount ELSE 0.0E0 END AS purchase_amount,
            CASE WHEN {is_purchase} THEN {sql.epoch_ms("event_clock")} END AS purchase_ms,
            attribute_tokens{_window_end_column(settings)}
        FROM counted WHERE {_fits(settings.limits)}"""


def user_windows(settings: Settings) -> str:
    """One row for each user and window.

    user_id, window_start, window_end, window_time (rowtime), events, tokens, activity, n_events,
    n_purchases, amount, last_purchase_ms, attribute_tokens (liveprofile.wire.attribute_tiles)
    """
    return f"""
        SELECT user_id, window_start, window_end, window_time,
            {window_events.events_sql("event")} AS events,
            {token_columns.tokens_sql("token")} AS tokens,
            COALESCE(LISTAGG(activity, ''), '') AS activity,
            CAST(COUNT(*) AS DOUBLE) AS n_events, COALESCE(SUM(purchase), 0) AS n_purchases,
            COALESCE(SUM(purchase_amount), 0) AS amount, MAX(purchase_ms) AS last_purchase_ms,
            {attribute_tiles.window_tokens_sql("attribute_tokens")} AS attribute_tokens
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


def window_contributions(settings: Settings, closed_at: str) -> str:
    """The window and what it adds to each baseline and to the history.

    `closed_at`: the order of a user's windows. In a stream it is PROCTIME(), because windows close
    in order of time: so no step after this one waits for a watermark.

    user_id, window_start, window_end, events, closed_at, last_purchase_ms, attribute_tokens,
    this_window (liveprofile.wire.histories), c_<baseline> for each baseline
    """
    adds = ", ".join(f"{add} AS c_{name}" for name, add in baselines.contributions_sql())
    weight = baselines.decay_weight_sql("window_end", settings.state.decay_days)
    tokens = token_columns.last_tokens_sql("tokens")
    this_window = histories.window_sql(sql.epoch_ms("window_end"), tokens)
    return f"""
        SELECT user_id, window_start, window_end, events, {closed_at} AS closed_at,
            last_purchase_ms, attribute_tokens, {this_window} AS this_window, {adds}
        FROM (SELECT *, {weight} AS weight,
                CASE WHEN n_purchases > 0 THEN 1.0E0 ELSE 0.0E0 END AS has_purchase
              FROM user_windows)"""


def profile_input(attributes: Sequence[ComputedAttribute]) -> str:
    """The window with all that is known of its user up to it: the input of the model.

    user_id STRING, window_start, window_end TIMESTAMP(3), events STRING
    (liveprofile.wire.window_events), history, purchases STRING (liveprofile.wire.histories), added,
    sums ARRAY<DOUBLE> with the layout of liveprofile.features.baselines.COLUMNS, attribute_tiles
    STRING (JSON: liveprofile.wire.attribute_tiles)
    """
    over = "OVER (PARTITION BY user_id ORDER BY closed_at ROWS UNBOUNDED PRECEDING)"
    history, purchases = histories.last_sql("this_window", "last_purchase_ms", over)
    sums = ", ".join(f"SUM(c_{name}) {over} AS s_{name}" for name in baselines.COLUMNS)
    definitions = [each.tile_definition for each in attributes]
    end_ms = sql.epoch_ms("window_end")
    tiles = attribute_tiles.tiles_sql(definitions, "attribute_tokens", end_ms, over)
    added, totals = (
        ", ".join(f"{prefix}_{name}" for name in baselines.COLUMNS) for prefix in ("c", "s")
    )
    return f"""
        SELECT user_id, window_start, window_end, events, history,
            COALESCE(purchases, '') AS purchases, ARRAY[{added}] AS added, ARRAY[{totals}] AS sums,
            attribute_tiles
        FROM (SELECT user_id, window_start, window_end, events, {added},
                {history} AS history, {purchases} AS purchases, {sums}, {tiles} AS attribute_tiles
              FROM window_contributions)"""


def queries(source: str, settings: Settings, *, streaming: bool) -> dict[str, str]:
    """The views over a source table by name, in the order of the path. Raises DefinitionsError."""
    types = event_types(settings)
    attributes = read_catalogue(settings).computed_attributes
    if streaming:
        views = {
            "timed": event_views.timed(source, settings),
            "clocked": event_views.clocked(),
            "parsed": event_views.parsed(
                settings, "clocked", stream_columns=event_views.STREAM_COLUMNS
            ),
        }
    else:
        views = {"parsed": event_views.parsed(settings, source)}
    views |= {
        "rejected": event_views.rejected(),
        **({"identified": event_views.identified()} if settings.merges.enabled else {}),
        "behaviour_events": event_views.behaviour_events(
            settings, attributes, types, "identified" if settings.merges.enabled else "parsed"
        ),
        "deduplicated": deduplicated(),
        "on_time": on_time(settings) if streaming else "SELECT * FROM deduplicated",
        "counted": counted(settings),
        "too_many": too_many(settings),
        "encoded": encoded(settings),
        "user_windows": user_windows(settings),
        "window_contributions": window_contributions(
            settings, "PROCTIME()" if streaming else "window_time"
        ),
        "profile_input": profile_input(attributes),
    }
    return views | ({"late": late(settings)} if streaming else {})
