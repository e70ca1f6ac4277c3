"""The sentence encoder gives the published model's vectors."""

from __future__ import annotations

import numpy as np
import pytest

from models.profile import text_encoder

pytestmark = pytest.mark.slow

# The first four numbers that sentence-transformers 6.2.0 returns for all-MiniLM-L6-v2.
PUBLISHED = (0.0284567, -0.0059969, 0.0226263, -0.0018348)


def test_vector_equals_that_of_sentence_transformers() -> None:
    vectors = text_encoder.encode(["yogurt with fruit", "", "a text that needs padding"])
    np.testing.assert_allclose(vectors[0, :4], PUBLISHED, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0, 1], atol=1e-5)


def test_vector_does_not_depend_on_the_other_texts() -> None:
    alone = text_encoder.encode(["motor oil"])
    together = text_encoder.encode(["motor oil", "word " * 400])
    np.testing.assert_allclose(alone[0], together[0], atol=1e-6)
