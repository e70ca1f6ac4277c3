"""The tokens of models.fraud.sequence.tokens in plain Python, one event at a time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np

from models.fraud.sequence.network import SequenceShape
from models.fraud.sequence.tokens import FIELD_OFFSETS, SOURCES, TokenSequences
from tests.reference.entity_features import (
    ENTITIES,
    TYPE_LETTERS,
    Arrival,
    Event,
    Label,
    entity_list,
)
from tests.reference.units import DAY_MS, HOUR_MS

Fields = dict[str, int]


def token_sequence(
    arrivals: list[Arrival], position: int, shape: SequenceShape, max_entries: int = 128
) -> list[Fields]:
    """Returns the tokens of the event at `position`. max_entries: the length of a list."""
    now_ms = arrivals[position].time_ms
    tokens = []
    for source in shape.sources:
        entries = entity_list(arrivals, position, source, max_entries)[-shape.keep :]
        tokens += _tokens_of_list(entries, source, now_ms)
    return tokens


def to_token_sequences(sequences: Sequence[list[Fields]]) -> TokenSequences:
    """Encodes sequences as the model reads them."""
    rows = [
        [first + token[name] for name, first in FIELD_OFFSETS.items()]
        for sequence in sequences
        for token in sequence
    ]
    starts = np.cumsum([0, *map(len, sequences)])
    return TokenSequences(starts, np.array(rows, np.uint8).reshape(-1, len(FIELD_OFFSETS)))


def _tokens_of_list(entries: list[Arrival], source: str, now_ms: int) -> list[Fields]:
    in_time_order = sorted(
        (entry for entry in entries if entry.time_ms <= now_ms), key=lambda entry: entry.time_ms
    )
    labels = {
        label.event.id: 1 + label.fraud for label in in_time_order if isinstance(label, Label)
    }
    past: list[Event] = []
    for entry in in_time_order:
        known = {(event.id, event.time_ms) for event in past}
        if isinstance(entry, Event) and (entry.id, entry.time_ms) not in known:
            past.append(entry)
    amounts = [event.amount for event in past[:-1] if event.type == "purchase" and event.amount > 0]
    usual = statistics.median_low(amounts) if amounts else None
    tokens = []
    for index, event in enumerate(past):
        weekend = (event.time_ms // DAY_MS + 3) % 7 >= 5
        type_index = "abcdefghijkl".index(TYPE_LETTERS[event.type])
        fields = {
            "source": SOURCES.index(source),
            "type_and_label": 3 * type_index + labels.get(event.id, 0),
            "amount": min(int(2 * math.log1p(event.amount)), 15),
            "ratio": 13,
            "gap": 24 if index == 0 else _octave(event.time_ms - past[index - 1].time_ms),
            "age": _octave(now_ms - event.time_ms),
            "hour": event.time_ms // HOUR_MS % 24 + 24 * weekend,
            **dict.fromkeys((*ENTITIES, "user"), 0),
        }
        if usual and event.type == "purchase" and event.amount > 0:
            fields["ratio"] = min(max(round(2 * math.log2(event.amount / usual)) + 6, 0), 12)
        for name in ENTITIES if source == "user" else ("user",):
            value = getattr(event, name)
            if value:
                new = value not in {getattr(earlier, name) for earlier in past[:index]}
                fields[name] = 1 + 2 * (value == getattr(past[-1], name)) + new
        tokens.append(fields)
    return tokens


def _octave(ms: int) -> int:
    return min(int(math.log2(1 + ms / 1_000)), 23)
