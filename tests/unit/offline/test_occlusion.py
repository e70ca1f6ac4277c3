"""Effects of a window's events, against streams in which the event never came."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks.load.workload import EventMessage
from liveprofile.settings import load
from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS
from offline.occlusion import TARGETS, WindowEffects, occlusion_effects, served_values
from tests.support.rows.profile_input import batches
from udfs.profile.batch import ProfileBatch

SETTINGS = load(window={"length_ms": DAY_MS})
START_MS = 1_500_000_000_000 // DAY_MS * DAY_MS
DAYS = 12
TOLERANCE = {"churn": 2e-5, "expected_spend": 2e-3, "interests": 5e-5}  # of float32 and rounding

Event = dict[str, Any]


def event(day: int, number: int, kind: str, item: str, category: str, price: float = 3.0) -> Event:
    return {
        "event_id": f"{day}-{number}",
        "user_id": "u",
        "event_type": kind,
        "event_time": START_MS + day * DAY_MS + 9 * HOUR_MS + number * MINUTE_MS,
        "item_id": item,
        "category_id": category,
        "price": price,
        "quantity": 1,
    }


def habit(model: Any) -> list[Event]:
    """Three usual things on each of some days."""
    return [
        event(2 * day, number, "purchase", model.items[10 * number], model.categories[number])
        for day in range(DAYS)
        for number in range(3)
    ]


def rows(events: Sequence[Event]) -> list[ProfileBatch]:
    """The rows of the user's windows, in order of time."""
    ordered = sorted(events, key=lambda each: each["event_time"])
    messages = [EventMessage(b"u", json.dumps(each).encode()) for each in ordered]
    return list(batches(iter(messages), SETTINGS, 1_000))


def effects(model: Any, window: list[Event]) -> WindowEffects:
    *_, earlier, row = rows([*habit(model), *window])
    return occlusion_effects(row, earlier, model)


def random_window(model: Any, random: np.random.Generator) -> list[Event]:
    return [
        event(
            2 * DAYS,
            7 * number,
            str(random.choice(["purchase", "purchase", "view", "return"])),
            model.items[int(random.integers(60))],
            model.categories[int(random.integers(12))],
            round(float(random.lognormal(1.0, 1.0)), 2),
        )
        for number in range(6)
    ]


def divergence(first: dict[str, float], second: dict[str, float]) -> float:
    """Jensen-Shannon, of categories that both have or that one has more of than all others."""
    total = 0.0
    for name in {*first, *second}:
        one = first.get(name, min(*first.values(), second.get(name, 1.0)))
        other = second.get(name, min(*second.values(), first.get(name, 1.0)))
        middle = (one + other) / 2
        total += (one * math.log(one / middle) + other * math.log(other / middle)) / 2
    return total


def test_effects_are_the_movements_of_streams_that_lack_the_event(model: Any) -> None:
    random = np.random.default_rng(3)
    moved_by_top, moved_by_others = ({name: [] for name in TARGETS} for _ in range(2))
    for _ in range(8):
        window = random_window(model, random)
        found = effects(model, window)
        *_, row = rows([*habit(model), *window])
        assert [found.served] == served_values(row, model)
        assert [each.event_id for each in found.effects] == [each["event_id"] for each in window]
        actual = {}
        for missing, claimed in zip(window, found.effects, strict=True):
            kept = [each for each in window if each is not missing]
            *_, row = rows([*habit(model), *kept])
            [without] = served_values(row, model)
            actual[missing["event_id"]] = moved = {
                "churn": found.served.churn - without.churn,
                "expected_spend": found.served.expected_spend - without.expected_spend,
                "interests": divergence(found.served.interests, without.interests),
            }
            for name, tolerance in TOLERANCE.items():
                assert getattr(claimed, name) == pytest.approx(moved[name], abs=tolerance), name
        for name in TARGETS:
            [top] = found.strongest(name, 1)
            sizes = {event_id: abs(moved[name]) for event_id, moved in actual.items()}
            moved_by_top[name].append(sizes.pop(top.event_id))
            moved_by_others[name].append(float(np.mean(list(sizes.values()))))
    for name in TARGETS:  # in the streams, so an order that means nothing would fail
        assert np.mean(moved_by_top[name]) > 1.5 * np.mean(moved_by_others[name]), name


def test_only_event_of_a_window_is_compared_with_the_profile_before_it(model: Any) -> None:
    only = event(2 * DAYS + 30, 0, "purchase", model.items[500], model.categories[40])
    *_, earlier, row = rows([*habit(model), only])
    [effect] = occlusion_effects(row, earlier, model).effects
    [before], [after] = served_values(earlier, model), served_values(row, model)
    # A month without a purchase has raised churn meanwhile.
    assert after.churn - effect.churn > before.churn
    for category, without, stored in effect.moved_interests:
        assert without == before.interests.get(category, min(before.interests.values()))
        assert stored == after.interests.get(category, min(after.interests.values()))
    [row] = rows([only])
    [first] = occlusion_effects(row, None, model).effects
    assert all(without == 0.0 for _, without, _ in first.moved_interests)


def test_window_whose_events_cannot_be_read_is_an_error(model: Any) -> None:
    [row] = rows([event(0, 0, "view", "i", "c")])
    broken = row._replace(events=[row.events[0].replace("{", "[")])
    with pytest.raises(ValueError, match="without events"):
        occlusion_effects(broken, None, model)
