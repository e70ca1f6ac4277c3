"""Records of consents, erasures and merges: they fit their schemas, and which are refused."""

import json
from types import ModuleType
from typing import Any, NamedTuple

import jsonschema
import orjson
import pytest

from liveprofile.consent import changes as consents
from liveprofile.consent.changes import MAX_CHANGES, ConsentChange
from liveprofile.errors import InputError
from liveprofile.identity import merges
from liveprofile.identity.merges import Merge
from liveprofile.privacy import erasures
from liveprofile.wire.user_records import key_of
from tests.support.paths import ROOT

TIME_MS = 1_767_605_700_123
CHANGES = [
    ConsentChange(1_767_605_700_000, "marketing", False, "consent", "2026-01"),
    ConsentChange(1_767_605_700_000, "profiling", True),
    ConsentChange(1_767_605_600_123, "marketing", True, "consent", "2025-03"),
]
MERGES = [Merge("42", TIME_MS - 9, TIME_MS - 5), Merge("ö", TIME_MS)]
START = {"user_id": "b", "since": "2026-01-01T00:00:00Z"}


class Kind(NamedTuple):
    topic: str
    of: ModuleType  # writes and reads the records
    value: Any
    other: Any  # which needs another id of the event
    user: str  # its field
    content: str


KINDS = [
    Kind("consents", consents, CHANGES, CHANGES[:1], "user_id", "changes"),
    Kind("erasures", erasures, TIME_MS, TIME_MS + 1, "user_id", "before"),
    Kind("merges", merges, MERGES, MERGES[:1], "alias_id", "merges"),
]
CONSENTS, ERASURES, OF_MERGES = KINDS
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.topic)


@each_kind
def test_record_fits_its_schema_and_reads_back(kind: Kind) -> None:
    schema = json.loads((ROOT / f"schemas/user-{kind.topic}.schema.json").read_text("utf-8"))
    value = kind.of.to_record("ü42", kind.value)
    jsonschema.Draft202012Validator(schema).validate(orjson.loads(value))
    assert key_of("ü42") == "ü42".encode()
    assert kind.of.read_record("ü42".encode(), value) == ("ü42", kind.value)
    assert kind.of.to_record("ü42", kind.value) == value
    assert orjson.loads(kind.of.to_record("ü42", kind.other))["id"] != orjson.loads(value)["id"]
    for example in schema["examples"]:
        user = example["subject"]
        assert kind.of.read_record(user.encode(), orjson.dumps(example))[0] == user


def test_record_of_consents_holds_the_newest_changes_in_order() -> None:
    assert consents.to_record("u", CHANGES[::-1]) == consents.to_record("u", CHANGES)
    many = [ConsentChange(TIME_MS + n, "risk", True) for n in range(MAX_CHANGES + 50)]
    _, kept = consents.read_record(b"u", consents.to_record("u", many))
    assert kept == list(reversed(many))[:MAX_CHANGES]


@each_kind
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (b"u", b"{", "no CloudEvent"),
        (b"u", b"[]", "no CloudEvent"),
        (b"u", b'{"data": {"USER": "u"}}', "no CloudEvent"),
        (b"u", b'{"data": {"USER": "v", "CONTENT": []}}', "not the record's key"),
        (None, b'{"data": {"USER": "v", "CONTENT": []}}', "not the record's key"),
    ],
)
def test_record_without_its_user_is_refused(
    kind: Kind, key: bytes | None, value: bytes, message: str
) -> None:
    value = value.replace(b"USER", kind.user.encode()).replace(b"CONTENT", kind.content.encode())
    with pytest.raises(InputError, match=message):
        kind.of.read_record(key, value)


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (CONSENTS, {}, "data.changes"),
        (CONSENTS, [7], "must be an object"),
        (ERASURES, "now", "nor ISO 8601"),
        (ERASURES, 7, "nor ISO 8601"),
        (ERASURES, "1970-01-01T00:00Z", "from 2000 to 9999"),
        (ERASURES, "2026-01-05T09:35:00", "with an offset"),
        (OF_MERGES, "b", "no list"),
        (OF_MERGES, ["b"], "must be an object"),
        (OF_MERGES, [{"user_id": 7}], "user_id must be a text"),
        (OF_MERGES, [{"user_id": "b" * 257}], "1 to 256 characters"),
        (OF_MERGES, [{"user_id": "b"}], "since None: neither"),
        (OF_MERGES, [START | {"since": "1970-01-01T00:00:00Z"}], "from 2000 to"),
        (OF_MERGES, [START | {"until": 7}], "until 7: neither"),
        (OF_MERGES, [START | {"user_id": "u"}], "alias of itself"),
    ],
)
def test_record_with_wrong_content_is_refused(kind: Kind, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind.of.read_record(b"u", orjson.dumps({"data": {kind.user: "u", kind.content: content}}))
