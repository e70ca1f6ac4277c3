"""What the profile of a user says at a window, for classifiers on top of it.

Shape suffixes: W windows, F features.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from models.profile.data.examples import build_corpus
from models.profile.data.moments import user_features_at
from models.profile.data.training_rows import Streams
from models.profile.encoding import Vocabulary
from models.profile.recipes import Recipe
from models.trained_users import user_key


class UserFeatures:
    """Computes the profile's user features at the ends of windows."""

    def __init__(self, recipe: Recipe, streams: Streams):
        none = Vocabulary([], 1)  # names do not matter for numbers
        self._recipe, self._end_ms_W = recipe, streams.end_ms_W
        self._corpus = build_corpus(streams, none, none)

    def at(self, window_W: np.ndarray) -> np.ndarray:
        """(W, F) user features."""
        return user_features_at(self._corpus, self._recipe, window_W, self._end_ms_W[window_W])


def user_codes(key_U: np.ndarray, users: Iterable[str]) -> np.ndarray:
    """The index of each user's key in `Streams.user_key_U`, -1 if it has none."""
    code = {key: index for index, key in enumerate(key_U.tolist())}
    return np.array([code.get(user_key(user).rstrip(b"\0"), -1) for user in users], np.int64)
