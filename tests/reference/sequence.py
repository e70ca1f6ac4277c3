"""The tokens of models.fraud.sequence.tokens in plain Python, one event at a time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np

from models.fraud.sequence.network import SequenceShape
from models.fraud.sequence.tokens import FIELD_OFFSETS, SOURCES, TokenSequences
from tests.reference.entity_features import (
    DAY,
    ENTITIES,
    HOUR,
    LETTERS,
    Arrival,
    Event,
    Label,
    entries,
)

Fields = dict[str, int]


def sequence(
    arrivals: list[Arrival], upto: int, shape: SequenceShape, keep: int = 128
) -> list[Fields]:
    """The tokens of the event at `upto`. keep: how many entries a list of the job holds."""
    return [
        token
        for source in shape.sources
        for token in _of_source(entries(arrivals, upto, source, keep)[-shape.keep :], source,
                                arrivals[upto].time_ms)
    ]  # fmt: skip


def tokens(sequences: Sequence[list[Fields]]) -> TokenSequences:
    """As the model reads them."""
    rows = [
        [first + token[name] for name, first in FIELD_OFFSETS.items()]
        for one in sequences
        for token in one
    ]
    starts = np.cumsum([0, *map(len, sequences)])
    return TokenSequences(starts, np.array(rows, np.uint8).reshape(-1, len(FIELD_OFFSETS)))


def _of_source(held: list[Arrival], source: str, now_ms: int) -> list[Fields]:
    known = sorted((one for one in held if one.time_ms <= now_ms), key=lambda one: one.time_ms)
    verdicts = {one.event.id: 1 + one.fraud for one in known if isinstance(one, Label)}
    past: list[Event] = []
    for one in known:
        if isinstance(one, Event) and (one.id, one.time_ms) not in {
            (e.id, e.time_ms) for e in past
        }:
            past.append(one)
    bought = [one.amount for one in past[:-1] if one.type == "purchase" and one.amount > 0]
    usual = statistics.median_low(bought) if bought else None
    found = []
    for place, one in enumerate(past):
        weekend = (one.time_ms // DAY + 3) % 7 >= 5
        fields = {
            "source": SOURCES.index(source),
            "type_and_label": 3 * "abcdefghijkl".index(LETTERS[one.type]) + verdicts.get(one.id, 0),
            "amount": min(int(2 * math.log1p(one.amount)), 15),
            "ratio": 13,
            "gap": 24 if place == 0 else _octave(one.time_ms - past[place - 1].time_ms),
            "age": _octave(now_ms - one.time_ms),
            "hour": one.time_ms // HOUR % 24 + 24 * weekend,
            **dict.fromkeys((*ENTITIES, "user"), 0),
        }
        if usual and one.type == "purchase" and one.amount > 0:
            fields["ratio"] = min(max(round(2 * math.log2(one.amount / usual)) + 6, 0), 12)
        for name in ENTITIES if source == "user" else ("user",):
            value = getattr(one, name)
            if value:
                new = value not in {getattr(earlier, name) for earlier in past[:place]}
                fields[name] = 1 + 2 * (value == getattr(past[-1], name)) + new
        found.append(fields)
    return found


def _octave(ms: int) -> int:
    return min(int(math.log2(1 + ms / 1_000)), 23)
