"""What windows bring beside tokens: vectors that came with events, and the place.

Pictures, voices, texts: whatever a shop encodes. Rules: docs/data-contract.md, section 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

FIELD = "media_embedding"
PER_ENCODER = 3  # the newest of a window: more would say little more
MOST_NUMBERS = 1_024
LARGEST_NUMBER = 1e9
_NAME = re.compile(r"[a-z0-9._-]{1,64}")


class Modality(NamedTuple):
    """Vectors that can be compared: those of one encoder and one length."""

    name: str  # the encoder's
    numbers: int


# No encoder has such a name.
PLACE = Modality("@place", 2)  # latitude and longitude
TEXT = Modality("@text", 384)  # of the packaged sentence encoder: models/profile/text_encoder.py
TEXT_CHARS = 1_000  # of what it is given; it reads the first 256 word pieces

Vectors = Mapping[Modality, np.ndarray]  # of one window: (numbers,) float32 each
NOTHING: Vectors = MappingProxyType({})


class Beside(NamedTuple):
    """Of one window."""

    vectors: Vectors = NOTHING
    ignored: int = 0  # events whose vector is broken or of no known modality


NOTHING_BESIDE = Beside()


def beside(
    given: list[Any], place: tuple[float, float] | None, known: Container[Modality] | None
) -> Beside:
    """Of each modality the mean of the newest vectors, each scaled to length 1; and the last place.

    given: the events' `media_embedding`, in their order. known: which modalities are read; None:
    all.
    """
    if not given and place is None:  # as nearly all windows are
        return NOTHING_BESIDE
    newest: dict[Modality, list[np.ndarray]] = {}
    ignored = 0
    for one in reversed(given):
        modality = _modality(one)
        if modality is None or (known is not None and modality not in known):
            ignored += one is not None
        elif len(units := newest.setdefault(modality, [])) < PER_ENCODER:
            unit = _unit(one["vector"])
            if unit is None:
                ignored += 1
            else:
                units.append(unit)
    vectors = {
        modality: np.mean(units, axis=0).astype(np.float32)
        for modality, units in newest.items()
        if units
    }
    if place is not None and (known is None or PLACE in known):
        vectors[PLACE] = np.array(place, np.float32)
    return Beside(vectors, ignored)


def newest_text(events: Sequence[Mapping[str, Any]]) -> str:
    """Of the last event that has one: what was written, else what was searched for."""
    for event in reversed(events):
        for field in ("text", "query"):
            text = event.get(field)
            if isinstance(text, str) and (text := text.strip()):
                return text[:TEXT_CHARS]
    return ""


def with_texts(
    vectors: Sequence[Vectors], texts: Sequence[str], encode: Callable[[list[str]], np.ndarray]
) -> list[Vectors]:
    """What n windows bring, with their texts; encode: n texts to (n, numbers) float32."""
    found = list(vectors)
    some = [row for row, text in enumerate(texts) if text]
    if some:
        encoded = encode([texts[row] for row in some])
        for row, vector in zip(some, encoded, strict=True):
            found[row] = {**found[row], TEXT: vector}
    return found


def _modality(given: Any) -> Modality | None:
    """None for what is broken at first sight; the numbers are not looked at."""
    if not isinstance(given, dict):
        return None
    name, vector = given.get("encoder"), given.get("vector")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return None
    if not isinstance(vector, list) or not 0 < len(vector) <= MOST_NUMBERS:
        return None
    return Modality(name, len(vector))


def _unit(vector: list[Any]) -> np.ndarray | None:
    """(numbers,) float64 of length 1; None for what is no direction."""
    if not {*map(type, vector)} <= {float, int}:
        return None
    numbers = np.array([float(one) if abs(one) <= LARGEST_NUMBER else np.nan for one in vector])
    length = np.linalg.norm(numbers)
    return numbers / length if length > 0 else None  # NaN compares false
