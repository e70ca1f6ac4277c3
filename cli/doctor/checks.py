"""What `liveprofile doctor` checks, as pure functions of facts and settings: one a service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from cli.doctor.collect import Facts
from liveprofile.flink.jars import FUNCTIONS
from liveprofile.kafka.topics import partition_count, topic_configs
from liveprofile.settings import Settings

MAX_SKEW_MS = 2_000
# The JobManager tells the time of the last heartbeat, so it seems behind by its interval.
MAX_FLINK_BEHIND_MS = 60_000
BATCH_WARN_KIB = 64
MERGE_OPTION = "state.backend.rocksdb.compaction.filter.periodic-compaction-time"
TEMP_BYTES = 2 << 30

# Each service's checks in the order in which they are printed, with the way out of their problems.
# The first is whether it answers.
CHECKS = {
    "kafka": {
        "kafka reachable": "start the brokers, or correct kafka.bootstrap_servers,"
        " kafka.security_protocol and the credentials",
        "topics exist": "`liveprofile job setup` creates them",
        "kafka permissions": "grant it with kafka-acls (docs/deploy.md, permissions)",
        "topic settings": "`kafka-configs --alter --topic TOPIC --add-config KEY=VALUE`, or change"
        " the setting of the time",
        "topic partitions": "add partitions before the first start, or lower job.parallelism;"
        " delete a topic that must have one, and run `liveprofile job setup`",
        "topic replication": "kafka-reassign-partitions changes existing topics",
    },
    "cassandra": {
        "cassandra reachable": "start the nodes (`nodetool status` names them), or correct"
        " cassandra.contact_points, port, local_dc and the credentials",
        "cassandra version": "upgrade to Cassandra 5.0",
        "keyspace": "`liveprofile job setup` creates it; ALTER KEYSPACE changes its replication,"
        " then `nodetool repair --full`; or correct cassandra.local_dc",
        "tables": "`liveprofile job setup` adds what is missing",
        "embedding size": "set another cassandra.keyspace",
        "cassandra permissions": "GRANT SELECT to the account",
        "batch thresholds": f"set batch_size_warn_threshold: {BATCH_WARN_KIB}KiB in cassandra.yaml",
        "chores": "`liveprofile serve chores` runs them; its log has the errors",
        "cassandra clock": "synchronise both clocks, for example with chrony",
    },
    "flink": {
        "flink reachable": "start the JobManager, or correct flink.rest_url",
        "flink version": "use a cluster of Flink 2.2",
        "flink jars": "copy it from .stack/lib/flink/ after `make jars`, and restart the cluster",
        "slots": "start or add TaskManagers, end other jobs (`liveprofile job cancel --job ID`), or"
        " lower job.parallelism",
        "flink options": "set it as flink-conf/config.yaml does",
        "checkpoints": "set execution.checkpointing.dir or job.checkpoint_dir to a folder that all"
        " machines share and the job may write to",
        "flink clock": "synchronise both clocks, for example with chrony",
    },
    "local": {
        "python version": "create the environment with Python 3.11",
        "java version": "`submit` needs it: install JDK 17",
        "model": "correct model.checkpoint",
        "rules": "`liveprofile risk rules check FILE` shows all errors",
        "temporary space": "set TMPDIR to a folder on a disk: audits and training keep rows there",
        "encryption": "use SASL_SSL for Kafka; enable TLS and set cassandra.ca_file",
    },
}
NAMES = [name for checks in CHECKS.values() for name in checks]


class Finding(NamedTuple):
    check: str
    problem: str
    way_out: str


Problems = Iterator[tuple[str, str]]  # name of the check, and what is wrong


def examine(facts: Facts, settings: Settings) -> tuple[list[Finding], list[str]]:
    """All findings, and the names of the checks that could not run.

    A service that does not answer is one finding; its other checks are skipped.
    """
    findings, skipped = [], []
    for service, problems in (
        ("kafka", kafka_problems),
        ("cassandra", cassandra_problems),
        ("flink", flink_problems),
        ("local", local_problems),
    ):
        ways_out = CHECKS[service]
        reachable, *others = ways_out
        if error := getattr(getattr(facts, service), "error", None):
            found = iter([(reachable, error)])
            skipped += others
        else:
            found = problems(facts, settings)
        findings += [Finding(name, problem, ways_out[name]) for name, problem in found]
    return findings, skipped


def kafka_problems(facts: Facts, settings: Settings) -> Problems:
    topics, found_topics = settings.topics, facts.kafka.topics
    expected = topic_configs(topics)
    if missing := [name for name in expected if name not in found_topics]:
        yield "topics exist", f"no topic {', '.join(missing)}"
    for name, topic in found_topics.items():
        needed = {"READ", "WRITE"} if name == topics.events else {"READ"}
        if topic.operations is not None and (lacking := needed - topic.operations):
            what = " and ".join(sorted(lacking)).lower()
            yield "kafka permissions", f"this account may not {what} {name}"
        for key, value in expected[name].items() if topic.config is not None else ():
            if (found := topic.config.get(key, value)) != value:
                yield "topic settings", f"{name} has {key} = {found}, not {value}"
        if topic.partitions != 1 == partition_count(topics, name):
            yield (
                "topic partitions",
                f"{name} has {topic.partitions} partitions: readers see its records in different"
                " orders",
            )
        if topic.replicas < (wanted := min(topics.replication, facts.kafka.brokers)):
            yield "topic replication", f"{name} has {topic.replicas} replicas, not {wanted}"
        if int((topic.config or {}).get("min.insync.replicas", 1)) > topic.replicas:
            yield "topic replication", f"{name} has fewer replicas than min.insync.replicas"
    events, parallelism = found_topics.get(topics.events), settings.job.parallelism
    if events and events.partitions < parallelism:
        yield (
            "topic partitions",
            f"{topics.events} has {events.partitions} partitions, job.parallelism is {parallelism}:"
            " some tasks read nothing",
        )


def cassandra_problems(facts: Facts, settings: Settings) -> Problems:
    found = facts.cassandra
    if found.nodes_down:
        yield "cassandra reachable", f"{found.nodes_down} of {found.nodes} nodes are down"
    if int(found.version.split(".")[0] or 0) < 5:
        yield "cassandra version", f"Cassandra {found.version} has no vectors"
    yield from _keyspace_problems(facts, settings)
    embedding = found.columns.get("user_profile", {}).get("embedding")
    expected = f"vector<float, {facts.local.embedding_dim}>"
    if embedding and facts.local.embedding_dim and embedding != expected:
        yield "embedding size", f"user_profile holds {embedding}, the model outputs {expected}"
    for name in found.unreadable:
        yield "cassandra permissions", f"this account may not read {name}"
    if found.settings is None:
        yield (
            "cassandra permissions",
            "this account may not read system_views.settings, so the job assumes batches of 5 KiB"
            " and a write costs twice as much",
        )
    size = (found.settings or {}).get("batch_size_warn_threshold", "")
    if (match := re.fullmatch(r"(\d+)KiB", size)) and int(match[1]) < BATCH_WARN_KIB:
        yield "batch thresholds", f"batch_size_warn_threshold is {size}: writes cost twice as much"
    for line in found.overdue:
        yield "chores", line
    if abs(found.clock_ahead_ms) > MAX_SKEW_MS:
        yield "cassandra clock", _skew(found.clock_ahead_ms)


def _skew(ahead_ms: int) -> str:
    relation = "ahead" if ahead_ms > 0 else "behind"
    return f"this machine's clock is {abs(ahead_ms) / 1_000:.1f} s {relation}"


def _keyspace_problems(facts: Facts, settings: Settings) -> Problems:
    from liveprofile.rows import TABLES

    wanted, replication = settings.cassandra, facts.cassandra.replication
    name, nodes = f"keyspace {wanted.keyspace}", facts.cassandra.nodes
    if replication is None:
        yield "keyspace", f"no {name}"
        return
    factor = int(replication.get(wanted.local_dc, replication.get("replication_factor", 0)))
    if not factor:
        yield "keyspace", f"{name} has no replica in {wanted.local_dc}"
    elif factor < wanted.replication:
        few = f"{name} has {factor} replicas, cassandra.replication is {wanted.replication}"
        yield "keyspace", few
    elif factor > nodes:
        yield "keyspace", f"{name} wants {factor} replicas, there are {nodes} nodes"
    for table, declared in TABLES.items():
        found = facts.cassandra.columns.get(table)
        if found is None:
            yield "tables", f"no table {table}"
        elif missing := [column for column in declared.columns if column not in found]:
            yield "tables", f"table {table} lacks the columns {', '.join(missing)}"


def flink_problems(facts: Facts, settings: Settings) -> Problems:
    flink, config, job = facts.flink, facts.flink.config, settings.job
    if not flink.version.startswith("2.2"):
        yield "flink version", f"the cluster runs Flink {flink.version}, the job is built for 2.2"
    if not flink.has_functions:
        yield "flink jars", f"{FUNCTIONS} is not in lib/ of the JobManager, so no job can start"
    if not flink.task_managers:
        yield "slots", "no TaskManager is registered"
    elif job.name not in flink.jobs and flink.slots_free < job.parallelism:
        free = f"{flink.slots_free} of {flink.slots} slots are free"
        yield "slots", f"{free}, job.parallelism is {job.parallelism}"
    if (same := flink.jobs.count(job.name)) > 1:
        yield "slots", f"{same} jobs named {job.name} run and write the same rows"
    if job.changelog and config.get("state.changelog.storage") != "filesystem":
        yield "flink options", "job.changelog needs state.changelog.storage: filesystem"
    if MERGE_OPTION not in config:
        yield (
            "flink options",
            f"without {MERGE_OPTION} the ids of events stay in savepoints for up to 30 days after"
            " their time to live",
        )
    if not (job.checkpoint_dir or config.get("execution.checkpointing.dir")):
        yield "checkpoints", "no checkpoint folder: Flink keeps at most 5 MB, and the job restarts"
    if facts.local.checkpoint_folder_writable is False:
        yield "checkpoints", "the checkpoint folder on this machine cannot be written to"
    if flink.clock_ahead_ms < -MAX_SKEW_MS or flink.clock_ahead_ms > MAX_FLINK_BEHIND_MS:
        yield "flink clock", _skew(flink.clock_ahead_ms)


def local_problems(facts: Facts, settings: Settings) -> Problems:
    local = facts.local
    if local.python != (3, 11):
        found = ".".join(map(str, local.python))
        yield "python version", f"this is Python {found}, the workers need 3.11 at the same path"
    for name, error in (
        ("java version", local.java_error),
        ("model", local.model_error),
        ("rules", local.rules_error),
    ):
        if error:
            yield name, error
    if local.temp_free_bytes < TEMP_BYTES:
        free = f"{local.temp_free_bytes / 2**30:.1f} GiB"
        yield "temporary space", f"the folder of temporary files has {free}"
    if settings.kafka.security_protocol == "SASL_PLAINTEXT":
        yield "encryption", "SASL_PLAINTEXT sends Kafka's credentials and events unencrypted"
    if settings.cassandra.username and not settings.cassandra.ca_file:
        yield "encryption", "the password for Cassandra is sent unencrypted"
