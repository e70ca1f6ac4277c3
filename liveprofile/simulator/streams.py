"""One seed, many independent streams of random numbers.

Each stream hangs on the seed and its own key alone (numpy's SeedSequence with a spawn key), so
that what one part draws never moves what another does.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    WORLD = 0
    PEOPLE = 1
    PLAN = 2
    NAMES = 3
    DAY = 4  # and the day
    WEEK = 5  # and the week
    CASE = 6  # and the case
    SCENARIO = 7


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, *key)))
