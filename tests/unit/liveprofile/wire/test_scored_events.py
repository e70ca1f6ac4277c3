"""Rows of the view scoring_input are parsed into columns."""

from __future__ import annotations

import pytest

from liveprofile.wire.scored_events import ENTITIES, read_rows
from tests.reference.entity_features import Event, entity_list, list_text
from tests.reference.scoring import event_parts

EVENTS = [
    Event("e1", "u", "login", 1_700_000_000_000, device="d1"),
    Event("e2", "v", "purchase", 1_700_000_001_000, 12.5, "d1", "4813:1157", "s1", "c1", "a1"),
    Event("e3", "u", "share", 1_700_000_002_000),
]


def test_event_with_all_entities_is_parsed() -> None:
    batch = read_rows(["v"], [event_parts([*EVENTS], 1)])
    assert (batch.user_id, batch.event_id, batch.event_type) == (["v"], ["e2"], ["purchase"])
    assert (batch.event_ms.tolist(), batch.amount.tolist()) == ([1_700_000_001_000], [12.5])
    entities = [getattr(batch, name) for name in ENTITIES]
    assert entities == [["d1"], ["4813:1157"], ["s1"], ["c1"], ["a1"]]
    assert batch.of_user == [list_text(entity_list([*EVENTS], 1, "user", 128), "user")]
    assert batch.of_device == [list_text(entity_list([*EVENTS], 1, "device", 128), "device")]
    assert batch.of_device[0].count("\x1e") == 1
    for name in ("place", "shop", "coupon", "address"):
        assert getattr(batch, f"of_{name}")[0].count("\x1f") == 4


def test_place_and_time_of_arrival_are_parsed() -> None:
    head, lists = event_parts([*EVENTS], 1).split("\x1d", 1)
    batch = read_rows(["v"], [f"{head.removesuffix('0')}1700000001234\x1d{lists}"])
    assert (batch.record_offset.tolist(), batch.arrived_ms.tolist()) == ([1], [1_700_000_001_234])


def test_missing_entities_are_empty() -> None:
    batch = read_rows(["u"], [event_parts([*EVENTS], 2)])
    assert [getattr(batch, name) for name in ENTITIES] == [[""]] * 5
    assert [getattr(batch, f"of_{name.removesuffix('_id')}") for name in ENTITIES] == [[""]] * 5
    assert batch.of_user[0].count("\x1e") == 1


def test_rows_keep_their_order() -> None:
    batch = read_rows(["u", "v", "u"], [event_parts([*EVENTS], row) for row in range(3)])
    assert batch.event_id == ["e1", "e2", "e3"]
    assert batch.of_device[2] == ""


@pytest.mark.parametrize("row", ["", "x", event_parts([*EVENTS], 0).replace("1700", "soon", 1)])
def test_malformed_row_raises(row: str) -> None:
    with pytest.raises(ValueError):
        read_rows(["u"], [row])
