"""Section 4 of docs/data-contract.md in plain Python: history, memory, vectors of a window."""

import math
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple, Self

from tests.reference.validation import TYPES, ValidEvent

TOKEN_CHARS = 4_096
VECTORS_PER_ENCODER = 3
HISTORY_WINDOWS = 8
MEMORY_WINDOWS, MEMORY_CHARS = 40, 65_536


class Token(NamedTuple):
    """The compact form of an event in history, which the model reads."""

    time_ms: int
    type_index: int  # in TYPES
    item: str
    category: str
    amount: float

    @classmethod
    def from_event(cls, event: ValidEvent) -> Self:
        type_index = TYPES.index(event.event_type)
        return cls(event.time_ms, type_index, event.item, event.category, event.amount)


def token_text(token: Token) -> str:
    time_ms, type_index, item, category, amount = token
    letter = chr(ord("a") + type_index)
    return "\x1f".join((str(time_ms), letter, item, category, double_text(amount)))


def double_text(value: float) -> str:
    """The shortest decimal of a double, in Java's notation: 12.0, 0.001, 1.0E7, 2.5E-4."""
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value)
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    digits_text = "".join(map(str, digits)).rstrip("0")
    power = exponent + len(digits) - 1
    return f"{'-' if sign else ''}{digits_text[0]}.{digits_text[1:] or '0'}E{power}"


def window_tokens(arrived: Sequence[ValidEvent]) -> list[Token]:
    """The tokens of a window that history keeps: those that lie whole in its last 4,096 characters.

    `arrived` is in arrival order, which decides the cut. The result is ordered by time, then by the
    other fields.
    """
    tokens = [Token.from_event(event) for event in arrived]
    lengths = [len(token_text(token)) for token in tokens]
    if sum(lengths) + len(tokens) - 1 >= TOKEN_CHARS:
        # A kept token has a separator before it, so the first token in the tail is dropped even if
        # it is whole.
        room, first = TOKEN_CHARS, len(tokens)
        while lengths[first - 1] + 1 <= room:
            first -= 1
            room -= lengths[first] + 1
        tokens = tokens[first:]
    return sorted(tokens)


def long_history(
    windows: Sequence[tuple[int, Sequence[Token]]],
) -> Sequence[tuple[int, Sequence[Token]]]:
    """The last windows of a user, this one last: those whose texts have room."""
    kept = windows[-MEMORY_WINDOWS:]
    parts = [[str(end_ms), *map(token_text, tokens)] for end_ms, tokens in kept]
    sizes = [len("\x1e".join(texts)) for texts in parts]
    # A kept window has a separator before it, so one that fills the room is dropped, too.
    if sum(sizes) + len(sizes) - 1 > MEMORY_CHARS:
        while sum(sizes) + len(sizes) > MEMORY_CHARS:
            del sizes[0]
    return kept[len(kept) - len(sizes) :]


def modality_inputs(events: Sequence[ValidEvent]) -> dict[tuple[str, int], list[float]]:
    """The vectors of a window whose events are in the window's order.

    The key (encoder, length) holds the mean of the newest vectors of that encoder and length. The
    key ("@place", 2) holds the last latitude and longitude.
    """
    by_encoder: dict[tuple[str, int], list[list[float]]] = defaultdict(list)
    for event in events:
        if event.media is not None:
            encoder, vector = event.media
            length = math.sqrt(sum(number**2 for number in vector))
            by_encoder[encoder, len(vector)].append([number / length for number in vector])
    inputs = {}
    for key, vectors in by_encoder.items():
        newest = vectors[-VECTORS_PER_ENCODER:]
        inputs[key] = [sum(numbers) / len(newest) for numbers in zip(*newest, strict=True)]
    places = [event.place for event in events if event.place is not None]
    if places:
        inputs["@place", 2] = list(places[-1])
    return inputs
