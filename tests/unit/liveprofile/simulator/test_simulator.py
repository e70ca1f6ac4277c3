"""Events, labels and planted cases of the simulated shop."""

from __future__ import annotations

import json
import math
from collections import Counter

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from cli.main import app
from liveprofile.errors import InputError
from liveprofile.labels.feedback import RejectedLabel, read_labels
from liveprofile.simulator import Shop, ShopConfig, shared_device_ring
from liveprofile.simulator.plan import HABIT_CHANGES, CaseKind
from liveprofile.simulator.shop import write_shop
from liveprofile.units import DAY_MS
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


def case_events(events, labels, case):
    """The events of one planted case, and all other events."""
    ids = {row["event_id"] for row in labels.to_pylist() if row["case"] == case}
    rows = events.to_pylist()
    return (
        [event for event in rows if event["event_id"] in ids],
        [event for event in rows if event["event_id"] not in ids],
    )


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


def test_labels_join_their_events(events, labels):
    ids = events["event_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    by_id = {row["event_id"]: row for row in events.to_pylist()}
    rows = labels.to_pylist()
    assert len({row["event_id"] for row in rows}) == len(rows)
    for row in rows:
        event = by_id[row["event_id"]]
        assert event["user_id"] == row["user_id"]
        assert row["known_at"] > event["event_time"]
        assert (row["label"] == "fraud") == CaseKind[row["kind"].upper()].is_fraud


def test_number_of_planted_cases_matches_the_configuration(labels):
    cases = Counter(kind for kind, _ in {(row["kind"], row["case"]) for row in labels.to_pylist()})
    assert cases["takeover"] == SMALL["takeovers"]
    assert cases["card_test"] == SMALL["card_tests"]
    assert cases["coupon_ring"] == SMALL["rings"]
    assert cases["honest_campaign"] == SMALL["campaigns"]
    # A user whose change begins in the last days may have no event after it.
    assert all(2 <= cases[kind.text] <= 3 for kind in HABIT_CHANGES)


def test_ring_has_the_configured_users_and_devices(events, labels):
    row = next(row for row in labels.to_pylist() if row["kind"] == "coupon_ring")
    ring, others = case_events(events, labels, row["case"])
    ring_users = {event["user_id"] for event in ring}
    assert len(ring_users) == SMALL["ring_users"]
    assert len({event["device_id"] for event in ring}) == SMALL["ring_devices"]
    # Some of the ring's users also have ordinary events.
    ordinary = ring_users & {event["user_id"] for event in others}
    assert 0 < len(ordinary) < SMALL["ring_users"]


def test_rings_with_few_and_many_devices_differ_in_devices_and_labels_only():
    shared = shared_device_ring(seed=3)
    separate = shared_device_ring(50, 50, labelled=False, seed=3)
    without_devices = shared.events.drop_columns(["device_id"])
    assert without_devices.equals(separate.events.drop_columns(["device_id"]))
    assert shared.labels.num_rows == shared.events.num_rows and separate.labels.num_rows == 0
    owners = {(record["user_id"], record["device_id"]) for record in separate.records()}
    assert len(owners) == len({device for _, device in owners}) == 50
    assert len({record["device_id"] for record in shared.records()}) == 3
    assert {record["event_type"] for record in shared.records()} == {"purchase"}


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


def test_days_follow_each_other_in_order_of_time_and_do_not_depend_on_other_readers(days):
    shop = Shop(ShopConfig(**SMALL, seed=7))
    first_reader, second_reader = iter(shop), iter(shop)
    for index, day in enumerate(days):
        times = day.events["event_time"].to_numpy()
        assert (np.diff(times) >= 0).all()
        assert shop.config.start_ms + index * DAY_MS <= times[0]
        assert times[-1] < shop.config.start_ms + (index + 1) * DAY_MS
        assert next(first_reader).events.equals(day.events)
        if index % 2:  # the second reader interleaves with the first
            assert next(second_reader).events.equals(days[index // 2].events)


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


@pytest.mark.parametrize("name", ["events.csv", "no/folder/events.jsonl"])
def test_file_that_cannot_be_written_is_named(tmp_path, name):
    with pytest.raises(InputError, match=name):
        write_shop(Shop(ShopConfig(users=5, days=1)), tmp_path / name)
