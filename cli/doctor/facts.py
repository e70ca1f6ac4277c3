"""What `liveprofile doctor` knows of the services and this machine; `collect.py` finds it out."""

from __future__ import annotations

from dataclasses import dataclass, field


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


@dataclass(frozen=True)
class FlinkFacts:
    error: str | None = None
    version: str = ""
    task_managers: int = 0
    slots: int = 0
    slots_free: int = 0
    jobs: tuple[str, ...] = ()  # names of the running jobs
    config: dict[str, str] = field(default_factory=dict)  # of the JobManager
    metaspace_share: float | None = None  # of the limit, in the fullest TaskManager
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
