"""The load of the benchmarks: seeded behaviour events, a few users making most of them.

python -m benchmarks.load.events --events 400000 --out events.jsonl
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer

from liveprofile.config import WindowSettings
from liveprofile.events import window_times
from liveprofile.units import HOUR_MS

START_MS = 1_700_006_400_000  # 2023-11-15 00:00 UTC
ITEMS, CATEGORIES = 5_000, 100
TYPES = ("view", "cart", "favorite", "search", "purchase")
TYPE_SHARES = (0.80, 0.08, 0.04, 0.04, 0.04)
CHANNELS = ("app", "web", "shop")
WINDOW = WindowSettings()


class Message(NamedTuple):
    key: bytes  # user_id
    value: bytes  # JSON, 200 to 300 bytes


def zipf_shares(ranks: int, exponent: float) -> np.ndarray:
    """(ranks,) probabilities proportional to rank^-exponent: a Zipf law that ends."""
    shares = np.arange(1, ranks + 1, dtype=np.float64) ** -exponent
    return shares / shares.sum()


def events(
    n: int = 400_000,
    users: int = 20_000,
    zipf: float = 1.3,
    hours: float = 6,
    seed: int = 1,
    start_ms: int = START_MS,
) -> Iterator[Message]:
    """`n` events in order of time over `hours` from `start_ms` on.

    The user is `rank % users` with rank of an unbounded Zipf law (exponent > 1), so that the far
    tail spreads evenly over all users; items and categories follow bounded Zipf laws. Two seeds
    share no event_id.
    """
    rng, time_ms, user = times_and_users(n, users, zipf, hours, seed, start_ms)
    kind = rng.choice(len(TYPES), n, p=TYPE_SHARES)
    item = rng.choice(ITEMS, n, p=zipf_shares(ITEMS, 1.1))
    category_of = rng.choice(CATEGORIES, ITEMS, p=zipf_shares(CATEGORIES, 1.0))
    price_of = np.round(np.exp(rng.normal(3.0, 0.9, ITEMS)) + 0.5, 2)
    quantity = rng.geometric(0.8, n)
    # One session an hour, one or two devices, and one preferred channel for each user.
    session = time_ms // HOUR_MS
    device = rng.random(n) < 0.2
    columns = zip(
        time_ms.tolist(), user.tolist(), kind.tolist(), item.tolist(), category_of[item].tolist(),
        price_of[item].tolist(), quantity.tolist(), session.tolist(), device.tolist(), strict=True,
    )  # fmt: skip
    for number, row in enumerate(columns):
        at_ms, who, type_index, what, category, price, count, hour, other_device = row
        user_id = _user_id(who)
        bought = f',"quantity":{count}' if TYPES[type_index] in ("purchase", "cart") else ""
        text = (
            f'{{"event_id":"e{seed}-{number:09d}","user_id":"{user_id}"'
            f',"event_type":"{TYPES[type_index]}","event_time":{at_ms}'
            f',"item_id":"i{what:06d}","category_id":"c{category:03d}","price":{price}{bought}'
            f',"session_id":"s{who:07d}-{hour}","device_id":"d{who:07d}-{int(other_device)}"'
            f',"channel":"{CHANNELS[who % len(CHANNELS)]}"}}'
        )
        yield Message(user_id.encode(), text.encode())


def _user_id(number: int) -> str:
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
    """How many profiles `events` with these arguments make: distinct pairs of user and window.

    until_ms: of windows that end by then; None: of all
    """
    _rng, time_ms, user = times_and_users(n, users, zipf, hours, seed, start_ms)
    shift_ms = np.array([window_times.shift_ms(_user_id(who), window) for who in range(users)])
    end_ms = window_times.end_ms(time_ms, shift_ms[user], window)
    closed = slice(None) if until_ms is None else end_ms <= until_ms
    return len(np.unique((end_ms * users + user)[closed]))


def times_and_users(
    n: int, users: int, zipf: float, hours: float, seed: int, start_ms: int = START_MS
) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """The generator after its first draws, (n,) ascending times in ms and (n,) user numbers."""
    rng = np.random.default_rng(seed)
    time_ms = start_ms + np.sort(rng.integers(0, int(hours * HOUR_MS), n))
    return rng, time_ms, rng.zipf(zipf, n) % users


def main(
    out: Annotated[Path, typer.Option(help="JSON lines; each line is one record's value.")],
    n: Annotated[int, typer.Option("--events", min=1)] = 400_000,
    users: Annotated[int, typer.Option(min=1)] = 20_000,
    zipf: Annotated[float, typer.Option(help="Exponent of the users' Zipf law.", min=1.01)] = 1.3,
    hours: Annotated[float, typer.Option(help="Event time that the load spans.", min=0.01)] = 6,
    seed: int = 1,
) -> None:
    """Writes the benchmark load, and says how many profiles it makes with 5-minute windows."""
    size = 0
    with out.open("wb") as file:
        for message in events(n, users, zipf, hours, seed):
            size += file.write(message.value + b"\n")
    profiles = user_windows(n, users, zipf, hours, seed)
    count = math.ceil(hours * HOUR_MS / WINDOW.length_ms)
    typer.echo(f"{n} events of {size / n:.0f} bytes in {count} windows, {profiles} profiles: {out}")


if __name__ == "__main__":
    typer.run(main)
