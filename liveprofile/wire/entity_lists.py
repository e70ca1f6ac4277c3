"""The last events of a user or an entity as one text.

A list holds the last K tokens of a key in order of arrival, joined by EVENT. A token of a user's
list is letter, time in ms, hash of the event id, amount, and the hash of each entity of ENTITIES;
a token of an entity's list has the hash of the user id in place of the entities. A label is a
token too, with FRAUD or LEGITIMATE in place of the type letter. Hashes are Flink's HASH_CODE, 31
bits; an empty id has the hash '', which is read as 0.

The functions ending in `_sql` write the lists in Flink SQL.
`liveprofile.features.entity.lists.parse_lists` parses the lists of a batch.
"""

from __future__ import annotations

from liveprofile.wire.scored_events import ENTITIES
from liveprofile.wire.tokens import EVENT, join_sql

FRAUD, LEGITIMATE = "+", "-"


def hash_sql(column: str) -> str:
    """SQL: a short stand-in for an id, since a list holds a hundred ids."""
    return f"CASE WHEN {column} = '' THEN '' ELSE CAST(HASH_CODE({column}) AS STRING) END"


def user_token_sql(letter: str, time_ms: str, event_id: str, amount: str, *entities: str) -> str:
    """SQL: a token of a user's list. `entities`: hashes or '', in the order of ENTITIES."""
    if len(entities) != len(ENTITIES):
        raise ValueError(f"{len(entities)} entities, not {len(ENTITIES)}")
    return join_sql(letter, time_ms, hash_sql(event_id), amount, *entities)


def entity_token_sql(letter: str, time_ms: str, event_id: str, amount: str, user_id: str) -> str:
    """SQL: a token of an entity's list."""
    return join_sql(letter, time_ms, hash_sql(event_id), amount, hash_sql(user_id))


def label_letter_sql(label: str) -> str:
    """SQL: the letter of a label's token."""
    return f"CASE {label} WHEN 'fraud' THEN '{FRAUD}' ELSE '{LEGITIMATE}' END"


def last_tokens_sql(token: str, key: str, count: int) -> str:
    """SQL aggregate: the list of a key's last `count` tokens, in order of arrival."""
    return (
        f"LISTAGG({token}, '{EVENT}') OVER (PARTITION BY {key} ORDER BY arrival"
        f" ROWS BETWEEN {count - 1} PRECEDING AND CURRENT ROW)"
    )
