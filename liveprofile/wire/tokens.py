"""Tokens: the compact text of an event that Flink keeps in its state.

A token is five fields: time in ms, a letter for the type, item, category, amount. The user model
reads the tokens of the window and of the user's last windows. `token_sql` writes a token in Flink
SQL; `liveprofile.wire.histories` parses many of them at once;
`liveprofile.wire.window_events.token` makes the same token from a payload.
"""

from typing import NamedTuple

# The position in this list is the model's type index and selects the type's letter in a token.
EVENT_TYPES = (
    "view", "cart", "favorite", "purchase", "return", "review", "search",
    "share", "follow", "coupon", "campaign", "login",
)  # fmt: skip
TYPE_INDEX = {name: index for index, name in enumerate(EVENT_TYPES)}
TYPE_LETTERS = "abcdefghijkl"

# Control characters that JSON text cannot contain unescaped, so they need no escaping here.
FIELD, EVENT, WINDOW = "\x1f", "\x1e", "\x1d"
TOKEN_CHARS_PER_WINDOW = 4_096
ID_CHARS = 256


class Token(NamedTuple):
    """What the model sees of an event."""

    time_ms: int
    type_index: int
    item: str  # "" if unknown
    category: str  # "" if unknown
    amount: float  # 0 if unknown


def join_sql(*columns: str) -> str:
    """SQL: text columns joined by FIELD."""
    return f"CONCAT_WS('{FIELD}', {', '.join(columns)})"


def type_letter_sql(event_type: str = "event_type") -> str:
    """SQL: the letter of an event type."""
    cases = " ".join(
        f"WHEN '{name}' THEN '{letter}'"
        for name, letter in zip(EVENT_TYPES, TYPE_LETTERS, strict=True)
    )
    return f"CASE {event_type} {cases} END"


def token_sql(time_ms: str, letter: str, item_id: str, category_id: str, amount: str) -> str:
    """SQL: a token. All arguments are text columns."""
    return join_sql(time_ms, letter, item_id, category_id, amount)
