"""Client settings for Kafka, and its errors as text."""

from __future__ import annotations

import logging
from typing import Any

from confluent_kafka import (
    KafkaException,
)

from liveprofile.config import KafkaSettings

log = logging.getLogger(__name__)


def client_config(kafka: KafkaSettings) -> dict[str, Any]:
    """What every confluent-kafka client of ours starts from: servers and security."""
    config: dict[str, Any] = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "security.protocol": kafka.security_protocol,
        "client.id": "liveprofile-cli",
        # Otherwise librdkafka prints a line of its own for each failed connection.
        "logger": log,
    }
    if kafka.security_protocol.startswith("SASL"):
        config |= {
            "sasl.mechanism": kafka.sasl_mechanism,
            "sasl.username": kafka.username,
            "sasl.password": kafka.password.get_secret_value(),
        }
    if kafka.ca_file:
        config["ssl.ca.location"] = kafka.ca_file
    return config


def error_text(error: KafkaException) -> str:
    return error.args[0].str() if error.args else str(error)
