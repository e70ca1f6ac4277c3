"""Settings: precedence of file, variables and overrides; errors of one line."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from liveprofile.config import CONFIG_VARIABLE, load
from liveprofile.errors import ConfigError
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.topics import topic_configs
from liveprofile.renamed_settings import RENAMED


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    import os

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


def test_load_without_a_file_returns_the_defaults():
    settings = load()
    assert settings.window.length_ms == 300_000
    assert settings.topics.events == "behavior-events"


def test_overrides_take_precedence_over_variables_and_variables_over_the_file(written, monkeypatch):
    file = written('[kafka]\nbootstrap_servers = "file:1"\ngroup_id = "file"\nusername = "file"\n')
    monkeypatch.setenv("LIVEPROFILE_KAFKA__GROUP_ID", "variable")
    monkeypatch.setenv("LIVEPROFILE_KAFKA__USERNAME", "variable")
    kafka = load(file, kafka={"username": "override"}).kafka
    assert (kafka.bootstrap_servers, kafka.group_id, kafka.username) == (
        "file:1",
        "variable",
        "override",
    )


def test_file_is_read_from_the_path_in_the_variable(written, monkeypatch):
    monkeypatch.setenv(CONFIG_VARIABLE, str(written("[window]\nlength_ms = 60000\n")))
    assert load().window.length_ms == 60_000


def test_loading_a_file_does_not_change_the_environment(written):
    load(written("[window]\nlength_ms = 60000\n"))
    assert load().window.length_ms == 300_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[window]\nlength_ms = 5\n", r"setting window\.length_ms = 5: .*1000"),
        ("[window]\nlength = 5\n", r"setting window\.length = 5: .*not permitted"),
        ("[windows]\nlength_ms = 5\n", r"setting windows"),
        ('[kafka]\nstartup_mode = "soon"\n', r"setting kafka\.startup_mode = 'soon': .*earliest"),
        ('[cassandra]\nkeyspace = "Live"\n', r"setting cassandra\.keyspace = 'Live'"),
        ("[model]\nlength_buckets = [32, 8]\n", r"setting model\.length_buckets.*ascending"),
    ],
)
def test_invalid_setting_is_rejected_in_one_line_with_key_and_value(written, text, message):
    with pytest.raises(ConfigError, match=message) as raised:
        load(written(text))
    assert "\n" not in str(raised.value)


def test_file_that_is_not_toml_is_rejected_in_one_line(written):
    file = written("[window\n")
    with pytest.raises(ConfigError, match=f"configuration file {file}") as raised:
        load(file)
    assert "\n" not in str(raised.value)


def test_missing_file_is_rejected_by_name():
    with pytest.raises(ConfigError, match=r"no configuration file at /nowhere\.toml"):
        load("/nowhere.toml")


def test_password_does_not_appear_in_errors_or_repr(written):
    file = written('[kafka]\npassword = "hunter2"\nstartup_mode = "soon"\n')
    with pytest.raises(ConfigError) as raised:
        load(file)
    assert "hunter2" not in str(raised.value)
    with pytest.raises(ConfigError) as raised:
        load(kafka={"password": ["hunter2"]})
    assert "hunter2" not in str(raised.value)
    assert "hunter2" not in repr(load(kafka={"password": "hunter2"}))


def test_settings_are_immutable():
    with pytest.raises(ValidationError, match="frozen"):
        load().window.length_ms = 1


def test_security_settings_become_kafka_client_settings():
    plain = client_config(load().kafka)
    assert plain["security.protocol"] == "PLAINTEXT"
    assert "sasl.password" not in plain
    secured = client_config(
        load(
            kafka={
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "PLAIN",
                "username": "me",
                "password": "secret",
                "ca_file": "/ca.pem",
            }
        ).kafka
    )
    assert secured["sasl.mechanism"] == "PLAIN"
    assert (secured["sasl.username"], secured["sasl.password"]) == ("me", "secret")
    assert secured["ssl.ca.location"] == "/ca.pem"


def test_topics_use_arrival_time_and_their_retention():
    configs = topic_configs(load(topics={"retention_ms": 1_000}).topics)
    assert set(configs) == {
        "behavior-events",
        "behavior-events-rejected",
        "behavior-events-late",
        "risk-alerts",
        "risk-rules",
        "risk-feedback",
    }
    rules = configs.pop("risk-rules")
    assert (rules["cleanup.policy"], "retention.ms" in rules) == ("compact", False)
    labels = configs.pop("risk-feedback")
    assert labels["retention.ms"] == str(400 * 86_400_000)
    for config in configs.values():
        assert config["message.timestamp.type"] == "LogAppendTime"
        assert config["retention.ms"] == "1000"


@pytest.mark.parametrize(("replication", "expected"), [(1, None), (2, None), (3, "2")])
def test_replicated_topics_require_two_replicas_for_a_write(replication, expected):
    for config in topic_configs(load(topics={"replication": replication}).topics).values():
        assert config.get("min.insync.replicas") == expected


@pytest.mark.parametrize("old", ["limits.future_ms", "risk.lane", "kafka.start"])
def test_renamed_setting_is_rejected_with_its_new_name(tmp_path, monkeypatch, old):
    section, key = old.split(".")
    file = tmp_path / "liveprofile.toml"
    file.write_text(f"[{section}]\n{key} = 1\n")
    with pytest.raises(ConfigError, match=f"setting {old} is now called {RENAMED[old]}"):
        load(file)
    monkeypatch.setenv(f"LIVEPROFILE_{section.upper()}__{key.upper()}", "1")
    with pytest.raises(ConfigError, match="is now called LIVEPROFILE_"):
        load()
