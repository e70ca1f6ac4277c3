"""Independent streams of random numbers from one seed.

Each stream depends only on the seed and its own key (numpy's SeedSequence with a spawn key), so
a change in the draws of one part does not change the draws of another.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class RandomStream(IntEnum):
    WORLD = 0
    PEOPLE = 1
    PLAN = 2
    IDS = 3  # further key: the id prefix
    DAY = 4  # further key: the day
    WEEK = 5  # further key: the week
    CASE = 6  # further key: the case number
    SCENARIO = 7


def random_generator(seed: int, stream: RandomStream, *key: int) -> np.random.Generator:
    """The random number generator of one stream."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, *key)))
