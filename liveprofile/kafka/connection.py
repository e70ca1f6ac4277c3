"""Configuration of Kafka clients, and the text of Kafka errors."""

from __future__ import annotations

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
        config |= (
            _oauth(kafka)
            if kafka.sasl_mechanism == "OAUTHBEARER"
            else {
                "sasl.username": kafka.username,
                "sasl.password": kafka.password.get_secret_value(),
            }
        )
    if kafka.ca_file:
        config["ssl.ca.location"] = kafka.ca_file
    if kafka.certificate_file:
        config["ssl.certificate.location"] = kafka.certificate_file
        config["ssl.key.location"] = kafka.key_file
    if kafka.key_password:
        config["ssl.key.password"] = kafka.key_password.get_secret_value()
    return config


def _oauth(kafka: KafkaSettings) -> dict[str, str]:
    """librdkafka fetches and renews the token itself."""
    scope = {"sasl.oauthbearer.scope": kafka.oauth_scope} if kafka.oauth_scope else {}
    return scope | {
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": kafka.oauth_token_url,
        "sasl.oauthbearer.client.id": kafka.oauth_client_id,
        "sasl.oauthbearer.client.secret": kafka.oauth_client_secret.get_secret_value(),
    }


def service_error(message: str, error: KafkaException) -> ServiceError:
    """The error to raise: ServiceUnavailableError if the brokers did not answer in time."""
    unavailable = bool(error.args) and error.args[0].code() in _NO_ANSWER
    return (ServiceUnavailableError if unavailable else ServiceError)(message)


def error_text(error: KafkaException) -> str:
    """The error as one line."""
    return error.args[0].str() if error.args else str(error)
