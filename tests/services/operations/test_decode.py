"""`liveprofile events decode` with a real broker: an outage of the registry and a kill lose
nothing.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from liveprofile.kafka.offsets import decoder_group, lag
from liveprofile.kafka.records import Record, read_topic, send_all
from liveprofile.settings import Settings, TopicSettings
from services.event_audit.encoded import EncodedCounts
from services.event_audit.run import audit_encoded
from tests.support.job_under_test import JobUnderTest
from tests.support.memory.schema_registry import RegistryServer, registry_server
from tests.support.streams.encoded import avro, framed, record_schema
from tests.support.waiting import until

USERS = 7
EVENTS = 700  # that can be decoded
TIMEOUT_S = 180.0
FIELDS = ("event_id", "user_id", "event_type", "event_time")
SCHEMA = record_schema("Event", **dict.fromkeys(FIELDS, "string"))
BROKEN = {
    "BAD_MAGIC": b"\x01not an event",
    "BAD_BODY": framed(1, b"\x10cut"),
    "UNKNOWN_SCHEMA": framed(999, b"x"),
    "BAD_CLOUDEVENT": b'{"specversion":"0.3","id":"1","source":"/shop","type":"com.shop.view"}',
    "TOO_LARGE": b'{"text":"%s"}' % (b"x" * 70_000),
}


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryServer]:
    with registry_server() as registry:
        registry.register(SCHEMA)
        registry.register({"type": "object"}, "JSON")
        yield registry


@pytest.fixture(scope="module")
def job(new_job: Callable[..., JobUnderTest], registry: RegistryServer) -> JobUnderTest:
    """Has its topics only; it is not submitted."""
    decoder = {"registry_url": registry.url}
    return new_job("decode", tables=False, topics={"partitions": 2}, decoder=decoder)


def event(number: int) -> dict[str, str]:
    at = f"2026-11-29T12:{number // 60:02}:{number % 60:02}Z"
    return dict(zip(FIELDS, (f"e{number}", f"u{number % USERS}", "view", at), strict=True))


def encoded(number: int) -> tuple[bytes, bytes, dict[str, str]]:
    """An event in one of the formats, keyed by its user."""
    fields = event(number)
    key, plain = fields["user_id"].encode(), json.dumps(fields).encode()
    attributes = {
        "specversion": "1.0",
        "id": str(number),
        "source": "/shop",
        "type": "com.shop.view",
    }
    match number % 5:
        case 0:
            return key, framed(1, avro(SCHEMA, fields)), {}
        case 1:
            return key, framed(2, plain), {}
        case 2:
            return key, json.dumps(attributes | {"data": fields}).encode(), {}
        case 3:
            return key, plain, {f"ce_{name}": text for name, text in attributes.items()}
    return key, plain, {}


def behind(settings: Settings) -> int:
    return lag(settings, decoder_group(settings.kafka), settings.topics.encoded)


class Outcome(NamedTuple):
    counts: dict[str, int]  # printed by the decoder that ended on SIGTERM
    behind_after_kill: int
    audited_after_kill: EncodedCounts
    audited: EncodedCounts
    events: list[Record]
    rejected: list[Record]


@pytest.fixture(scope="module")
def outcome(job: JobUnderTest, registry: RegistryServer) -> Outcome:
    """A decoder is killed while the registry does not answer; the next one decodes everything."""
    settings = job.settings
    records = [encoded(number) for number in range(EVENTS)]
    records += [(b"broken", value, {}) for value in BROKEN.values()]
    send_all(settings, settings.topics.encoded, records)

    registry.status = 503
    with job.start("events", "decode", "--json") as first:
        try:
            assert any("Waiting; no record is lost" in line for line in first.stderr)
        finally:
            first.kill()
    after_kill = behind(settings), audit_encoded(settings, None)

    registry.status = None
    with job.start("events", "decode", "--json") as second:
        try:
            until(lambda: not behind(settings), TIMEOUT_S)
            second.terminate()
            printed, log = second.communicate(timeout=TIMEOUT_S)
            assert second.returncode == 0, log
        finally:
            second.kill()
    sent, rejected = (
        list(read_topic(settings, topic))
        for topic in (settings.topics.events, settings.topics.rejected)
    )
    audited = audit_encoded(settings, None)
    return Outcome(json.loads(printed), *after_kill, audited, sent, rejected)


def test_outage_of_the_registry_and_a_kill_lose_no_record(outcome: Outcome) -> None:
    assert outcome.audited_after_kill.behind == outcome.behind_after_kill > 0
    # Those before the first schema were decoded before the kill, or again after it.
    counts = dict(outcome.counts)
    assert EVENTS - 10 <= counts.pop("decoded") <= EVENTS
    assert counts == dict.fromkeys(BROKEN, 1)
    audited = outcome.audited
    assert (audited.in_topic, audited.decoded, audited.rejected) == (EVENTS + 5, EVENTS, 5)
    assert audited.ok and audited.behind == 0


def test_each_user_has_the_decoded_events_in_order(outcome: Outcome) -> None:
    found: dict[str, list[dict[str, str]]] = {}
    for record in outcome.events:
        fields = json.loads(record.value)
        assert record.key == fields["user_id"].encode()
        if fields not in (of_user := found.setdefault(fields["user_id"], [])):
            of_user.append(fields)
    expected = {f"u{user}": [event(n) for n in range(user, EVENTS, USERS)] for user in range(USERS)}
    assert found == expected


def test_broken_records_are_rejected_with_their_reason(outcome: Outcome) -> None:
    reasons = Counter(each.headers["reason"].decode() for each in outcome.rejected)
    assert reasons == Counter(BROKEN.keys())
    for each in outcome.rejected:
        assert BROKEN[each.headers["reason"].decode()].startswith(each.value)


@pytest.mark.usefixtures("outcome")
def test_lost_outcome_is_unaccounted(job: JobUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit itself finds a record whose outcome is missing."""
    monkeypatch.setattr(TopicSettings, "events", TopicSettings.late)
    audited = audit_encoded(job.settings, None)
    assert audited.unaccounted == EVENTS and not audited.ok
