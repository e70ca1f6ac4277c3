"""Settings: precedence of file, variables and overrides; errors of one line; credentials."""

import os
import re
import ssl

import pytest

from liveprofile.errors import ConfigError
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.topics import topic_configs
from liveprofile.settings import (
    CONFIG_VARIABLE,
    ENV_PREFIX,
    OTHER_VARIABLES,
    CassandraSettings,
    load,
    setting_types,
)
from liveprofile.storage.connection import tls_context
from tests.support.paths import ROOT
from tests.support.security.certificates import CertificateAuthority

CONFIGURED = (
    "liveprofile", "intake", "models", "udfs", "jobs", "offline", "services", "stack", "cli",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in os.environ:
        if name.startswith("LIVEPROFILE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def written(tmp_path):
    def write(text: str):
        path = tmp_path / "liveprofile.toml"
        path.write_text(text)
        return path

    return write


def test_overrides_take_precedence_over_variables_and_variables_over_the_file(written, monkeypatch):
    file = written('[kafka]\nbootstrap_servers = "file:1"\ngroup_id = "file"\nusername = "file"\n')
    monkeypatch.setenv("LIVEPROFILE_KAFKA__GROUP_ID", "variable")
    monkeypatch.setenv("LIVEPROFILE_KAFKA__USERNAME", "variable")
    kafka = load(file, kafka={"username": "override"}).kafka
    found = kafka.bootstrap_servers, kafka.group_id, kafka.username
    assert found == ("file:1", "variable", "override")


def test_file_is_read_from_the_path_in_the_variable(written, monkeypatch):
    monkeypatch.setenv(CONFIG_VARIABLE, str(written("[window]\nlength_ms = 60000\n")))
    assert load().window.length_ms == 60_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[window]\nlength_ms = 5\n", r"setting window\.length_ms = 5: .*1000"),
        ("[window]\nlength = 5\n", r"setting window\.length: not a setting; docs/settings\.md"),
        ("colour = 5\n", r"setting colour: not a setting; docs/settings\.md lists all"),
        ("window = 5\n", r"setting window = 5: Input should be a valid dictionary"),
        ('cassandra = "hunter2"\n', r"setting cassandra = \*{8}: Input should be a valid dict"),
        ('[kafka]\nstartup_mode = "soon"\n', r"setting kafka\.startup_mode = 'soon': .*earliest"),
        ('[cassandra]\nkeyspace = "Live"\n', r"setting cassandra\.keyspace = 'Live'"),
        ("[window\n", r"configuration file .*liveprofile\.toml: "),
    ],
)
def test_invalid_setting_is_rejected_in_one_line_with_key_and_value(written, text, message):
    with pytest.raises(ConfigError, match=message) as raised:
        load(written(text))
    assert "\n" not in str(raised.value)


def test_all_wrong_settings_are_reported_each_with_its_origin(written, monkeypatch):
    file = written('[window]\nlength_ms = 5\n[kafka]\nstartup_mode = "soon"\npasword = "hunter2"\n')
    monkeypatch.setenv("LIVEPROFILE_JOB__PARALLELISM", "two")
    monkeypatch.setenv("LIVEPROFILE_RULES_SIGNING_KEY", "hunter2")
    monkeypatch.setenv("LIVEPROFILE_KAFAK__GROUP_ID", "shop")
    with pytest.raises(ConfigError) as raised:
        load(file)
    first, *lines = str(raised.value).splitlines()
    assert first == "6 settings are wrong:"
    for start, end in (
        ("window.length_ms = 5: Input should be greater than or equal to 1000", file),
        ("kafka.startup_mode = 'soon': Input should be 'earliest', 'latest' or 'group'", file),
        ("kafka.pasword: not a setting; docs/settings.md lists all", file),
        ("job.parallelism = 'two': Input should be a valid integer", "variable LIVEPROFILE_JOB__"),
        ("rules_signing_key = ********: Value should have", "variable LIVEPROFILE_RULES_SIGNING"),
    ):
        (line,) = [line for line in lines if line.startswith(f"  setting {start}")]
        assert f"(from {end}" in line
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("KAFAK__GROUP_ID", "hunter2", r"names no setting; docs/settings\.md lists all$"),
        ("CASSANDRA", "hunter2", r"names no setting"),
        ("CASSANDRA__CONTACT_POINTS", "db", r"= 'db': must be JSON, such as"),
        ("CONSENT__GRANTED", "risk", r"= 'risk': must be JSON, such as"),
    ],
)
def test_wrong_variable_is_rejected_in_one_line(monkeypatch, variable, value, message):
    monkeypatch.setenv(f"LIVEPROFILE_{variable}", value)
    with pytest.raises(ConfigError, match=f"^variable LIVEPROFILE_{variable} {message}") as raised:
        load()
    assert "\n" not in str(raised.value) and "hunter2" not in str(raised.value)


def test_variables_may_be_lists_and_lower_case(monkeypatch):
    monkeypatch.setenv("LIVEPROFILE_CASSANDRA__CONTACT_POINTS", '["a", "b"]')
    monkeypatch.setenv("LIVEPROFILE_CASSANDRA__PORT", "9043")
    monkeypatch.setenv("liveprofile_job__parallelism", "3")
    settings = load()
    assert settings.cassandra.contact_points == ("a", "b")
    assert (settings.cassandra.port, settings.job.parallelism) == (9043, 3)


def test_variables_of_kubernetes_services_are_no_settings(monkeypatch):
    for name, value in (
        ("REST_SERVICE_HOST", "10.0.0.1"),
        ("REST_SERVICE_PORT_HTTP", "8081"),
        ("REST_PORT", "tcp://10.0.0.1:8081"),
        ("PORT_8081_TCP_ADDR", "10.0.0.1"),
    ):
        monkeypatch.setenv(f"LIVEPROFILE_{name}", value)
    assert load() == load()


def test_every_variable_that_the_code_reads_is_known():
    code = "\n".join(
        file.read_text("utf-8") for package in CONFIGURED for file in (ROOT / package).rglob("*.py")
    )
    named = set(re.findall(r"\"(LIVEPROFILE_[A-Z_]*[A-Z])\"", code))
    settings = {"__".join((ENV_PREFIX[:-1], *path)) for path in setting_types()}
    settings = {name.replace("__", "_", 1).upper() for name in settings}
    assert named - settings == OTHER_VARIABLES


def test_password_does_not_appear_in_errors_or_repr(written):
    file = written('[kafka]\npassword = "hunter2"\nstartup_mode = "soon"\n')
    with pytest.raises(ConfigError) as raised:
        load(file)
    assert "hunter2" not in str(raised.value)
    with pytest.raises(ConfigError) as raised:
        load(kafka={"password": ["hunter2"]})
    assert "hunter2" not in str(raised.value)
    assert "hunter2" not in repr(load(kafka={"password": "hunter2"}))


def test_security_settings_become_kafka_client_settings():
    plain = client_config(load().kafka)
    assert plain["security.protocol"] == "PLAINTEXT" and "sasl.password" not in plain
    sasl = {"sasl_mechanism": "PLAIN", "username": "me", "password": "secret", "ca_file": "/ca.pem"}
    secured = client_config(
        load(kafka=CERTIFICATE | sasl | {"security_protocol": "SASL_SSL"}).kafka
    )
    expected = {
        "sasl.mechanism": "PLAIN",
        "sasl.username": "me",
        "sasl.password": "secret",
        "ssl.ca.location": "/ca.pem",
        "ssl.certificate.location": "/c.pem",
        "ssl.key.location": "/k.pem",
        "ssl.key.password": "hunter2",
    }
    assert expected.items() <= secured.items()


def test_topics_use_arrival_time_and_their_retention():
    configs = topic_configs(load(topics={"retention_ms": 1_000}).topics)
    kept_days = {
        **dict.fromkeys(("risk-rules", "user-models", "segment-definitions"), ("compact", None)),
        "user-attributes": ("compact,delete", 400),
        "risk-feedback": ("delete", 400),
        **dict.fromkeys(
            ("user-consents", "user-erasures", "user-merges"), ("compact,delete", 3_650)
        ),
    }
    assert len(configs) == 14 and kept_days.keys() < configs.keys()
    for name, config in configs.items():
        assert config["message.timestamp.type"] == "LogAppendTime"
        policy, days = kept_days.get(name, ("delete", 0))
        retention_ms = None if days is None else str(days * 86_400_000 or 1_000)
        assert (config["cleanup.policy"], config.get("retention.ms")) == (policy, retention_ms)


@pytest.mark.parametrize(("replication", "expected"), [(1, None), (2, None), (3, "2")])
def test_replicated_topics_require_two_replicas_for_a_write(replication, expected):
    for config in topic_configs(load(topics={"replication": replication}).topics).values():
        assert config.get("min.insync.replicas") == expected


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
def test_incomplete_credentials_are_rejected_in_one_line_without_secrets(section, values, message):
    with pytest.raises(ConfigError) as raised:
        load(**{section: values})
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"setting {section}: ")
    assert "\n" not in str(raised.value) and "hunter2" not in str(raised.value)


def test_file_and_variable_together_complete_the_credentials(written, monkeypatch):
    file = written('[decoder]\nusername = "shop"\n')
    with pytest.raises(ConfigError, match="username and password need each other"):
        load(file)
    monkeypatch.setenv("LIVEPROFILE_DECODER__PASSWORD", "hunter2")
    assert load(file).decoder.password.get_secret_value() == "hunter2"


def test_cassandra_client_certificate_is_loaded_with_its_password(tmp_path):
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
