"""Finds out the facts about services and this machine. It changes nothing.

A service that does not answer, or refuses, is a fact too.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cassandra import Unauthorized
from cassandra.cluster import Session
from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from liveprofile.errors import LiveprofileError
from liveprofile.flink import java
from liveprofile.flink.jars import FUNCTIONS
from liveprofile.flink.job_report import running_names
from liveprofile.flink.rest import request
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.topics import metadata, topic_configs
from liveprofile.resources import product_path
from liveprofile.rules.rules import read_rules
from liveprofile.settings import Settings
from liveprofile.storage.connection import close, connect
from models.profile.model_card import ModelCard
from services.operations import chore_status


@dataclass(frozen=True)
class TopicFacts:
    partitions: int
    replicas: int  # of the partition with the fewest
    config: dict[str, str] | None  # None if the account may not read it
    operations: frozenset[str] | None = None  # that the account may do; None: not known


@dataclass(frozen=True)
class KafkaFacts:
    error: str | None = None  # why nothing else is known
    brokers: int = 0
    topics: dict[str, TopicFacts] = field(default_factory=dict)


@dataclass(frozen=True)
class CassandraFacts:
    error: str | None = None
    version: str = ""
    nodes: int = 0
    nodes_down: int = 0
    clock_ahead_ms: int = 0  # of this machine's clock, at most by the time of the request
    settings: dict[str, str] | None = None  # of the server; None if the account may not read them
    replication: dict[str, str] | None = None  # of the keyspace; None if it is missing
    columns: dict[str, dict[str, str]] = field(default_factory=dict)  # table: column: type
    unreadable: tuple[str, ...] = ()  # tables that the account may not read
    overdue: tuple[str, ...] = ()  # chores


@dataclass(frozen=True)
class FlinkFacts:
    error: str | None = None
    version: str = ""
    task_managers: int = 0
    slots: int = 0
    slots_free: int = 0
    jobs: tuple[str, ...] = ()  # names of the running jobs
    config: dict[str, str] = field(default_factory=dict)  # of the JobManager
    has_functions: bool = True  # the jar of jobs/java is in the JobManager's class path
    clock_ahead_ms: int = 0  # of this machine's clock, at most by a heartbeat interval


@dataclass(frozen=True)
class LocalFacts:
    python: tuple[int, int] = (0, 0)
    java_error: str | None = None
    temp_free_bytes: int = 0
    model_error: str | None = None
    embedding_dim: int | None = None
    rules_error: str | None = None
    # The folder of checkpoints, if it is on a file system of this machine; None if not.
    checkpoint_folder_writable: bool | None = None


@dataclass(frozen=True)
class Facts:
    kafka: KafkaFacts = KafkaFacts()
    cassandra: CassandraFacts = CassandraFacts()
    flink: FlinkFacts = FlinkFacts()
    local: LocalFacts = LocalFacts()


def collect(settings: Settings) -> Facts:
    """Asks the three services at once. Raises nothing for a service that does not answer."""
    with ThreadPoolExecutor(3) as pool:
        kafka = pool.submit(kafka_facts, settings)
        cassandra = pool.submit(cassandra_facts, settings)
        flink = pool.submit(flink_facts, settings).result()
        return Facts(kafka.result(), cassandra.result(), flink, local_facts(settings, flink))


def kafka_facts(settings: Settings) -> KafkaFacts:
    admin = AdminClient(client_config(settings.kafka))
    try:
        cluster = metadata(admin, settings.kafka)
    except LiveprofileError as error:
        return KafkaFacts(error=str(error))
    names = [name for name in topic_configs(settings.topics) if name in cluster.topics]
    configs: dict[str, Any] = {}
    allowed: dict[str, Any] = {}
    timeout_s = settings.kafka.request_timeout_s
    if names:
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        described = admin.describe_configs(resources, request_timeout=timeout_s)
        configs = _answers({each.name: future for each, future in described.items()})
        topics = TopicCollection(names)
        allowed = _answers(
            admin.describe_topics(
                topics, include_authorized_operations=True, request_timeout=timeout_s
            )
        )
    facts = {}
    for name in names:
        partitions = cluster.topics[name].partitions.values()
        config = configs.get(name)
        operations = getattr(allowed.get(name), "authorized_operations", None)
        facts[name] = TopicFacts(
            partitions=len(partitions),
            replicas=min((len(each.replicas) for each in partitions), default=0),
            config=config and {key: str(entry.value) for key, entry in config.items()},
            operations=None
            if operations is None
            else frozenset(operation.name for operation in operations),
        )
    return KafkaFacts(brokers=len(cluster.brokers), topics=facts)


def _answers(futures: Mapping[str, Future[Any]]) -> dict[str, Any]:
    """The results by topic, without those that the account may not have."""
    found = {}
    for name, future in futures.items():
        with suppress(KafkaException):
            found[name] = future.result()
    return found


def cassandra_facts(settings: Settings) -> CassandraFacts:
    try:
        session = connect(settings.cassandra, use_keyspace=False)
    except LiveprofileError as error:
        return CassandraFacts(error=str(error))
    try:
        return _cassandra_facts(session, settings)
    except Exception as error:  # noqa: BLE001 - of the driver, with no common base class
        return CassandraFacts(error=f"{type(error).__name__}: {' '.join(str(error).split())}")
    finally:
        close(session)


def _cassandra_facts(session: Session, settings: Settings) -> CassandraFacts:
    keyspace = settings.cassandra.keyspace

    def rows(query: str) -> list[Any]:
        return list(session.execute(query, (keyspace,)))

    [local] = session.execute(
        "SELECT release_version, toUnixTimestamp(now()) AS now FROM system.local"
    )
    now_ms = time.time_ns() // 1_000_000
    hosts = session.cluster.metadata.all_hosts()
    stored = rows("SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = %s")
    columns: dict[str, dict[str, str]] = {}
    for row in rows(
        "SELECT table_name, column_name, type FROM system_schema.columns WHERE keyspace_name = %s"
    ):
        columns.setdefault(row.table_name, {})[row.column_name] = row.type
    options, unreadable = None, []
    for table in columns:
        try:
            session.execute(f"SELECT * FROM {keyspace}.{table} LIMIT 1")
        except Unauthorized:
            unreadable.append(table)
    with suppress(Unauthorized):
        found = session.execute("SELECT name, value FROM system_views.settings")
        options = {row.name: row.value for row in found if row.value is not None}
    overdue: list[str] = []
    if "chore" in columns and "chore" not in unreadable:
        session.set_keyspace(keyspace)
        overdue = chore_status(session, settings)["warnings"]
    return CassandraFacts(
        version=local.release_version,
        nodes=len(hosts),
        nodes_down=sum(host.is_up is False for host in hosts),
        clock_ahead_ms=now_ms - local.now,
        settings=options,
        replication=dict(stored[0].replication) if stored else None,
        columns=columns,
        unreadable=tuple(unreadable),
        overdue=tuple(overdue),
    )


def flink_facts(settings: Settings) -> FlinkFacts:
    rest_url = settings.flink.rest_url

    def get(path: str) -> Any:
        return request(rest_url, path)

    try:
        overview = get("/overview")
        managers = get("/taskmanagers")["taskmanagers"]
        now_ms = time.time_ns() // 1_000_000
        # In spite of its name it is a time, and 0 before the first heartbeat.
        beats_ms = [ms for each in managers if (ms := each["timeSinceLastHeartbeat"]) > 0]
        return FlinkFacts(
            version=overview["flink-version"],
            task_managers=overview["taskmanagers"],
            slots=overview["slots-total"],
            slots_free=overview["slots-available"],
            jobs=tuple(running_names(rest_url).values()),
            config={each["key"]: each["value"] for each in get("/jobmanager/config")},
            has_functions=any(
                path.endswith(FUNCTIONS) for path in get("/jobmanager/environment")["classpath"]
            ),
            clock_ahead_ms=now_ms - max(beats_ms) if beats_ms else 0,
        )
    except LiveprofileError as error:
        return FlinkFacts(error=str(error))


def local_facts(settings: Settings, flink: FlinkFacts) -> LocalFacts:
    card, model_error = _try(lambda: ModelCard.read(product_path(settings.model.checkpoint)))
    _, rules_error = _try(lambda: read_rules(product_path(settings.rules)))
    _, java_error = _try(java.home)
    folder = settings.job.checkpoint_dir or flink.config.get("execution.checkpointing.dir", "")
    return LocalFacts(
        python=sys.version_info[:2],
        java_error=java_error,
        temp_free_bytes=shutil.disk_usage(tempfile.gettempdir()).free,
        model_error=model_error,
        embedding_dim=card.shape["embedding"] if card else None,
        rules_error=rules_error,
        checkpoint_folder_writable=_is_writable(folder),
    )


def _try(read: Any) -> tuple[Any, str | None]:
    try:
        return read(), None
    except LiveprofileError as error:
        return None, str(error)


def _is_writable(uri: str) -> bool | None:
    """Whether a local folder can be written to; None for another file system or machine."""
    parts = urllib.parse.urlsplit(uri)
    folder = Path(urllib.parse.unquote(parts.path))
    if parts.scheme not in ("", "file") or not uri or not folder.is_dir():
        return None
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 0
