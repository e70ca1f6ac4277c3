"""Generates the benchmark workload: seeded behaviour events, most of them from few users."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from liveprofile.events import window_times
from liveprofile.settings import WindowSettings
from liveprofile.units import HOUR_MS

START_MS = 1_700_006_400_000  # 2023-11-15 00:00 UTC
ITEMS, CATEGORIES = 5_000, 100
TYPES = ("view", "cart", "favorite", "search", "purchase")
TYPE_SHARES = (0.80, 0.08, 0.04, 0.04, 0.04)
CHANNELS = ("app", "web", "shop")
WINDOW = WindowSettings()


class EventMessage(NamedTuple):
    key: bytes  # user_id
    value: bytes  # JSON, 200 to 300 bytes


def zipf_shares(ranks: int, exponent: float) -> np.ndarray:
    """(ranks,) probabilities proportional to rank^-exponent: a bounded Zipf law."""
    shares = np.arange(1, ranks + 1, dtype=np.float64) ** -exponent
    return shares / shares.sum()


def events(
    n: int = 400_000,
    users: int = 20_000,
    zipf: float = 1.3,
    hours: float = 6,
    seed: int = 1,
    start_ms: int = START_MS,
) -> Iterator[EventMessage]:
    """Yields `n` events in order of time, over `hours` hours from `start_ms` (epoch).

    The user is `rank % users`, with a rank drawn from an unbounded Zipf law (exponent > 1), so the
    tail spreads evenly over all users. Items and categories follow bounded Zipf laws. Different
    seeds share no event_id.
    """
    rng, time_ms, user = times_and_users(n, users, zipf, hours, seed, start_ms)
    kind = rng.choice(len(TYPES), n, p=TYPE_SHARES)
    item = rng.choice(ITEMS, n, p=zipf_shares(ITEMS, 1.1))
    category_of = rng.choice(CATEGORIES, ITEMS, p=zipf_shares(CATEGORIES, 1.0))
    price_of = np.round(np.exp(rng.normal(3.0, 0.9, ITEMS)) + 0.5, 2)
    quantity = rng.geometric(0.8, n)
    # A user has a session per hour, one or two devices and one channel.
    session = time_ms // HOUR_MS
    device = rng.random(n) < 0.2
    columns = zip(
        time_ms.tolist(),
        user.tolist(),
        kind.tolist(),
        item.tolist(),
        category_of[item].tolist(),
        price_of[item].tolist(),
        quantity.tolist(),
        session.tolist(),
        device.tolist(),
        strict=True,
    )
    for number, row in enumerate(columns):
        at_ms, user_no, type_no, item_no, category_no, price, count, session_no, second = row
        user_id = user_id_of(user_no)
        quantity_field = f',"quantity":{count}' if TYPES[type_no] in ("purchase", "cart") else ""
        text = (
            f'{{"event_id":"e{seed}-{number:09d}","user_id":"{user_id}"'
            f',"event_type":"{TYPES[type_no]}","event_time":{at_ms}'
            f',"item_id":"i{item_no:06d}","category_id":"c{category_no:03d}"'
            f',"price":{price}{quantity_field}'
            f',"session_id":"s{user_no:07d}-{session_no}"'
            f',"device_id":"d{user_no:07d}-{int(second)}"'
            f',"channel":"{CHANNELS[user_no % len(CHANNELS)]}"}}'
        )
        yield EventMessage(user_id.encode(), text.encode())


def user_id_of(number: int) -> str:
    return f"u{number:07d}"


def user_windows(
    n: int,
    users: int,
    zipf: float,
    hours: float,
    seed: int,
    start_ms: int = START_MS,
    window: WindowSettings = WINDOW,
    until_ms: int | None = None,
) -> int:
    """Counts the profiles that `events` with these arguments makes: pairs of user and window.

    until_ms: counts only windows that end by this time; None counts all.
    """
    _rng, time_ms, user = times_and_users(n, users, zipf, hours, seed, start_ms)
    shift_ms = np.array(
        [window_times.stagger_offset_ms(user_id_of(who), window) for who in range(users)]
    )
    end_ms = window_times.end_ms(time_ms, shift_ms[user], window)
    closed = slice(None) if until_ms is None else end_ms <= until_ms
    return len(np.unique((end_ms * users + user)[closed]))


def times_and_users(
    n: int, users: int, zipf: float, hours: float, seed: int, start_ms: int = START_MS
) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """Returns the random generator after its first draws, (n,) ascending times in ms and (n,) user
    numbers."""
    rng = np.random.default_rng(seed)
    time_ms = start_ms + np.sort(rng.integers(0, int(hours * HOUR_MS), n))
    return rng, time_ms, rng.zipf(zipf, n) % users
