"""A made-up shop in which what comes with an event foretells the next one, and nothing else does.

Each user has one window a day. What is bought is drawn anew each day; the picture that comes with a
day's purchase, the place of it, or what is searched for, tells the category of the day after.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.load.events import EventMessage
from liveprofile.units import DAY_MS

FIRST_DAY_MS = 1_483_228_800_000  # 2017-01-01
CATEGORIES, NUMBERS = 24, 12
ENCODER = "clip-tiny"
NOUNS = (
    "bread", "shoes", "guitars", "tents", "cameras", "roses", "bicycles", "lamps", "novels",
    "cheese", "laptops", "perfume", "tyres", "sofas", "whisky", "dolls", "sunglasses", "paint",
    "coffee", "aquariums", "candles", "skis", "jeans", "knives",
)  # fmt: skip
NOISE = 0.3  # of each number of a vector; its centre has length 1


def centres() -> np.ndarray:
    """(CATEGORIES, NUMBERS) of length 1."""
    centre = np.random.default_rng(1).normal(size=(CATEGORIES, NUMBERS))
    return centre / np.linalg.norm(centre, axis=1, keepdims=True)


def vector(category: int, random: np.random.Generator, common: float) -> list[float]:
    one = centres()[category] + random.normal(0, NOISE, NUMBERS)
    one[0] += common
    return one.round(4).tolist()


def place(category: int, random: np.random.Generator) -> dict[str, float]:
    """Each category has a town, and towns lie degrees apart."""
    lat, lon = random.uniform(0, 0.02, 2)
    return {"lat": 40.01 + category + lat, "lon": 10.01 - 2 * category + lon}


def events(
    users: int,
    days: int,
    brings: str,
    seed: int = 5,
    shuffled: bool = False,
    common: float = 0.0,
) -> Iterator[dict[str, Any]]:
    """brings: "media", "place", "text" or "nothing"; shuffled: it tells of some other day instead;
    common: how much all vectors have in common."""
    random = np.random.default_rng(seed)
    category = random.integers(0, CATEGORIES, (days + 1, users))
    told = random.permuted(category) if shuffled else category
    for day in range(days):
        for user in range(users):
            event: dict[str, Any] = {
                "event_id": f"{seed}-{user}-{day}",
                "user_id": f"u{seed}-{user}",
                "event_type": "purchase",
                "event_time": FIRST_DAY_MS + day * DAY_MS + 600_000,
                "item_id": f"i{category[day, user]}",
                "category_id": f"c{category[day, user]}",
                "price": 10,
            }
            about = told[day + 1, user]
            if brings == "media":
                given = {"encoder": ENCODER, "vector": vector(about, random, common)}
                event["media_embedding"] = given
            elif brings == "place":
                event["place"] = place(about, random)
            elif brings == "text":
                event["query"] = f"where do I find good {NOUNS[about]}?"
            yield event


def messages(*args: Any, **more: Any) -> Iterator[EventMessage]:
    for event in events(*args, **more):
        yield EventMessage(event["user_id"].encode(), json.dumps(event).encode())
