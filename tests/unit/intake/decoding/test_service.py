"""The decoder commits a record after what it became is acknowledged, and waits for the registry."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from intake.decoding.decode import DecodeError
from intake.decoding.registry import RegistryError
from intake.decoding.service import Decoder, output_of
from liveprofile.errors import ServiceError
from liveprofile.kafka.records import Record
from liveprofile.settings import LimitSettings, Settings
from tests.support.memory.kafka import FakeConsumer, message
from tests.support.streams.encoded import framed

SETTINGS = Settings()
TIME_MS = 1_800_000_000_000


class SentRecords:
    """A producer. It acknowledges at `flush`, or fails with `error`, or never answers."""

    def __init__(self) -> None:
        self.records: list[tuple[Any, ...]] = []
        self.error: KafkaError | None = None
        self.silent = False
        self._waiting: list[Any] = []
        self.while_silent: Callable[[], None] = lambda: None

    def produce(
        self, topic: str, value: Any, key: Any, *, headers: Any, timestamp: int, on_delivery: Any
    ) -> None:
        assert timestamp == TIME_MS
        self.records.append((topic, key, value, headers))
        self._waiting.append(on_delivery)

    def flush(self, timeout_s: float) -> int:
        if self.silent:
            self.while_silent()
            return len(self._waiting)
        for each in self._waiting:
            each(self.error, message("behavior-events", 0, 0, None))
        self._waiting.clear()
        return 0


class Registry:
    """Schema 1 makes upper case; others are unknown. It may be down."""

    def __init__(self) -> None:
        self.down = False

    def reader(self, schema_id: int) -> Callable[[bytes], bytes]:
        if self.down:
            raise RegistryError("the registry is down")
        if schema_id != 1:
            raise DecodeError("UNKNOWN_SCHEMA", str(schema_id))
        return bytes.upper


def prepared(
    *partitions: list[bytes | None],
) -> tuple[Decoder, FakeConsumer, SentRecords, Registry]:
    topic = FakeConsumer(SETTINGS.topics.encoded, *partitions, timestamp_ms=TIME_MS)
    sent, registry = SentRecords(), Registry()
    decoder = Decoder(SETTINGS, topic, sent, registry.reader, retry_s=0.001)
    topic.on_empty = decoder.stop
    return decoder, topic, sent, registry


def test_records_are_decoded_or_rejected_with_their_position_and_committed() -> None:
    decoder, topic, sent, _ = prepared(
        [b'{"user_id":"u"}', framed(1, b"a")], [framed(2, b"b"), None]
    )
    assert decoder.run() == {"decoded": 3, "UNKNOWN_SCHEMA": 1}
    at = {"encoded_topic": "behavior-events-encoded"}
    assert sent.records == [
        (
            "behavior-events",
            b"u",
            b'{"user_id":"u"}',
            at | {"encoded_partition": "0", "encoded_offset": "0"},
        ),
        ("behavior-events", b"key", b"A", at | {"encoded_partition": "0", "encoded_offset": "1"}),
        (
            "behavior-events-rejected",
            None,
            framed(2, b"b"),
            {
                "reason": "UNKNOWN_SCHEMA",
                "detail": "2",
                "topic": "behavior-events-encoded",
                "partition": "1",
                "offset": "0",
            },
        ),
        ("behavior-events", b"key", None, at | {"encoded_partition": "1", "encoded_offset": "1"}),
    ]
    assert topic.committed == {0: 2, 1: 2} and topic.closed


@pytest.mark.parametrize("silent", [True, False])
def test_nothing_is_committed_until_kafka_has_acknowledged(silent: bool) -> None:
    decoder, topic, sent, _ = prepared([b"{}"])
    if silent:
        sent.silent, sent.while_silent = True, decoder.stop
        assert decoder.run() == {}
    else:
        sent.error = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
        with pytest.raises(ServiceError, match="Kafka did not accept a record for behavior-events"):
            decoder.run()
    assert topic.committed == {} and topic.closed


def test_records_of_a_partition_that_another_decoder_gets_are_left_to_it() -> None:
    decoder, topic, sent, registry = prepared([framed(1, b"a")], [b"{}"])
    registry.down = True

    def reassign() -> None:
        topic.on_revoke(topic, [TopicPartition("", 0)])

    topic.while_paused = reassign
    assert decoder.run() == {"decoded": 1}
    assert [value for _, _, value, _ in sent.records] == [b"{}"]
    assert topic.committed == {1: 1}


def test_commit_after_a_reassignment_is_no_error() -> None:
    decoder, topic, _, _ = prepared([b"{}"])
    topic.commit_error = KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
    assert decoder.run() == {"decoded": 1}
    decoder, topic, _, _ = prepared([b"{}"])
    topic.commit_error = KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
    with pytest.raises(ServiceError, match="decoding topic behavior-events-encoded"):
        decoder.run()


def test_rejected_payload_is_truncated_to_the_limit() -> None:
    settings = SETTINGS.model_copy(update={"limits": LimitSettings(max_payload_chars=1_024)})
    value = framed(2, b"x" * 2_000)
    record = Record("encoded", 0, 7, TIME_MS, b"key", value, {})
    output = output_of(record, settings, Registry().reader)
    assert output.value == value[:1_024]
    assert output.headers["truncated"] == "true" and output.headers["payload_bytes"] == "2005"
    assert output.headers["payload_sha256"] == hashlib.sha256(value).hexdigest()
