"""Events, labels and planted cases of the simulated shop."""

import json
import math
from collections import Counter

import jsonschema
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from cli.main import app
from intake.labels import RejectedLabel, read_labels
from intake.simulator import Shop, ShopConfig
from intake.simulator.plan import HABIT_CHANGES
from liveprofile.errors import InputError
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

SMALL = dict(
    users=400, days=12, takeovers=6, card_tests=3, rings=2, honest_changes=12, campaigns=2,
    ring_users=20, ring_devices=2,
)  # fmt: skip
SCHEMA = json.loads((ROOT / "schemas/behavior-event.schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def days():
    """The days of the small shop with seed 7."""
    return list(Shop(ShopConfig(**SMALL, seed=7)))


@pytest.fixture(scope="module")
def events(days):
    return pa.concat_tables(day.events for day in days)


@pytest.fixture(scope="module")
def labels(days):
    return pa.concat_tables(day.labels for day in days)


def test_events_satisfy_the_event_schema(days):
    schema = jsonschema.Draft202012Validator(SCHEMA)
    records = [record for day in days[::4] for record in day.records()]
    seen = set()
    for index, record in enumerate(records):
        # Every 20th, and the first of each type.
        if index % 20 == 0 or record["event_type"] not in seen:
            schema.validate(record)
            seen.add(record["event_type"])
    assert seen >= {"view", "cart", "purchase", "return", "login", "coupon", "share", "follow"}
    bought = [record for record in records if record["event_type"] == "purchase"]
    assert all(record["amount"] > 0 and record["attributes"]["shop_id"] for record in bought)
    assert not {"label", "kind", "case"} & set().union(*records)


def test_number_of_planted_cases_matches_the_configuration(labels):
    cases = Counter(kind for kind, _ in {(row["kind"], row["case"]) for row in labels.to_pylist()})
    assert cases["takeover"] == SMALL["takeovers"]
    assert cases["card_test"] == SMALL["card_tests"]
    assert cases["coupon_ring"] == SMALL["rings"]
    assert cases["honest_campaign"] == SMALL["campaigns"]
    # A user whose change begins in the last days may have no event after it.
    assert all(2 <= cases[kind.text] <= 3 for kind in HABIT_CHANGES)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"users": 0}, "users = 0"),
        ({"ring_devices": 21}, "ring_devices = 21"),
        ({"events_per_user_day": 0}, "events_per_user_day = 0"),
        ({"takeovers": 400}, "take more users or fewer cases"),
    ],
)
def test_value_out_of_range_is_rejected(changed, message):
    with pytest.raises(InputError, match=message):
        Shop(ShopConfig(**{**SMALL, **changed}))


def test_generate_command_writes_the_same_bytes_and_valid_labels_for_a_seed(tmp_path):
    def generate(name: str, seed: int) -> tuple[bytes, bytes, dict]:
        out, labels = tmp_path / f"{name}.jsonl", tmp_path / f"{name}-labels.jsonl"
        options = ["--labels", labels, "--users", "300", "--days", "5", "--seed", seed]
        command = ["events", "generate", "--out", out, *options]
        result = CliRunner().invoke(app, [*map(str, command)])
        assert result.exit_code == 0, result.output
        return out.read_bytes(), labels.read_bytes(), json.loads(result.stdout.splitlines()[-1])

    first, other = generate("first", 5), generate("other", 6)
    assert generate("again", 5)[:2] == first[:2]
    assert other[0] != first[0] and other[1] != first[1]
    summary = first[2]
    events = {event["event_id"]: event for event in map(json.loads, first[0].splitlines())}
    assert summary["events"] == len(events)
    times_ms = [event["event_time"] for event in events.values()]
    assert times_ms == sorted(times_ms)
    labels = list(read_labels(tmp_path / "first-labels.jsonl", "generator"))
    assert len(labels) > 30 and not [row for row in labels if isinstance(row, RejectedLabel)]
    assert sum(summary["fraud_events"].values()) == sum(row["label"] == "fraud" for row in labels)
    for row in labels:
        event = events[row["event_id"]]
        flat = event | event.get("attributes", {})
        for name in ("user_id", "event_time", "device_id", "coupon_id", "shop_id", "address_id"):
            assert row.get(name) == flat.get(name)
        cell = [math.floor(degrees * 100) for degrees in event.get("place", {}).values()]
        assert row.get("place", "") == ":".join(map(str, cell))
