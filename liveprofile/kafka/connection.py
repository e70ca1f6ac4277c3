"""Configuration of Kafka clients, and the text of Kafka errors."""

import logging
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from liveprofile.errors import ServiceError, ServiceUnavailableError
from liveprofile.settings import KafkaSettings

_NO_ANSWER = (
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError.REQUEST_TIMED_OUT,
)

log = logging.getLogger(__name__)


def client_config(kafka: KafkaSettings) -> dict[str, Any]:
    """Base configuration of every confluent-kafka client: servers and security."""
    config: dict[str, Any] = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "security.protocol": kafka.security_protocol,
        "client.id": "liveprofile-cli",
        # Without a logger librdkafka prints a line for each failed connection.
        "logger": log,
    }
    if kafka.uses_sasl:
        config["sasl.mechanism"] = kafka.sasl_mechanism
        config["sasl.username"] = kafka.username
        config["sasl.password"] = kafka.password.get_secret_value()
    if kafka.ca_file:
        config["ssl.ca.location"] = kafka.ca_file
    if kafka.certificate_file:
        config["ssl.certificate.location"] = kafka.certificate_file
        config["ssl.key.location"] = kafka.key_file
    if kafka.key_password:
        config["ssl.key.password"] = kafka.key_password.get_secret_value()
    return config


def service_error(message: str, error: KafkaException) -> ServiceError:
    """The error to raise: ServiceUnavailableError if the brokers did not answer in time."""
    unavailable = bool(error.args) and error.args[0].code() in _NO_ANSWER
    return (ServiceUnavailableError if unavailable else ServiceError)(message)


def error_text(error: KafkaException) -> str:
    """The error as one line."""
    return error.args[0].str() if error.args else str(error)
