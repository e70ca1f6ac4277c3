"""The generated shop: the same bytes for the same seed, valid events, labels that join."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from liveprofile.errors import InputError
from liveprofile.ingest.replay import open_source
from liveprofile.labels.feedback import Rejected, read_labels
from liveprofile.simulator import Config, Shop, ring, spread
from liveprofile.simulator.plan import CHANGES, Kind
from liveprofile.simulator.write import write
from tests.support.paths import ROOT

SCHEMA = json.loads((ROOT / "schemas/behavior-event.schema.json").read_text("utf-8"))
SMALL = {
    "users": 400, "days": 12, "takeovers": 6, "card_tests": 3, "rings": 2, "honest_changes": 12,
    "campaigns": 2, "ring_users": 20, "ring_devices": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def days():
    return list(Shop(Config(**SMALL, seed=7)))


@pytest.fixture(scope="module")
def events(days):
    return pa.concat_tables(day.events for day in days)


@pytest.fixture(scope="module")
def labels(days):
    return pa.concat_tables(day.labels for day in days)


def generated(folder: Path, suffix: str, **changed) -> tuple[bytes, bytes]:
    out, labels = folder / f"events{suffix}", folder / f"labels{suffix}"
    write(Shop(Config(**{**SMALL, "seed": 7, **changed})), out, labels)
    return out.read_bytes(), labels.read_bytes()


def test_a_seed_gives_the_same_bytes_and_another_gives_others(tmp_path):
    first = generated(tmp_path, ".jsonl")
    assert generated(tmp_path, ".jsonl") == first
    other = generated(tmp_path, ".jsonl", seed=8)
    assert other[0] != first[0] and other[1] != first[1]


def test_days_are_the_same_however_they_are_taken(days):
    shop = Shop(Config(**SMALL, seed=7))
    one, two = iter(shop), iter(shop)
    for at, day in enumerate(days):
        assert next(one).events.equals(day.events)
        if at % 2:  # a second reader in other steps
            assert next(two).events.equals(days[at // 2].events)
    for size in (1, 100, 10_000):
        parts = [
            days[0]._replace(events=days[0].events.slice(first, size)).lines()
            for first in range(0, days[0].events.num_rows, size)
        ]
        assert b"".join(parts) == days[0].lines()


def test_events_follow_the_contract(days):
    valid = jsonschema.Draft202012Validator(SCHEMA)
    records = [record for day in days[::4] for record in day.records()]
    seen = set()
    for at, record in enumerate(records):
        # Every 20th, and the first of each type.
        if at % 20 == 0 or record["event_type"] not in seen:
            valid.validate(record)
            seen.add(record["event_type"])
    assert seen >= {"view", "cart", "purchase", "return", "login", "coupon", "share", "follow"}
    bought = [record for record in records if record["event_type"] == "purchase"]
    assert all(record["amount"] > 0 and record["attributes"]["shop_id"] for record in bought)
    assert not {"label", "kind", "case"} & set().union(*records)


def test_events_come_in_order_of_time_each_day_its_own(days):
    config = Config(**SMALL)
    for at, day in enumerate(days):
        times = day.events["event_time"].to_numpy()
        assert (np.diff(times) >= 0).all()
        assert config.start_ms + at * 86_400_000 <= times[0]
        assert times[-1] < config.start_ms + (at + 1) * 86_400_000


def test_the_rate_is_the_one_asked_for():
    config = Config(
        3_000,
        20,
        events_per_user_day=4,
        takeovers=0,
        card_tests=0,
        rings=0,
        honest_changes=0,
        campaigns=0,
    )
    shop = Shop(config)
    present = sum((shop.people.joined <= day).sum() for day in range(20))
    count = sum(day.events.num_rows for day in shop)
    assert count / present == pytest.approx(4, rel=0.1)


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
        assert (row["label"] == "fraud") == Kind[row["kind"].upper()].fraud


def test_what_is_planted_is_what_was_asked_for(labels):
    cases = Counter(kind for kind, _ in {(row["kind"], row["case"]) for row in labels.to_pylist()})
    assert cases["takeover"] == SMALL["takeovers"]
    assert cases["card_test"] == SMALL["card_tests"]
    assert cases["coupon_ring"] == SMALL["rings"]
    assert cases["honest_campaign"] == SMALL["campaigns"]
    # A change in the last days may see no event of its user.
    assert all(2 <= cases[kind.label] <= 3 for kind in CHANGES)


def test_a_ring_has_its_users_and_devices(events, labels):
    row = next(row for row in labels.to_pylist() if row["kind"] == "coupon_ring")
    same = {each["event_id"] for each in labels.to_pylist() if each["case"] == row["case"]}
    of_ring = [event for event in events.to_pylist() if event["event_id"] in same]
    assert len({event["user_id"] for event in of_ring}) == SMALL["ring_users"]
    assert len({event["device_id"] for event in of_ring}) == SMALL["ring_devices"]
    # Some of its users were ordinary ones before.
    others = {event["user_id"] for event in events.to_pylist() if event["event_id"] not in same}
    shared = {event["user_id"] for event in of_ring} & others
    assert 0 < len(shared) < SMALL["ring_users"]


def test_a_campaign_is_a_crowd_with_a_coupon_and_devices_of_its_own(events, labels):
    rows = [row for row in labels.to_pylist() if row["kind"] == "honest_campaign"]
    sizes = []
    for case in {row["case"] for row in rows}:
        same = {row["event_id"] for row in rows if row["case"] == case}
        crowd = [event for event in events.to_pylist() if event["event_id"] in same]
        users = {event["user_id"] for event in crowd}
        sizes.append(len(users))
        assert len({event["device_id"] for event in crowd}) >= 0.8 * len(users)
        assert 1 <= len({event["coupon_id"] for event in crowd} - {None}) <= 3
        assert {event["event_type"] for event in crowd} >= {"view", "coupon", "purchase", "login"}
        others = {event["user_id"] for event in events.to_pylist() if event["event_id"] not in same}
        assert 0 < len(users & others) < len(users)
    assert all(20 <= size <= 120 for size in sizes)


def test_fraud_and_honest_changes_overlap(days, events, labels):
    kinds = {row["event_id"]: row["kind"] for row in labels.to_pylist()}
    known: dict[str, set[str]] = {}
    amounts: dict[str, list[float]] = {}
    new_devices = Counter()
    for event in events.to_pylist():
        kind = kinds.get(event["event_id"], "ordinary")
        if event["event_type"] == "purchase":
            amounts.setdefault(kind, []).append(event["amount"])
        devices = known.setdefault(event["user_id"], set())
        new_devices[kind] += bool(devices) and event["device_id"] not in devices
        devices.add(event["device_id"])
    assert np.median(amounts["takeover"]) < np.quantile(amounts["honest_gifts"], 0.95)
    assert min(new_devices["ordinary"], new_devices["honest_move"]) > 0
    assert np.quantile(amounts["ordinary"], 0.1) < max(amounts["card_test"])


def test_ring_and_spread_differ_in_devices_only():
    few, many = ring(seed=3), spread(seed=3)
    assert few.events.drop_columns(["device_id"]).equals(many.events.drop_columns(["device_id"]))
    assert few.labels.num_rows == few.events.num_rows and many.labels.num_rows == 0
    owners = {(r["user_id"], r["device_id"]) for r in many.records()}
    assert len(owners) == len({device for _, device in owners}) == 50
    assert len({record["device_id"] for record in few.records()}) == 3
    assert {record["event_type"] for record in few.records()} == {"purchase"}


def test_both_files_are_replayed_as_the_same_events(tmp_path):
    generated(tmp_path, ".jsonl")
    generated(tmp_path, ".parquet")

    def sent(path: Path, mapping: Path | None) -> list[dict]:
        batches, translator = open_source(path, mapping)
        return [json.loads(value) for batch in batches for value in translator.events(batch).values]

    mapped = sent(tmp_path / "events.parquet", ROOT / "mappings/generated.toml")
    for event in mapped:
        present = {k: v for k, v in (event.pop("attributes", None) or {}).items() if v is not None}
        if present:
            event["attributes"] = present
    assert mapped == sent(tmp_path / "events.jsonl", None)
    tables = pq.read_table(tmp_path / "labels.parquet").to_pylist()
    assert [{k: v for k, v in row.items() if v is not None} for row in tables] == [
        json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()
    ]


def test_labels_can_be_sent_and_name_what_their_events_share(tmp_path, events):
    generated(tmp_path, ".jsonl")
    found = list(read_labels(tmp_path / "labels.jsonl", "generator"))
    assert len(found) > 100 and not [row for row in found if isinstance(row, Rejected)]
    by_id = {row["event_id"]: row for row in events.to_pylist()}
    for row in found:
        event = by_id[row["event_id"]]
        for name in ("user_id", "event_time", "device_id", "coupon_id", "shop_id", "address_id"):
            assert row.get(name) == event[name]
        cell = [math.floor(event[name] * 100) for name in ("lat", "lon") if event[name] is not None]
        assert row.get("place", "") == ":".join(map(str, cell))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"users": 0}, "users = 0"),
        ({"ring_devices": 21}, "ring_devices = 21"),
        ({"events_per_user_day": 0}, "events_per_user_day = 0"),
        ({"takeovers": 400}, "take more users or fewer cases"),
    ],
)
def test_a_wrong_value_is_named(changed, says):
    with pytest.raises(InputError, match=says):
        Shop(Config(**{**SMALL, **changed}))


def test_a_small_shop_needs_no_options():
    assert sum(day.events.num_rows for day in Shop(Config(users=1, days=1))) >= 0


def test_the_command_ends_with_a_line_of_json(tmp_path):
    out, labels = tmp_path / "events.jsonl", tmp_path / "labels.jsonl"
    options = ["--users", "300", "--days", "3", "--seed", "5"]
    result = CliRunner().invoke(
        app, ["generate", "--out", str(out), "--labels", str(labels), *options]
    )
    assert result.exit_code == 0
    last = json.loads(result.stdout.splitlines()[-1])
    assert set(last) == {"events", "users", "days", "seed", "fraud_events", "seconds"}
    assert last["events"] == len(out.read_bytes().splitlines())
    written = Counter(
        row["kind"] for row in map(json.loads, labels.open("rb")) if row["label"] == "fraud"
    )
    assert last["fraud_events"] == written

    piped = CliRunner().invoke(app, ["generate", "--out", "-", *options])
    assert piped.stdout_bytes == out.read_bytes()


def test_a_file_that_can_not_be_written_is_named(tmp_path):
    for name in ("events.csv", "no/folder/events.jsonl"):
        with pytest.raises(InputError, match=name):
            write(Shop(Config(users=5, days=1)), tmp_path / name)
