"""Generated card transactions with frauds."""

from datetime import date
from typing import NamedTuple

import numpy as np

from liveprofile.units import DAY_MS

START_DAY = (date(2018, 4, 1) - date(1970, 1, 1)).days
DELAY_DAYS = 3


class Transactions(NamedTuple):
    """N transactions in order of time."""

    time_ms_N: np.ndarray
    card_N: np.ndarray
    terminal_N: np.ndarray
    amount_N: np.ndarray
    fraud_N: np.ndarray


def make_transactions(count: int = 1_500, days: int = 50, seed: int = 7) -> Transactions:
    """Terminals are compromised for ten days; some cards spend far more than usual for a week."""
    random = np.random.default_rng(seed)
    time_ms = np.sort(random.integers(START_DAY * DAY_MS, (START_DAY + days) * DAY_MS, count))
    card, terminal = random.integers(0, 40, count), random.integers(0, 25, count)
    amount = np.round(random.lognormal(3, 0.3, count) * (1 + card % 5), 2)
    day = time_ms // DAY_MS - START_DAY
    bad = (day // 10 % 25 == terminal) | (day // 10 % 25 == terminal - 10)
    leaked = (day // 7 == card % 40) & (random.random(count) < 0.5)
    return Transactions(time_ms, card, terminal, np.where(leaked, 5 * amount, amount), bad | leaked)
