"""A synthetic shop where only the vectors of an event predict the user's next purchase.

Each user has one window a day. The category bought is drawn anew each day. The media vector, place
or query of a day's purchase tells the category of the next day.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.load.workload import EventMessage
from liveprofile.units import DAY_MS

FIRST_DAY_MS = 1_483_228_800_000  # 2017-01-01
CATEGORIES, VECTOR_LENGTH = 24, 12
ENCODER = "clip-tiny"
NOUNS = (
    "bread", "shoes", "guitars", "tents", "cameras", "roses", "bicycles", "lamps", "novels",
    "cheese", "laptops", "perfume", "tyres", "sofas", "whisky", "dolls", "sunglasses", "paint",
    "coffee", "aquariums", "candles", "skis", "jeans", "knives",
)  # fmt: skip
NOISE_STD = 0.3  # of each number of a vector, whose centre has length 1


def category_centres() -> np.ndarray:
    """Returns a unit vector per category, (CATEGORIES, VECTOR_LENGTH)."""
    centres = np.random.default_rng(1).normal(size=(CATEGORIES, VECTOR_LENGTH))
    return centres / np.linalg.norm(centres, axis=1, keepdims=True)


def media_vector(category: int, random: np.random.Generator, common: float) -> list[float]:
    vector = category_centres()[category] + random.normal(0, NOISE_STD, VECTOR_LENGTH)
    vector[0] += common
    return vector.round(4).tolist()


def place(category: int, random: np.random.Generator) -> dict[str, float]:
    """Returns a place in the category's town. Towns are at least a degree apart."""
    lat, lon = random.uniform(0, 0.02, 2)
    return {"lat": 40.01 + category + lat, "lon": 10.01 - 2 * category + lon}


def events(
    users: int, days: int, modality: str, seed: int = 5, shuffled: bool = False, common: float = 0.0
) -> Iterator[dict[str, Any]]:
    """Yields purchases of `users` users, one a day.

    modality: "media", "place", "text" or "nothing".
    shuffled: the vectors tell the category of an unrelated purchase instead.
    common: added to the first number of every vector, so that all vectors are alike.
    """
    random = np.random.default_rng(seed)
    category = random.integers(0, CATEGORIES, (days + 1, users))
    predicted = random.permuted(category) if shuffled else category
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
            next_category = predicted[day + 1, user]
            if modality == "media":
                vector = media_vector(next_category, random, common)
                event["media_embedding"] = {"encoder": ENCODER, "vector": vector}
            elif modality == "place":
                event["place"] = place(next_category, random)
            elif modality == "text":
                event["query"] = f"where do I find good {NOUNS[next_category]}?"
            yield event


def messages(*args: Any, **options: Any) -> Iterator[EventMessage]:
    """Takes the arguments of `events`; yields keyed messages."""
    for event in events(*args, **options):
        yield EventMessage(event["user_id"].encode(), json.dumps(event).encode())
