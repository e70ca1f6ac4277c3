"""The SQL views of the scoring pipeline, one function for each view, from top to bottom.

    scoring_parsed -> scorable_events -> event_tokens --+-> with_user_history
    parsed_labels -> label_tokens ----------------------+
    with_user_history -> entity_fanout -> event_parts -> rejoined -> scoring_input

The pipeline validates by the same rules as the profile pipeline but shares no operator with it, so
it never waits for windows. The history of a user or an entity is the list of its last K events in
order of arrival: no watermark delays an event, and no event is dropped as late. The features
select from the lists by event time (liveprofile/features/entity). Views that both pipelines have
carry the prefix `scoring_` here.
"""

from __future__ import annotations

from jobs.sql import event_views
from jobs.sql import expressions as sql
from jobs.sql.event_views import create_view
from liveprofile.features.entity import SCORED_TYPES
from liveprofile.settings import Settings
from liveprofile.wire import scored_events
from liveprofile.wire.entity_lists import (
    entity_token_sql,
    hash_sql,
    label_letter_sql,
    last_tokens_sql,
    user_token_sql,
)
from liveprofile.wire.scored_events import CELLS_PER_DEGREE, ENTITIES
from liveprofile.wire.tokens import ID_CHARS, join_sql, type_letter_sql

_BACKSLASH = "\\"
# Matches every payload with a scored type that has no escapes, and few others.
_MAY_BE_SCORED = r'"event_type"\s*:\s*"(?:' + "|".join(SCORED_TYPES) + ')"'


def parsed(settings: Settings, source: str) -> str:
    """As event_views.parsed, without most of the records that are not scored."""
    is_escaped = f"SPLIT_INDEX(payload, {sql.literal(_BACKSLASH)}, 1) IS NOT NULL"
    condition = f"{is_escaped} OR REGEXP(payload, {sql.literal(_MAY_BE_SCORED)})"
    return event_views.parsed(settings, source, condition)


def _cell(number: str) -> str:
    return f"CAST(CAST(FLOOR({number} * {CELLS_PER_DEGREE}) AS INT) AS STRING)"


def scorable_events(settings: Settings, source: str = "scoring_parsed") -> str:
    """Valid events of a scored type, with typed columns.

    event_key (unique for each record), event_id, user_id, arrival, event_type, event_ms STRING,
    amount STRING, letter, item_id, category_id, device_id, place, shop_id, coupon_id, address_id
    ('' if missing), record_offset STRING, arrived_ms STRING (the record's timestamp)
    """
    place = f"COALESCE({_cell('lat')} || ':' || {_cell('lon')}, '')"
    types = ", ".join(f"'{name}'" for name in SCORED_TYPES)
    event_ms = sql.scoring_ms("event_clock", "record_time", settings.scoring)
    event_key = join_sql(
        "CAST(record_partition AS STRING)", "CAST(record_offset AS STRING)", "event_id"
    )
    return f"""
        SELECT {event_key} AS event_key,
            event_id, user_id, arrival, event_type,
            CAST({event_ms} AS STRING) AS event_ms,
            CAST(amount AS STRING) AS amount, {type_letter_sql()} AS letter, item_id, category_id,
            device_id, coupon_id, shop_id, address_id, {place} AS place,
            CAST(record_offset AS STRING) AS record_offset,
            CAST({sql.epoch_ms("record_time")} AS STRING) AS arrived_ms
        FROM {source} WHERE reason IS NULL AND event_type IN ({types})"""


def event_tokens() -> str:
    """The event as the lists contain it, and the fields that scoring needs of it.

    user_id, arrival, event_key, head, user_token, entity_token, and the ids of ENTITIES
    """
    common = ("letter", "event_ms", "event_id", "amount")
    return f"""
        SELECT user_id, arrival, event_key, {scored_events.head_sql()} AS head,
            {user_token_sql(*common, *map(hash_sql, ENTITIES))} AS user_token,
            {entity_token_sql(*common, "user_id")} AS entity_token,
            {", ".join(ENTITIES)}
        FROM scorable_events"""


def parsed_labels(source: str) -> str:
    """The topic risk-feedback, each field as text, NULL if missing."""
    fields = ("event_id", "user_id", "label", *ENTITIES)
    ids = ", ".join(f"{sql.json_value(f'$.{f}')} AS {f}" for f in fields)
    return f"""
        SELECT payload, arrival, record_time, {event_views.RECORD}, {ids},
            {sql.label_ms()} AS label_ms
        FROM {source}"""


def label_tokens() -> str:
    """The label of an event as the lists contain it.

    The columns of `event_tokens`, with empty event_key and head.
    """
    common = (label_letter_sql("label"), "CAST(label_ms AS STRING)", "event_id", "'0'")
    ids = ", ".join(f"COALESCE(LEFT({name}, {ID_CHARS}), '') AS {name}" for name in ENTITIES)
    no_entities = ("''" for _ in ENTITIES)
    return f"""
        SELECT user_id, arrival, '' AS event_key, '' AS head,
            {user_token_sql(*common, *no_entities)} AS user_token,
            {entity_token_sql(*common, "user_id")} AS entity_token, {ids}
        FROM parsed_labels WHERE {_is_valid_label()}"""


def rejected_labels() -> str:
    """Rejected labels for behavior-events-rejected.

    payload, reason, detail, record_*
    """
    return f"""
        SELECT payload, 'BAD_FEEDBACK' AS reason, CASE
            WHEN COALESCE(payload IS NOT JSON OBJECT, TRUE) THEN 'not a JSON object'
            WHEN NOT ({_is_label_id("event_id")}) THEN 'event_id'
            WHEN NOT ({_is_label_id("user_id")}) THEN 'user_id'
            WHEN label_ms IS NULL THEN 'time'
            ELSE 'label' END AS detail, {event_views.RECORD}
        FROM parsed_labels WHERE NOT ({_is_valid_label()})"""


def _is_valid_label() -> str:
    ids = " AND ".join(_is_label_id(field) for field in ("event_id", "user_id"))
    return f"{ids} AND label_ms IS NOT NULL AND COALESCE(label IN ('fraud', 'legitimate'), FALSE)"


def _is_label_id(field: str) -> str:
    """TRUE or FALSE: an event has such an id."""
    return f"COALESCE(CHAR_LENGTH({field}) BETWEEN 1 AND {ID_CHARS}, FALSE)"


def with_user_history(settings: Settings) -> str:
    """The rows of `event_tokens` and `label_tokens` with the user's last K tokens, own one last.

    user_id, arrival, event_key, head, entity_token, the ids of ENTITIES, user_list
    """
    user_list = last_tokens_sql("user_token", "user_id", settings.scoring.history)
    return f"""
        SELECT user_id, arrival, event_key, head, entity_token, {", ".join(ENTITIES)},
            {user_list} AS user_list
        FROM (SELECT * FROM event_tokens UNION ALL SELECT * FROM label_tokens)"""


def entity_fanout() -> str:
    """One row for each entity of an event or label.

    arrival, user_id, event_key, part_count, entity, entity_token
    """
    entities = ", ".join(map(scored_events.entity_key_sql, ENTITIES))
    return f"""
        SELECT arrival, user_id, event_key, {scored_events.part_count_sql()} AS part_count, entity,
            entity_token
        FROM with_user_history CROSS JOIN UNNEST(ARRAY[{entities}]) AS e(entity)
        WHERE entity <> ''"""


def event_parts(settings: Settings) -> str:
    """The parts of each event (liveprofile.wire.scored_events), each list from its own key.

    arrival, user_id, event_key, part_count INT, part
    """
    entity_list = last_tokens_sql("entity_token", "entity", settings.scoring.history)
    return f"""
        SELECT arrival, user_id, event_key, {scored_events.part_count_sql()} AS part_count,
            {scored_events.head_part_sql("head", "user_list")} AS part
        FROM with_user_history WHERE event_key <> ''
        UNION ALL
        SELECT arrival, user_id, event_key, part_count,
            {scored_events.entity_part_sql("entity", "entity_list")} AS part
        FROM (SELECT *, {entity_list} AS entity_list FROM entity_fanout) WHERE event_key <> ''"""


def rejoined() -> str:
    """An event with all of its parts. Its last part to arrive completes it.

    user_id, arrival, parts STRING
    """
    over = "OVER (PARTITION BY event_key ORDER BY arrival ROWS UNBOUNDED PRECEDING)"
    return f"""
        SELECT user_id, arrival, joined AS parts
        FROM (SELECT user_id, arrival, part_count,
                LISTAGG(part, '{scored_events.WINDOW}') {over} AS joined,
                COUNT(*) {over} AS arrived FROM event_parts)
        WHERE arrived = part_count"""


def scoring_input() -> str:
    """The input of `score_event`, and a training row.

    The count collects a user's events in one task, in order; it has no other purpose.

    user_id, parts
    """
    nth = "COUNT(*) OVER (PARTITION BY user_id ORDER BY arrival ROWS UNBOUNDED PRECEDING)"
    return f"""
        SELECT user_id, parts FROM (SELECT user_id, parts, {nth} AS nth FROM rejoined)
        WHERE nth > 0"""


def create(t_env, source: str, labels: str, settings: Settings) -> None:
    """Registers the views over two source tables (jobs/sql/tables.py), in the order of the path."""
    views = {
        "scoring_parsed": parsed(settings, source),
        **(
            {"scoring_identified": event_views.identified("scoring_parsed")}
            if settings.merges.enabled
            else {}
        ),
        "scorable_events": scorable_events(
            settings, "scoring_identified" if settings.merges.enabled else "scoring_parsed"
        ),
        "event_tokens": event_tokens(),
        "parsed_labels": parsed_labels(labels),
        "label_tokens": label_tokens(),
        "rejected_labels": rejected_labels(),
        "with_user_history": with_user_history(settings),
        "entity_fanout": entity_fanout(),
        "event_parts": event_parts(settings),
        "rejoined": rejoined(),
        "scoring_input": scoring_input(),
    }
    for name, query in views.items():
        create_view(t_env, name, query)
