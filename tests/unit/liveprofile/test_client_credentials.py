"""Client certificates: combinations of settings, and what clients get of them."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from liveprofile.errors import ConfigError
from liveprofile.kafka.connection import client_config
from liveprofile.settings import CassandraSettings, load
from liveprofile.storage.connection import tls_context
from stack.local import to_toml
from tests.support.security.certificates import CertificateAuthority

CERTIFICATE = {"certificate_file": "/c.pem", "key_file": "/k.pem", "key_password": "hunter2"}


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("kafka", {"certificate_file": "/c.pem"}, "certificate_file and key_file need each other"),
        ("kafka", {"key_file": "/k.pem"}, "certificate_file and key_file need each other"),
        ("kafka", {"key_password": "hunter2"}, "key_password needs key_file"),
        ("kafka", CERTIFICATE, "certificate_file needs security_protocol SSL or SASL_SSL"),
        ("cassandra", {"key_file": "/k.pem"}, "certificate_file and key_file need each other"),
        ("cassandra", CERTIFICATE, "certificate_file needs ca_file"),
    ],
)
def test_incomplete_credentials_are_rejected_in_one_line_without_secrets(
    section: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load(**{section: values})
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"setting {section}: ")
    assert "\n" not in str(raised.value) and "hunter2" not in str(raised.value)


def test_secrets_do_not_appear_in_errors() -> None:
    with pytest.raises(ConfigError) as raised:
        load(kafka={"key_password": ["hunter2"]})
    assert "hunter2" not in str(raised.value)


def test_file_and_variable_together_complete_the_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "liveprofile.toml"
    file.write_text(to_toml({"decoder": {"username": "shop"}}))
    with pytest.raises(ConfigError, match="username and password need each other"):
        load(file)
    monkeypatch.setenv("LIVEPROFILE_DECODER__PASSWORD", "hunter2")
    assert load(file).decoder.password.get_secret_value() == "hunter2"


def test_confluent_client_gets_certificate_and_key() -> None:
    config = client_config(load(kafka={"security_protocol": "SSL", **CERTIFICATE}).kafka)
    assert config["ssl.certificate.location"] == "/c.pem"
    assert config["ssl.key.location"] == "/k.pem"
    assert config["ssl.key.password"] == "hunter2"


def test_cassandra_client_certificate_is_loaded_with_its_password(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    certificate = authority.issue("liveprofile", key_password="hunter2")

    def context(**changes: str) -> ssl.SSLContext | None:
        own = {"ca_file": authority.file, "certificate_file": certificate.file}
        own |= {"key_file": certificate.key_file, "key_password": "hunter2"}
        return tls_context(
            load(cassandra={k: str(v) for k, v in (own | changes).items()}).cassandra
        )

    assert isinstance(context(), ssl.SSLContext)
    for wrong in ({"key_password": "other"}, {"key_password": ""}, {"certificate_file": "/no"}):
        with pytest.raises(ConfigError, match=r"settings cassandra\.certificate_file = "):
            context(**wrong)
    assert tls_context(CassandraSettings()) is None
