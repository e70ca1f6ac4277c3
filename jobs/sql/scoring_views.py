"""The SQL views of the scoring pipeline, one function for each view, from top to bottom.

    scoring_parsed -> scorable_events -> event_tokens --+-> all_tokens -> with_user ->
    parsed_labels -> label_tokens ----------------------+   with_device_id -> ... -> scoring_input

The pipeline validates by the same rules as the profile pipeline but shares no operator with it, so
it never waits for windows. An event passes its user, then its entities, one after the other; each
adds its list: its last K events in order of arrival. So no watermark delays an event, no event is
dropped as late, and none can lose a list. User and device come first: the lists of a user, and of a
device that only this user has, have the order of the topic, whatever the parallelism. The features
select from the lists by event time (liveprofile/features/entity). Views that both pipelines have
carry the prefix `scoring_` here.
"""

import re

from jobs.sql import event_views
from jobs.sql import expressions as sql
from liveprofile.attributes.event_types import event_types
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
from liveprofile.wire.tokens import FIELD, ID_CHARS, type_letter_sql

_BACKSLASH = "\\"


def parsed(settings: Settings, source: str) -> str:
    """As event_views.parsed, without most of the records that are not scored."""
    types = event_types(settings).by_name.items()
    scored = "|".join(re.escape(name) for name, declared in types if declared.role in SCORED_TYPES)
    # Matches every payload with a scored type that has no escapes, and few others.
    may_be_scored = rf'"event_type"\s*:\s*"(?:{scored})"'
    is_escaped = f"SPLIT_INDEX(payload, {sql.literal(_BACKSLASH)}, 1) IS NOT NULL"
    condition = f"{is_escaped} OR REGEXP(payload, {sql.literal(may_be_scored)})"
    return event_views.parsed(settings, source, condition)


def _cell(number: str) -> str:
    return f"CAST(CAST(FLOOR({number} * {CELLS_PER_DEGREE}) AS INT) AS STRING)"


def scorable_events(settings: Settings, source: str = "scoring_parsed") -> str:
    """Valid events of a scored type, with typed columns.

    event_id, user_id, arrival, event_type, event_ms STRING,
    amount STRING, letter, item_id, category_id, device_id, place, shop_id, coupon_id, address_id
    ('' if missing), record_offset STRING, arrived_ms STRING (the record's timestamp)
    """
    place = f"COALESCE({_cell('lat')} || ':' || {_cell('lon')}, '')"
    types = ", ".join(f"'{name}'" for name in SCORED_TYPES)
    event_ms = sql.scoring_ms("event_clock", "record_time", settings.scoring)
    return f"""
        SELECT event_id, user_id, arrival, event_type,
            CAST({event_ms} AS STRING) AS event_ms,
            CAST(amount AS STRING) AS amount, {type_letter_sql()} AS letter, item_id, category_id,
            device_id, coupon_id, shop_id, address_id, {place} AS place,
            CAST(record_offset AS STRING) AS record_offset,
            CAST({sql.epoch_ms("record_time")} AS STRING) AS arrived_ms
        FROM {source} WHERE reason IS NULL AND event_type IN ({types})"""


def event_tokens() -> str:
    """The event as the lists contain it, and the fields that scoring needs of it.

    user_id, arrival, head, user_token, entity_token, the ids of ENTITIES, and their `entity_keys`
    """
    common = ("letter", "event_ms", "event_id", "amount")
    return f"""
        SELECT user_id, arrival, {scored_events.head_sql()} AS head,
            {user_token_sql(*common, *map(hash_sql, ENTITIES))} AS user_token,
            {entity_token_sql(*common, "user_id")} AS entity_token,
            {", ".join(ENTITIES)}, {entity_keys()}
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

    The columns of `event_tokens`, with an empty head.
    """
    common = (label_letter_sql("label"), "CAST(label_ms AS STRING)", "event_id", "'0'")
    ids = ", ".join(f"COALESCE(LEFT({name}, {ID_CHARS}), '') AS {name}" for name in ENTITIES)
    no_entities = ("''" for _ in ENTITIES)
    return f"""
        SELECT user_id, arrival, '' AS head,
            {user_token_sql(*common, *no_entities)} AS user_token,
            {entity_token_sql(*common, "user_id")} AS entity_token, {", ".join(ENTITIES)},
            {entity_keys()}
        FROM (SELECT user_id, arrival, event_id, label, label_ms, {ids}
              FROM parsed_labels WHERE {_is_valid_label()})"""


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


def entity_keys() -> str:
    """What each step groups by. An event without such an entity goes by its user, adding nothing.
    The separator keeps ids of entities, which a label may choose freely, apart from those of users.

    On both sides of a UNION, a key keeps its name in the plan (jobs/savepoint.py).
    """
    keys = (
        f"CASE WHEN {name} = '' THEN user_id ELSE '{FIELD}' || {name} END AS {name}_key"
        for name in ENTITIES
    )
    return ", ".join((*keys, f"'{FIELD}' || user_id AS task_key"))


def with_entity_list(source: str, name: str, settings: Settings) -> str:
    """The rows of `source` with the last K tokens of the entity `name`, own one last.

    The columns of `source`, of_<name>: NULL for no entity
    """
    token = f"CASE WHEN {name} <> '' THEN entity_token END"
    of_name = last_tokens_sql(token, f"{name}_key", settings.scoring.history)
    return f"SELECT *, {of_name} AS of_{name} FROM {source}"


def with_user_list(settings: Settings) -> str:
    """The rows of `all_tokens` with the user's last K tokens, own one last.

    The columns of `all_tokens`, of_user
    """
    # A computed token: the batch planner gives two steps after each other the same column name.
    token = "CASE WHEN user_id <> '' THEN user_token END"
    of_user = last_tokens_sql(token, "user_id", settings.scoring.history)
    return f"SELECT *, {of_user} AS of_user FROM all_tokens"


def scoring_input(source: str) -> str:
    """The rows of `source` that are events: the input of `score_event`, and a training row.

    The count, which is never 0, only brings all rows of a user to one task.

    user_id, parts (liveprofile.wire.scored_events)
    """
    count = "COUNT(head) OVER (PARTITION BY task_key ORDER BY arrival ROWS UNBOUNDED PRECEDING)"
    return f"""
        SELECT user_id, {scored_events.parts_sql()} AS parts
        FROM (SELECT *, {count} AS of_head FROM {source}) WHERE head <> '' AND of_head > 0"""


def list_views(settings: Settings) -> dict[str, str]:
    """The steps after `all_tokens`, by name: each adds a list, the last gives the input."""
    views, source = {"with_user": with_user_list(settings)}, "with_user"
    for name in ENTITIES:
        views[f"with_{name}"] = with_entity_list(source, name, settings)
        source = f"with_{name}"
    return views | {"scoring_input": scoring_input(source)}


def queries(source: str, labels: str, settings: Settings) -> dict[str, str]:
    """The views over two source tables (jobs/sql/tables.py) by name, in the order of the path."""
    return {
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
        "all_tokens": "SELECT * FROM event_tokens UNION ALL SELECT * FROM label_tokens",
        **list_views(settings),
    }
