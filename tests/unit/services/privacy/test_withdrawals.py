"""Events of deleted windows are rejected as the job rejects events without consent."""

import json

from intake.files.rejected import CLAIMED_REASONS, parse_record
from liveprofile.identity.merges import IdentityTable, Merge
from liveprofile.kafka.records import Record
from services.event_audit.rows import parse_event
from services.privacy.withdrawals import rejections


def record(offset: int, user: str, event: str, event_type: str = "view") -> Record:
    value = {"event_id": event, "user_id": user, "event_type": event_type, "event_time": 1}
    return Record("events", 2, offset, 0, None, json.dumps(value).encode(), {})


def test_used_events_are_rejected_with_their_position() -> None:
    records = [
        record(0, "u", "a"),
        record(1, "v", "a"),
        record(2, "u", "b"),
        record(3, "u", "c"),
        record(4, "u", "a", "heartbeat"),
        Record("events", 2, 5, 0, None, b"broken", {}),
    ]
    digests = {name: parse_event(record(0, "u", name).value)[2] for name in "abc"}
    used = {("u", digests["a"]), ("u", digests["c"]), ("v", digests["b"])}
    sent = list(rejections(records, used, "events", IdentityTable()))
    places = [(key, value, headers["offset"]) for key, value, headers in sent]
    assert places == [(b"u", b"", "0"), (b"u", b"", "3")]
    headers = {name: text.encode() for name, text in sent[0][2].items()}
    found = parse_record(Record("rejected", 0, 7, 0, b"u", b"", headers))
    assert (found.reason, found.topic) == ("NO_CONSENT", "events")
    assert (found.partition, found.offset) == (2, 0)
    assert found.reason in CLAIMED_REASONS


def test_events_of_an_alias_are_those_of_the_person() -> None:
    merges = IdentityTable()
    merges.put("alias", [Merge("u", 0)])
    digest = parse_event(record(0, "u", "a").value)[2]
    records = [record(0, "alias", "a"), record(1, "other", "a")]
    sent = list(rejections(records, {("u", digest)}, "events", merges))
    assert [headers["offset"] for _, _, headers in sent] == ["0"]
