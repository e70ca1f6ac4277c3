"""Computed attributes by the real job against tests/reference/computed.py."""

import itertools
import math
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from liveprofile.attributes.computed import values_at
from liveprofile.settings import load
from tests.pipeline.comparison import in_one_partition
from tests.pipeline.harness import run_profile_pipeline
from tests.reference import computed
from tests.reference.windows import Classification, classify
from tests.support.streams import seeded
from tests.support.streams.shop import shop_events

NUMBERS = ("price", "amount", "quantity", "rating")
OWN_TYPES = {"Order Completed": "purchase", "wish:list": "favorite", "play": "view"}
TYPES = ("view", "cart", "purchase", "review", "search", *OWN_TYPES)
EVENT_TYPES = """
version = '1'
[[event_types]]
id = 'Order Completed'
role = 'purchase'
properties = { tax = { type = 'number', min = 0, max = 90 }, plan = { type = 'text' } }
[[event_types]]
id = 'play'
role = 'view'
properties = { tax = { type = 'number' } }
[[event_types]]
id = 'wish:list'
role = 'favorite'
"""
CONDITIONS = (
    "",
    "amount > 20",
    "not (rating > 2)",
    "rating != 3 or quantity <= 2 and amount >= 5",
    'event_type in ["view", "cart"] and not item_id == ""',
    "1 < quantity <= 3",
    "max(amount, 10) - abs(quantity) >= 8",
    'plan != "gold" and not tax < 20',
)
VALUES = ("amount", "quantity", "rating", "amount / quantity", "-amount + 2", "tax * 2")
SPANS = ("", "5 min", "30 min", "2 h", "1 d", "3 d", "400 d")


def random_definition(rng: random.Random) -> dict[str, Any]:
    aggregates = ("count", "sum", "mean", "min", "max", "first", "last", "hours_since")
    aggregate = rng.choice(aggregates)
    return {
        "of": sorted(rng.sample(TYPES, rng.randint(0, 3))),
        "where": rng.choice(CONDITIONS),
        "aggregate": aggregate,
        "value": "" if aggregate in ("count", "hours_since") else rng.choice(VALUES),
        "within": rng.choice(SPANS),
        "since_last": rng.choice(("", "", *TYPES[1:4])),
    }


def test_random_definitions_equal_reference(tmp_path: Path) -> None:
    """A stream with duplicates, late and broken events; events of one millisecond."""
    rng = random.Random(6)
    definitions = {f"a{number}": random_definition(rng) for number in range(100)}
    path, types = tmp_path / "attributes.toml", tmp_path / "events.toml"
    types.write_text(EVENT_TYPES)
    path.write_text(
        "version = '1'\n"
        + "".join(
            f"[[attributes]]\nid = '{name}'\ntype = 'number'\ndescription = '.'\n"
            "[attributes.computed]\n"
            + "".join(f"{key} = {orjson.dumps(value).decode()}\n" for key, value in each.items())
            for name, each in definitions.items()
        )
    )
    events = [
        event
        | {"event_time": event["event_time"] // 600_000 * 600_000}
        | rng.choice(({}, {"rating": rng.randint(1, 5)}, {"quantity": rng.randint(0, 4)}))
        | own_type(event, rng)
        for event in itertools.islice(shop_events(5, 8, 200_000), 900)
    ]
    stream = seeded.with_faults(events, seed=7, duplicates=0.02, late=0.02, broken=0.02)
    records = in_one_partition(stream.messages)
    settings = load(
        job={"parallelism": 1, "name": "pipeline"}, attributes=str(path), event_types=str(types)
    )
    output = run_profile_pipeline(records, settings, tmp_path)

    result = Classification()
    classify(records, settings, None, None, result)
    of_user: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        if (record.partition, record.offset) in result.used:
            of_user.setdefault((event := fields(record.value))["user_id"], []).append(event)
    compared = unknown = 0
    for (user_id, end_ms), row in rng.sample(sorted(output.sink.deltas.items()), 80):
        known = [event for event in of_user[user_id] if event["time_ms"] < end_ms]
        at_ms = end_ms + rng.choice((0, rng.randint(1, 10_000_000)))
        found = values_at(orjson.loads(row.profile)["attribute_tiles"], at_ms)
        assert found.keys() == definitions.keys()
        for name, definition in definitions.items():
            expected = computed.value_at(definition, known, at_ms)
            compared, unknown = compared + 1, unknown + (expected is None)
            nearly = None if expected is None else pytest.approx(expected, rel=1e-9)
            assert found[name] == nearly, (name, definition, user_id)
    assert compared > 7_000 and 0.05 < unknown / compared < 0.6


def fields(payload: bytes) -> dict[str, Any]:
    event = orjson.loads(payload)
    texts = {name: str(event.get(name, "")) for name in ("user_id", "event_type", "item_id")}
    own = event.get("attributes") or {}
    declared = texts["event_type"] in ("Order Completed", "play")
    texts["plan"] = own.get("plan", "") if texts["event_type"] == "Order Completed" else ""
    tax = float(own.get("tax", math.nan)) if declared else math.nan
    present = {name: float(value) for name in NUMBERS if (value := event.get(name)) is not None}
    product = present.get("price", 0.0) * present.get("quantity", 1.0)
    numbers = dict.fromkeys(NUMBERS, math.nan) | {"amount": product} | present
    role = OWN_TYPES.get(texts["event_type"], texts["event_type"])
    names = {"event_name": texts["event_type"], "event_type": role, "tax": tax}
    return texts | numbers | names | {"time_ms": event["event_time"]}


def own_type(event: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Another name of the type in a part of the events, and properties that it may have."""
    role = event["event_type"]
    names = [name for name, of in OWN_TYPES.items() if of == role]
    properties = rng.choice(({}, {"tax": rng.randint(0, 100)}, {"tax": "7.5", "plan": "gold"}))
    return {"event_type": rng.choice([role, *names]), "attributes": {"x": 1, **properties}}
