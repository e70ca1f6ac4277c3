"""The options of the Java client: which security settings become which options."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.sql.tables import kafka_properties, kafka_source
from liveprofile.settings import load

SHADED = "org.apache.flink.kafka.shaded.org.apache.kafka.common"


def properties(**kafka: Any) -> dict[str, str]:
    """Without the prefix `properties.`, and without servers and protocol."""
    options = kafka_properties(load(kafka=kafka).kafka)
    named = {name.removeprefix("properties."): value for name, value in options.items()}
    return {
        name: value
        for name, value in named.items()
        if name not in ("bootstrap.servers", "security.protocol")
    }


def test_plaintext_has_no_security_options() -> None:
    assert properties() == {}


@pytest.mark.parametrize(
    ("mechanism", "module"),
    [("PLAIN", "plain.PlainLoginModule"), ("SCRAM-SHA-256", "scram.ScramLoginModule")],
)
def test_password_is_quoted_for_the_login_module(mechanism: str, module: str) -> None:
    written = properties(
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism=mechanism,
        username="me",
        password='a "quoted" \\ one',
    )
    assert written == {
        "sasl.mechanism": mechanism,
        "sasl.jaas.config": f"{SHADED}.security.{module} required"
        ' username="me" password="a \\"quoted\\" \\\\ one";',
    }


def test_client_certificate_is_read_where_the_client_runs() -> None:
    written = properties(
        security_protocol="SSL",
        ca_file="/tls/ca.pem",
        certificate_file="/tls/tls.crt",
        key_file="/tls/tls.key",
        key_password="secret",
    )
    assert written == {
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": "/tls/ca.pem",
        "config.providers": "directory",
        "config.providers.directory.class": f"{SHADED}.config.provider.DirectoryConfigProvider",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.certificate.chain": "${directory:/tls:tls.crt}",
        "ssl.keystore.key": "${directory:/tls:tls.key}",
        "ssl.key.password": "secret",
    }


def test_option_without_value_is_left_out_of_the_table() -> None:
    settings = load(
        kafka={"security_protocol": "SSL", "certificate_file": "/c.pem", "key_file": "/k.pem"}
    )
    table = kafka_source("source", settings)
    assert "'properties.ssl.keystore.key' = '${directory:/:k.pem}'" in table
    assert "ssl.key.password" not in table
