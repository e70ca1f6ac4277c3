"""Modalities of windows: embedding vectors of images, voices and texts, and the place.

A shop sends the vectors of its own encoders with its events. The rules are in
docs/data-contract.md, section 1.
"""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

EMBEDDING_FIELD = "media_embedding"
MAX_VECTORS_PER_MODALITY = 3  # the newest of a window; more add little information
MAX_DIMENSIONS = 1_024
MAX_ABS_VALUE = 1e9
_NAME = re.compile(r"[a-z0-9._-]{1,64}")


class Modality(NamedTuple):
    """A kind of comparable vectors: those of one encoder and one length."""

    name: str  # of the encoder
    numbers: int  # length of the vectors; model cards store both fields by these names


# Names of encoders cannot start with @.
PLACE = Modality("@place", 2)  # latitude and longitude
TEXT = Modality("@text", 384)  # of the packaged sentence encoder: models/profile/text_encoder.py
TEXT_CHARS = 1_000  # a longer text is cut; the encoder reads the first 256 word pieces

Vectors = Mapping[Modality, np.ndarray]  # of one window: a (numbers,) float32 array per modality
NO_VECTORS: Vectors = MappingProxyType({})


class WindowModalities(NamedTuple):
    """The modality vectors of one window."""

    vectors: Vectors = NO_VECTORS
    ignored: int = 0  # events whose vector is invalid or of an unknown modality


NO_MODALITIES = WindowModalities()


def combine_modalities(
    embeddings: list[Any], place: tuple[float, float] | None, known: Container[Modality] | None
) -> WindowModalities:
    """Averages each modality's newest vectors, scaled to length 1, and adds the last place.

    embeddings: `media_embedding` of the window's events in their order. known: the modalities to
    read; None reads all.
    """
    if not embeddings and place is None:  # true for nearly all windows
        return NO_MODALITIES
    newest: dict[Modality, list[np.ndarray]] = {}
    ignored = 0
    for embedding in reversed(embeddings):
        modality = _modality(embedding)
        if modality is None or (known is not None and modality not in known):
            ignored += embedding is not None
        elif len(units := newest.setdefault(modality, [])) < MAX_VECTORS_PER_MODALITY:
            unit = _unit_vector(embedding["vector"])
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
    return WindowModalities(vectors, ignored)


def embedding_key(embedding: Any) -> tuple[str, list[float]] | tuple[()]:
    """An embedding as a key to sort by; () for an invalid one."""
    modality = _modality(embedding)
    if modality is None or not {*map(type, embedding["vector"])} <= {float, int}:
        return ()
    limit = MAX_ABS_VALUE
    return modality.name, [float(max(-limit, min(x, limit))) for x in embedding["vector"]]


def newest_text(events: Sequence[Mapping[str, Any]]) -> str:
    """Returns the field `text`, else `query`, of the last event that has either; else ""."""
    for event in reversed(events):
        for field in ("text", "query"):
            text = event.get(field)
            if isinstance(text, str) and (text := text.strip()):
                return text[:TEXT_CHARS]
    return ""


def add_text_vectors(
    vectors: Sequence[Vectors], texts: Sequence[str], encode: Callable[[list[str]], np.ndarray]
) -> list[Vectors]:
    """Returns the vectors of n windows with their text vectors added.

    encode: maps n texts to (n, numbers) float32. It does not get empty texts.
    """
    with_texts = list(vectors)
    rows = [row for row, text in enumerate(texts) if text]
    if rows:
        encoded = encode([texts[row] for row in rows])
        for row, vector in zip(rows, encoded, strict=True):
            with_texts[row] = {**with_texts[row], TEXT: vector}
    return with_texts


def _modality(embedding: Any) -> Modality | None:
    """Returns None for an invalid embedding. Does not check the vector's numbers."""
    if not isinstance(embedding, dict):
        return None
    name, vector = embedding.get("encoder"), embedding.get("vector")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return None
    if not isinstance(vector, list) or not 0 < len(vector) <= MAX_DIMENSIONS:
        return None
    return Modality(name, len(vector))


def _unit_vector(vector: list[Any]) -> np.ndarray | None:
    """(numbers,) float64 of length 1; None for a vector without a direction."""
    if not {*map(type, vector)} <= {float, int}:
        return None
    numbers = np.array(
        [float(number) if abs(number) <= MAX_ABS_VALUE else np.nan for number in vector]
    )
    length = np.linalg.norm(numbers)
    return numbers / length if length > 0 else None  # NaN compares false
