"""The event lane as SQL views, one function a step, top to bottom: what is known of an event when
it comes, without waiting for a window.

It reads by the same rules as the profile lane (jobs/sql/profile_views.py) but shares none of its operators, so
that it never waits behind them. A user's and an entity's past is the list of its last K events, in
order of arrival: no watermark holds an event back, none is dropped for being late, and what lies in
which span of event time is worked out where the list is read (liveprofile/features/entity.py).
"""

from __future__ import annotations

from jobs.sql import expressions as sql
from jobs.sql import profile_views
from liveprofile.config import Settings
from liveprofile.features.entity import SCORED_TYPES
from liveprofile.features.entity.lists import FRAUD, LEGITIMATE
from liveprofile.wire.scored_events import CELLS_PER_DEGREE, ENTITIES, HEAD, HEAD_FIELDS, OF_USER
from liveprofile.wire.tokens import EVENT, FIELD, WINDOW

# What is read beyond the fields of the profile lane: column -> path.
MORE = {
    "device_id": "$.device_id",
    "coupon_id": "$.coupon_id",
    "shop_id": "$.attributes.shop_id",
    "address_id": "$.attributes.address_id",
}
# A glance that lets every scored type pass, and little else.
_HINT = r'"event_type"\s*:\s*"(?:' + "|".join(SCORED_TYPES) + ')"'


def scanned(source: str) -> str:
    """As views.scanned, without most of the records that are not scored."""
    return profile_views.scanned(
        source, f"{sql.escaped()} OR REGEXP(payload, {sql.literal(_HINT)})"
    )


def _cell(number: str) -> str:
    degrees = f"TRY_CAST({sql.column(number)} AS DOUBLE)"
    return f"CAST(CAST(FLOOR({degrees} * {CELLS_PER_DEGREE}) AS INT) AS STRING)"


def scorable() -> str:
    """An event that passed the checks of the data contract and is of a scored type, typed.

    event_key (unique for each record), event_id, user_id, arrival, event_type, event_ms STRING,
    amount STRING, letter, item_id, category_id, device_id, place, shop_id, coupon_id, address_id
    ('' if missing)
    """
    paths = {"item_id": "", "category_id": ""} | MORE
    ids = ", ".join(f"{profile_views.token_id(f, path)} AS {f}" for f, path in paths.items())
    place = f"COALESCE({_cell('place.lat')} || ':' || {_cell('place.lon')}, '')"
    types = ", ".join(f"'{name}'" for name in SCORED_TYPES)
    return f"""
        SELECT CONCAT_WS('{FIELD}', CAST(record_partition AS STRING),
                CAST(record_offset AS STRING), event_id) AS event_key,
            event_id, user_id, arrival, event_type,
            CAST({sql.epoch_ms("event_clock")} AS STRING) AS event_ms,
            CAST({profile_views.amount()} AS STRING) AS amount, {sql.type_letter()} AS letter,
            {ids}, {place} AS place
        FROM event_checked WHERE reason IS NULL AND event_type IN ({types})"""


def _hash(column: str) -> str:
    """A short stand-in for an id: a list holds a hundred of them."""
    return f"CASE WHEN {column} = '' THEN '' ELSE CAST(HASH_CODE({column}) AS STRING) END"


def events() -> str:
    """The event as the lists have it, and as the score is asked for it.

    user_id, arrival, event_key, head, user_token, entity_token, and the ids of ENTITIES
    """
    when = f"letter, event_ms, {_hash('event_id')}, amount"
    return f"""
        SELECT user_id, arrival, event_key, CONCAT_WS('{FIELD}', {", ".join(HEAD_FIELDS)}) AS head,
            CONCAT_WS('{FIELD}', {when}, {", ".join(map(_hash, ENTITIES))}) AS user_token,
            CONCAT_WS('{FIELD}', {when}, {_hash("user_id")}) AS entity_token,
            {", ".join(ENTITIES)}
        FROM scorable"""


def read_labels(source: str) -> str:
    """The topic risk-feedback, each field as text, NULL if missing."""
    fields = ("event_id", "user_id", "label", *ENTITIES)
    ids = ", ".join(f"{sql.json_value(f'$.{f}')} AS {f}" for f in fields)
    return f"""
        SELECT payload, arrival, record_time, {profile_views.RECORD}, {ids},
            {sql.event_ms(sql.json_value("$.time"))} AS known_ms
        FROM {source}"""


def labels() -> str:
    """A verdict on an event, as the lists have it: as `events`, event_key and head empty."""
    letter = f"CASE label WHEN 'fraud' THEN '{FRAUD}' ELSE '{LEGITIMATE}' END"
    token = f"{letter}, CAST(known_ms AS STRING), {_hash('event_id')}, '0'"
    ids = ", ".join(f"COALESCE({name}, '') AS {name}" for name in ENTITIES)
    nothing = ", ".join("''" for _ in ENTITIES)
    return f"""
        SELECT user_id, arrival, '' AS event_key, '' AS head,
            CONCAT_WS('{FIELD}', {token}, {nothing}) AS user_token,
            CONCAT_WS('{FIELD}', {token}, {_hash("user_id")}) AS entity_token, {ids}
        FROM labels_read WHERE {_good_label()}"""


def rejected_labels() -> str:
    """For behavior-events-rejected: payload, reason, detail, record_*"""
    return f"""
        SELECT payload, 'BAD_FEEDBACK' AS reason, CASE
            WHEN COALESCE(payload IS NOT JSON OBJECT, TRUE) THEN 'not a JSON object'
            WHEN COALESCE(event_id, '') = '' THEN 'event_id'
            WHEN COALESCE(user_id, '') = '' THEN 'user_id'
            WHEN known_ms IS NULL THEN 'time'
            ELSE 'label' END AS detail, {profile_views.RECORD}
        FROM labels_read WHERE NOT ({_good_label()})"""


def _good_label() -> str:
    return (
        "COALESCE(event_id <> '' AND user_id <> '' AND known_ms IS NOT NULL"
        " AND label IN ('fraud', 'legitimate'), FALSE)"
    )


def _last(column: str, key: str, count: int) -> str:
    return (
        f"LISTAGG({column}, '{EVENT}') OVER (PARTITION BY {key} ORDER BY arrival"
        f" ROWS BETWEEN {count - 1} PRECEDING AND CURRENT ROW)"
    )


def user_listed(settings: Settings) -> str:
    """The row of `events` and `of_user`: the user's last K tokens, its own last."""
    return f"""
        SELECT user_id, arrival, event_key, head, entity_token, {", ".join(ENTITIES)},
            {_last("user_token", "user_id", settings.scoring.history)} AS of_user
        FROM (SELECT * FROM events UNION ALL SELECT * FROM labels)"""


def entity_rows() -> str:
    """A row for each entity: arrival, user_id, event_key, parts, entity, entity_token."""
    entities = ", ".join(
        f"CASE WHEN {name} = '' THEN '' ELSE '{letter}' || {name} END"
        for name, letter in ENTITIES.items()
    )
    return f"""
        SELECT arrival, user_id, event_key, {_parts()} AS parts, entity, entity_token
        FROM user_listed CROSS JOIN UNNEST(ARRAY[{entities}]) AS e(entity) WHERE entity <> ''"""


def _parts() -> str:
    """How many rows an event is taken apart into: one for each entity, one with all else."""
    return " + ".join(("1", *(f"CASE WHEN {name} = '' THEN 0 ELSE 1 END" for name in ENTITIES)))


def apart(settings: Settings) -> str:
    """The parts of every event, each list found at its own key.

    arrival, user_id, event_key, parts INT, part: a letter (liveprofile.wire.scored_events) and a list, or the
    head and of_user
    """
    of_entity = _last("entity_token", "entity", settings.scoring.history)
    return f"""
        SELECT arrival, user_id, event_key, {_parts()} AS parts,
            CONCAT('{HEAD}', head, '{WINDOW}', '{OF_USER}', of_user) AS part
        FROM user_listed WHERE event_key <> ''
        UNION ALL
        SELECT arrival, user_id, event_key, parts, CONCAT(LEFT(entity, 1), of_entity) AS part
        FROM (SELECT *, {of_entity} AS of_entity FROM entity_rows) WHERE event_key <> ''"""


def together() -> str:
    """An event with all of its lists: user_id, arrival, parts STRING, joined by WINDOW.

    Its parts come from several places; the last to arrive completes it.
    """
    over = "OVER (PARTITION BY event_key ORDER BY arrival ROWS UNBOUNDED PRECEDING)"
    return f"""
        SELECT user_id, arrival, joined AS parts
        FROM (SELECT user_id, arrival, parts, LISTAGG(part, '{WINDOW}') {over} AS joined,
                COUNT(*) {over} AS arrived FROM apart)
        WHERE arrived = parts"""


def known() -> str:
    """What `score_event` is called with, and a row of training data: user_id, parts.

    A user's events are at one place again, one after the other; to count them has no other use.
    """
    nth = "COUNT(*) OVER (PARTITION BY user_id ORDER BY arrival ROWS UNBOUNDED PRECEDING)"
    return f"""
        SELECT user_id, parts FROM (SELECT user_id, parts, {nth} AS nth FROM together)
        WHERE nth > 0"""


def create(t_env, source: str, feedback: str, settings: Settings) -> None:
    """Registers the views over two source tables (jobs/sql/tables.py), in the order of the path."""
    steps = {
        "event_scanned": scanned(source),
        "event_extracted": profile_views.extracted("event_scanned", MORE),
        "event_checked": profile_views.checked(settings, "event_extracted", MORE),
        "scorable": scorable(),
        "events": events(),
        "labels_read": read_labels(feedback),
        "labels": labels(),
        "rejected_labels": rejected_labels(),
        "user_listed": user_listed(settings),
        "entity_rows": entity_rows(),
        "apart": apart(settings),
        "together": together(),
        "known": known(),
    }
    for name, query in steps.items():
        t_env.execute_sql(f"CREATE TEMPORARY VIEW {name} AS {query}")
