"""The declared event types: faults, the schema of events, and what attributes may read."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from liveprofile.attributes.catalogue import AttributesError, read_catalogue
from liveprofile.attributes.event_types import EventTypes, EventTypesError, read_event_types
from liveprofile.settings import load
from tests.support.paths import ROOT

DECLARED = """version = "1"

[[event_types]]
id = "Order Paid"
role = "purchase"
properties = { tax = { type = "number", min = 0, max = 90 }, plan = { type = "text" } }

[[event_types]]
id = "view"
role = "view"
properties = { seconds = { type = "number" } }
"""
EVENT = {
    "event_id": "e",
    "user_id": "u",
    "event_type": "Order Paid",
    "event_time": 1_700_000_000_000,
}


def read(folder: Path, text: str = DECLARED) -> EventTypes:
    file = folder / "events.toml"
    file.write_text(text, encoding="utf-8")
    return read_event_types(file)


@pytest.mark.parametrize(
    ("change", "line", "reason"),
    [
        (('role = "purchase"', 'role = "sale"'), 5, "role: Input should be 'view'"),
        (('"Order Paid"', '"it\'s"'), 4, "id: String should match pattern"),
        (('"Order Paid"', '"heartbeat"'), 3, "heartbeat is a type of the contract"),
        (('role = "view"', 'role = "cart"'), 8, "view is a type of the contract"),
        (("seconds =", "rating ="), 8, "property rating: conditions have such a name"),
        (("seconds =", "max ="), 8, "property max: conditions have such a name"),
        (("seconds =", "Seconds ="), 11, "properties.Seconds.[key]: String should match"),
        (("seconds =", "plan ="), 11, "plan is a text of another event type"),
        (("min = 0", "min = 91"), 6, "min 91 is above max 90"),
        (('"text" }', '"text", max = 1 }'), 6, "type text has no min, max"),
    ],
)
def test_fault_is_reported_with_its_line(
    tmp_path: Path, change: tuple[str, str], line: int, reason: str
) -> None:
    with pytest.raises(EventTypesError) as caught:
        read(tmp_path, DECLARED.replace(*change))
    assert f"events.toml:{line}: " in str(caught.value) and reason in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "valid"),
    [
        ({"attributes": {"tax": 90, "plan": "gold", "other": []}}, True),
        ({"attributes": {"tax": "9.5"}}, True),
        ({"attributes": {"tax": None}}, True),
        ({"attributes": {"tax": 91}}, False),
        ({"attributes": {"tax": True}}, False),
        ({"event_type": "cart", "attributes": {"tax": 91}}, True),
        ({"event_type": "Order paid"}, False),
    ],
)
def test_schema_of_events_has_declared_types(
    tmp_path: Path, fields: dict[str, Any], valid: bool
) -> None:
    schema = jsonschema.Draft202012Validator(json.loads(json.dumps(read(tmp_path).schema())))
    assert schema.is_valid(EVENT | fields) is valid


@pytest.mark.parametrize(
    ("computed", "reason"),
    [
        ('of = "Order Paid", where = "tax > 2", aggregate = "count"', None),
        ('of = "Order Payed", aggregate = "count"', "Order Payed is no event type: view, cart"),
        ('where = "plan > 2", aggregate = "count"', "where, column 1: `plan` is a text"),
        ('value = "second", aggregate = "sum"', "value, column 1: unknown name second; seconds?"),
    ],
)
def test_attributes_read_declared_types_and_properties(
    tmp_path: Path, computed: str, reason: str | None
) -> None:
    read(tmp_path)
    settings = load(event_types=str(tmp_path / "events.toml"))
    file = tmp_path / "attributes.toml"
    file.write_text(
        'version = "1"\n[[attributes]]\nid = "a"\ntype = "number"\ndescription = "."\n'
        f"computed = {{ {computed} }}\n"
    )
    if reason is None:
        assert [each.id for each in read_catalogue(settings, file).computed_attributes] == ["a"]
        return
    with pytest.raises(AttributesError) as caught:
        read_catalogue(settings, file)
    assert reason in str(caught.value)


def test_shipped_file_is_valid() -> None:
    roles = {
        name: each.role for name, each in read_event_types(ROOT / "events.toml").by_name.items()
    }
    assert roles["remove_from_cart"] == roles["view"] == "view"
    assert roles["Order Completed"] == roles["purchase"] == "purchase"
