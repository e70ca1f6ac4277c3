"""Sends records and commits offsets in one Kafka transaction: both happen, or neither does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaException, Producer, TopicPartition

from liveprofile.errors import ServiceError
from liveprofile.kafka.connection import client_config, error_text
from liveprofile.kafka.offsets import Progress
from liveprofile.kafka.records import EXCLUSIVE_TRANSACTION_MS, FENCED_ERRORS, WriterFenced
from liveprofile.settings import Settings

OutputRecord = tuple[bytes | None, bytes | None, dict[str, str]]  # key, value, headers


class OffsetTransactions:
    """The only writer with its transactional id: opening it fences the one that was opened before,
    and ends its transaction.

    Raises ServiceError, WriterFenced if another one was opened meanwhile.
    """

    def __init__(self, settings: Settings, transactional_id: str):
        self._id, self._timeout_s = transactional_id, settings.kafka.request_timeout_s
        self._producer = Producer(
            client_config(settings.kafka)
            | {
                "partitioner": "murmur2_random",
                "transactional.id": transactional_id,
                "transaction.timeout.ms": EXCLUSIVE_TRANSACTION_MS,
            }
        )
        try:
            self._producer.init_transactions(self._timeout_s)
        except KafkaException as error:
            raise self._failure(error) from None

    def commit(
        self,
        topic: str,
        records: Iterable[OutputRecord],
        input_topic: str,
        progress: dict[int, Progress],
        group_metadata: Any,
    ) -> None:
        """Sends records to `topic` and commits `progress` by partition of `input_topic`.

        After an error nothing of it was done, or all of it: go on with a new writer and the
        committed offsets. Raises ServiceError, WriterFenced.
        """
        places = [
            TopicPartition(input_topic, number, each.offset, metadata=each.note)
            for number, each in progress.items()
        ]
        try:
            self._producer.begin_transaction()
            for key, value, headers in records:
                self._producer.produce(topic, value, key, headers=dict(headers))
            self._producer.send_offsets_to_transaction(places, group_metadata, self._timeout_s)
            self._producer.commit_transaction(self._timeout_s)
        except KafkaException as error:
            raise self._failure(error) from None

    def _failure(self, error: KafkaException) -> ServiceError:
        if error.args[0].code() in FENCED_ERRORS:
            return WriterFenced(
                f"another process has opened the transactional id {self._id}, or a transaction"
                f" took more than {EXCLUSIVE_TRANSACTION_MS / 1_000:.0f} s"
            )
        return ServiceError(
            f"Kafka did not commit a transaction of {self._id}: {error_text(error)}"
        )
