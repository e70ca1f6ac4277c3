"""Records of the topic user-merges."""

from __future__ import annotations

import json

import jsonschema
import orjson
import pytest

from liveprofile.identity.book import Merge, MergeError
from liveprofile.identity.records import read_record, to_record
from liveprofile.wire.user_records import key_of
from tests.support.paths import ROOT

SCHEMA = json.loads((ROOT / "schemas/user-merges.schema.json").read_text("utf-8"))
TIME_MS = 1_767_605_700_123
MERGES = [Merge("42", TIME_MS - 9, TIME_MS - 5), Merge("ö", TIME_MS)]


def test_a_record_fits_its_schema_and_reads_back() -> None:
    value = to_record("ü7", MERGES)
    jsonschema.Draft202012Validator(SCHEMA).validate(orjson.loads(value))
    assert read_record("ü7".encode(), value) == ("ü7", MERGES)
    assert key_of("ü7") == "ü7".encode()
    assert orjson.loads(to_record("ü7", MERGES[:1]))["id"] != orjson.loads(value)["id"]
    assert to_record("ü7", MERGES) == value


def test_examples_of_the_schema_are_read() -> None:
    for example in SCHEMA["examples"]:
        alias_id, merges = read_record(example["subject"].encode(), orjson.dumps(example))
        assert (alias_id, merges) == (example["subject"], [Merge("42", 1_767_605_700_000)])


@pytest.mark.parametrize(
    ("key", "data", "message"),
    [
        (b"a", None, "no CloudEvent"),
        (b"a", {"alias_id": "a"}, "no CloudEvent"),
        (b"b", {"alias_id": "a", "merges": []}, "not the record's key"),
        (None, {"alias_id": "a", "merges": []}, "not the record's key"),
        (b"", {"alias_id": "", "merges": []}, "not the record's key"),
        (b"a", {"alias_id": "a", "merges": "b"}, "no list"),
        (b"a", {"alias_id": "a", "merges": ["b"]}, "must be an object"),
        (b"a", {"alias_id": "a", "merges": [{"user_id": 7}]}, "user_id must be a text"),
        (b"a", {"alias_id": "a", "merges": [{"user_id": "b" * 257}]}, "1 to 256 characters"),
        (b"a", {"alias_id": "a", "merges": [{"user_id": "b"}]}, "since None is no ISO"),
        (
            b"a",
            {"alias_id": "a", "merges": [{"user_id": "b", "since": "1970-01-01T00:00:00Z"}]},
            "from 2000 on",
        ),
        (
            b"a",
            {
                "alias_id": "a",
                "merges": [{"user_id": "b", "since": "2026-01-01T00:00:00Z", "until": 7}],
            },
            "until 7 is no ISO",
        ),
        (
            b"a",
            {"alias_id": "a", "merges": [{"user_id": "a", "since": "2026-01-01T00:00:00Z"}]},
            "alias of itself",
        ),
    ],
)
def test_an_invalid_record_is_refused(
    key: bytes | None, data: dict[str, object] | None, message: str
) -> None:
    value = b"{" if data is None else orjson.dumps({"data": data})
    with pytest.raises(MergeError, match=message):
        read_record(key, value)
