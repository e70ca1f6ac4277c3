"""Certificates, passwords and ACLs, with both Kafka clients and a broker that requires them."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from jobs import backfill_job
from liveprofile.errors import ServiceError
from liveprofile.feeds.definition_topics import read_definition_topic
from liveprofile.kafka.offsets import committed_offsets
from liveprofile.kafka.records import exclusive_writer, read_topic, send_all
from liveprofile.kafka.topics import create_topics
from liveprofile.rules.rules import RULES
from liveprofile.settings import Settings, load
from liveprofile.toml_text import to_toml
from models.profile.deployment import read_user_models
from tests.pipeline.harness import read_rows
from tests.support.security.certificates import CertificateAuthority
from tests.support.security.secured_broker import CLIENT, PASSWORD, SecuredBroker
from tests.support.streams.shop import shop_events

KEY_PASSWORD = "of the key"
NO_CERTIFICATE = {"certificate_file": "", "key_file": "", "key_password": ""}
EVENTS = list(itertools.islice(shop_events(5, users=3, step_ms=60_000), 60))


class SecuredKafka:
    """The broker, what clients of it need, and the settings of a client that has all of it."""

    def __init__(self, folder: Path):
        self.authority = CertificateAuthority(folder)
        self.broker = SecuredBroker(folder / "broker", self.authority)
        self.mtls = self.certificate_of(CLIENT, KEY_PASSWORD)
        self.password: dict[str, Any] = {
            "bootstrap_servers": self.broker.password,
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "PLAIN",
            "ca_file": str(self.authority.file),
            "username": CLIENT,
            "password": PASSWORD,
        }

    def certificate_of(self, name: str, key_password: str = "") -> dict[str, Any]:
        certificate = self.authority.issue(name, key_password)
        return {
            "bootstrap_servers": self.broker.mtls,
            "security_protocol": "SSL",
            "ca_file": str(self.authority.file),
            "certificate_file": str(certificate.file),
            "key_file": str(certificate.key_file),
            "key_password": key_password,
        }


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """Its input topic holds EVENTS."""
    kafka = SecuredKafka(tmp_path_factory.mktemp("secured"))
    records = [(event["user_id"].encode(), json.dumps(event).encode(), {}) for event in EVENTS]
    try:
        kafka.broker.start()
        settings = load(kafka={"bootstrap_servers": kafka.broker.bootstrap_servers})
        create_topics(settings)
        send_all(settings, settings.topics.events, records)
        yield kafka
    finally:
        kafka.broker.stop()


@pytest.fixture(params=["mtls", "password"])
def client(kafka: SecuredKafka, request: pytest.FixtureRequest) -> dict[str, Any]:
    return getattr(kafka, request.param)


def test_confluent_client_produces_and_consumes(client: dict[str, Any]) -> None:
    settings = load(kafka=client)
    topic = settings.topics.feedback
    before = len(list(read_topic(settings, topic)))
    send_all(settings, topic, [(b"u1", b"{}", {})])
    assert len(list(read_topic(settings, topic))) == before + 1


@pytest.mark.parametrize("missing", ["certificate", "authority", "password"])
def test_confluent_client_without_credentials_is_refused(
    kafka: SecuredKafka, missing: str, tmp_path: Path
) -> None:
    stranger = CertificateAuthority(tmp_path, "stranger").issue("liveprofile")
    sections = {
        "certificate": kafka.mtls | NO_CERTIFICATE,
        "authority": kafka.mtls
        | {
            "certificate_file": str(stranger.file),
            "key_file": str(stranger.key_file),
            "key_password": "",
        },
        "password": kafka.password | {"password": "wrong"},
    }
    settings = load(kafka=sections[missing] | {"request_timeout_ms": 3_000})
    with pytest.raises(ServiceError, match="does not answer"):
        list(read_topic(settings, settings.topics.events))


def test_flink_connector_reads_with_the_same_settings(
    client: dict[str, Any], tmp_path: Path
) -> None:
    """The backfill job over the topic, in an embedded Flink."""
    config, folder = tmp_path / "liveprofile.toml", tmp_path / "rows"
    config.write_text(to_toml({"kafka": client}), "utf-8")
    assert backfill_job.main(["--config", str(config), "--topic", "--rows", str(folder)]) == 0
    assert {row["user_id"] for row in read_rows(folder)} == {event["user_id"] for event in EVENTS}


TOPIC, GROUP = ResourceType.TOPIC, ResourceType.GROUP
READ, WRITE = AclOperation.READ, AclOperation.WRITE
JOB_READS = (
    "behavior-events risk-feedback risk-rules user-models segment-definitions user-consents"
    " user-erasures"
)
JOB_WRITES = "behavior-events-rejected behavior-events-late risk-alerts segment-changes"
JOB_GROUPS = (
    "liveprofile liveprofile-events liveprofile-rules liveprofile-models liveprofile-consents"
    " liveprofile-erasures"
)
# From the table of docs/deploy.md.
RIGHTS = {
    "job": [(TOPIC, READ, JOB_READS), (TOPIC, WRITE, JOB_WRITES), (GROUP, READ, JOB_GROUPS)],
    "analyst": [
        (TOPIC, READ, "risk-alerts risk-feedback"),
        (TOPIC, WRITE, "risk-feedback"),
        (GROUP, READ, "liveprofile-cli"),
    ],
    "publisher": [
        (TOPIC, READ, "risk-rules"),
        (TOPIC, WRITE, "risk-rules"),
        (GROUP, READ, "liveprofile-rules"),
        (ResourceType.TRANSACTIONAL_ID, WRITE, "liveprofile-risk-rules"),
    ],
    "stranger": [],
}


def settings_with_rights(kafka: SecuredKafka, name: str) -> Settings:
    """Settings of the principal `name`, which RIGHTS lists, after the broker got its ACLs."""
    acls = [
        AclBinding(
            kind,
            resource,
            ResourcePatternType.LITERAL,
            f"User:CN={name}",
            "*",
            operation,
            AclPermissionType.ALLOW,
        )
        for kind, operation, resources in RIGHTS[name]
        for resource in resources.split()
    ]
    if acls:
        admin = AdminClient({"bootstrap.servers": kafka.broker.bootstrap_servers})
        for future in admin.create_acls(acls).values():
            future.result()
    return load(kafka=kafka.certificate_of(name))


def test_documented_acls_allow_each_principal_its_work_only(kafka: SecuredKafka) -> None:
    job, analyst, publisher, stranger = (settings_with_rights(kafka, name) for name in RIGHTS)
    topics = job.topics
    record = [(b"*", b"{}", {})]

    send_all(publisher, topics.rules, record)
    assert read_definition_topic(publisher, RULES).has_records
    with exclusive_writer(publisher, topics.rules) as send:
        send(record)
    assert read_definition_topic(job, RULES).has_records
    assert read_user_models(job) is None
    assert committed_offsets(job, topics.events) == {}
    send_all(job, topics.alerts, record)
    assert len(list(read_topic(analyst, topics.alerts))) == 1
    send_all(analyst, topics.feedback, record)

    for settings, topic in (
        (job, topics.rules),
        (job, topics.models),
        (analyst, topics.rules),
        (analyst, topics.alerts),
        (publisher, topics.feedback),
        (stranger, topics.rules),
    ):
        with pytest.raises(ServiceError, match="Kafka did not accept"):
            send_all(settings, topic, record)
    with (
        pytest.raises(ServiceError, match="Kafka did not accept"),
        exclusive_writer(analyst, topics.rules),
    ):
        pass
    # Otherwise `rules apply` would take the topic for an empty one.
    with pytest.raises(ServiceError, match=r"risk-rules: .*authorization failed"):
        read_definition_topic(analyst, RULES)
