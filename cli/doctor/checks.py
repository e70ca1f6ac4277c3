"""What `liveprofile doctor` checks. Checks are pure functions of facts and settings.

Each yields what is wrong, and the way out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cli.doctor.collect import Facts
from liveprofile.kafka.topics import partition_count, topic_configs
from liveprofile.settings import Settings
from liveprofile.units import DAY_MS

MAX_SKEW_MS = 2_000
UNIT_BYTES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
CHARACTER_BYTES = 4  # of UTF-8, at most
RECORD_OVERHEAD_BYTES = 2_048  # headers, key and framing
BATCH_WARN_BYTES = 64 * 1_024
BATCH_PARTITIONS = 1_000
METASPACE_BYTES = 512 << 20
FULL_METASPACE = 0.8
# The JobManager tells the time of the last heartbeat, so it seems behind by its interval.
MAX_FLINK_BEHIND_MS = 60_000
MERGE_OPTION = "state.backend.rocksdb.compaction.filter.periodic-compaction-time"
TEMP_BYTES = 2 << 30

Problems = Iterator[tuple[str, str]]


class Finding(NamedTuple):
    check: str
    problem: str
    way_out: str


class Check(NamedTuple):
    name: str
    service: str  # field of `Facts`
    run: Callable[[Facts, Settings], Problems]


CHECKS: list[Check] = []  # in the order in which they are printed


def check(service: str) -> Callable[[Callable[[Facts, Settings], Problems]], Callable]:
    """Adds a function to the checks, under its own name."""

    def add(run: Callable[[Facts, Settings], Problems]) -> Callable[[Facts, Settings], Problems]:
        CHECKS.append(Check(run.__name__.replace("_", " "), service, run))
        return run

    return add


def examine(facts: Facts, settings: Settings) -> tuple[list[Finding], list[str]]:
    """All findings, and the names of the checks that could not run.

    A service that does not answer is one finding; its other checks are skipped.
    """
    findings, skipped = [], []
    for name, service, run in CHECKS:
        if name.endswith("reachable") or getattr(getattr(facts, service), "error", None) is None:
            findings += [Finding(name, *problem) for problem in run(facts, settings)]
        else:
            skipped.append(name)
    return findings, skipped


def skew(service: str, ahead_ms: int) -> tuple[str, str]:
    relation = "ahead of" if ahead_ms > 0 else "behind"
    return (
        f"this machine's clock is {abs(ahead_ms) / 1_000:.1f} s {relation} that of {service}",
        "synchronise both clocks, for example with chrony",
    )


def parse_bytes(text: str) -> int | None:
    """The bytes of a size such as 64KiB, 512 mb or 1g; None if it is none."""
    match = re.fullmatch(r"(\d+)\s*([kmg]?)i?b?", text.strip().lower())
    return int(match[1]) * UNIT_BYTES[match[2]] if match else None


@check("kafka")
def kafka_reachable(facts: Facts, settings: Settings) -> Problems:
    if facts.kafka.error:
        yield (
            facts.kafka.error,
            "start the brokers, or correct kafka.bootstrap_servers, kafka.security_protocol and"
            " the credentials",
        )


@check("kafka")
def topics_exist(facts: Facts, settings: Settings) -> Problems:
    missing = [name for name in topic_configs(settings.topics) if name not in facts.kafka.topics]
    if missing:
        yield (f"no topic {', '.join(missing)}", "`liveprofile job setup` creates them")


@check("kafka")
def kafka_permissions(facts: Facts, settings: Settings) -> Problems:
    writes = {settings.topics.events, settings.topics.late}
    for name, topic in facts.kafka.topics.items():
        needed = {"READ", "WRITE"} if name in writes else {"READ"}
        if topic.operations is not None and (lacking := needed - topic.operations):
            yield (
                f"this account may not {' and '.join(sorted(lacking)).lower()} {name}",
                "grant it with kafka-acls (docs/deploy.md, permissions)",
            )


@check("kafka")
def topic_timestamps(facts: Facts, settings: Settings) -> Problems:
    for name, config in _configs(facts):
        if config.get("message.timestamp.type", "LogAppendTime") != "LogAppendTime":
            yield (
                f"{name} has message.timestamp.type = {config['message.timestamp.type']}, so"
                " producers decide what is late, in the future or expired",
                f"kafka-configs --alter --topic {name} --add-config"
                " message.timestamp.type=LogAppendTime",
            )


@check("kafka")
def topic_cleanup(facts: Facts, settings: Settings) -> Problems:
    for name, config in _configs(facts):
        expected = topic_configs(settings.topics)[name]["cleanup.policy"]
        found = config.get("cleanup.policy", expected)
        if found != expected:
            loss = "its records expire" if expected == "compact" else "a user's records are lost"
            value = f"[{expected}]" if "," in expected else expected
            yield (
                f"{name} has cleanup.policy = {found}, not {expected}: {loss}",
                f"kafka-configs --alter --topic {name} --add-config cleanup.policy={value}",
            )


@check("kafka")
def topic_retention(facts: Facts, settings: Settings) -> Problems:
    topics = settings.topics
    for name, config in _configs(facts):
        found = int(config.get("retention.ms", -1))
        if name == topics.feedback and 0 <= found < topics.labels_retention_ms:
            yield (
                f"{name} keeps labels for {_days(found)}, topics.labels_retention_ms says"
                f" {_days(topics.labels_retention_ms)}",
                f"kafka-configs --alter --topic {name} --add-config"
                f" retention.ms={topics.labels_retention_ms}",
            )
        if name == topics.events:
            needed = settings.window.length_ms + settings.state.dedup_ttl_ms
            if 0 <= found < needed:
                yield (
                    f"{name} keeps events for {_days(found)}, less than a window and"
                    f" state.dedup_ttl_ms together ({_days(needed)}): a job that was down loses"
                    " events",
                    f"kafka-configs --alter --topic {name} --add-config retention.ms={needed} or"
                    " more",
                )


@check("kafka")
def topic_partitions(facts: Facts, settings: Settings) -> Problems:
    for name, topic in facts.kafka.topics.items():
        if topic.partitions != 1 == partition_count(settings.topics, name):
            yield (
                f"{name} has {topic.partitions} partitions, so readers see its records in different"
                " orders",
                "delete it, run `liveprofile job setup` and apply its records again",
            )
    events = facts.kafka.topics.get(settings.topics.events)
    if events and events.partitions < settings.job.parallelism:
        yield (
            f"{settings.topics.events} has {events.partitions} partitions, job.parallelism is"
            f" {settings.job.parallelism}: some tasks read nothing",
            "add partitions before the first start, or lower job.parallelism",
        )


@check("kafka")
def topic_replication(facts: Facts, settings: Settings) -> Problems:
    for name, topic in facts.kafka.topics.items():
        if topic.replicas < min(settings.topics.replication, facts.kafka.brokers):
            yield (
                f"{name} has {topic.replicas} replicas, topics.replication is"
                f" {settings.topics.replication}",
                "kafka-reassign-partitions changes existing topics",
            )
        insync = int((topic.config or {}).get("min.insync.replicas", 1))
        if topic.replicas >= 3 and insync < 2:
            yield (
                f"{name} has min.insync.replicas = {insync}: an acknowledged record is lost with"
                " one broker",
                f"kafka-configs --alter --topic {name} --add-config min.insync.replicas=2",
            )
        if insync > topic.replicas:
            yield (
                f"{name} has min.insync.replicas = {insync} and {topic.replicas} replicas: it"
                " accepts no record",
                f"kafka-configs --alter --topic {name} --add-config"
                f" min.insync.replicas={topic.replicas}",
            )


@check("kafka")
def topic_message_size(facts: Facts, settings: Settings) -> Problems:
    needed = settings.limits.payload_chars * CHARACTER_BYTES + RECORD_OVERHEAD_BYTES
    for name, config in _configs(facts):
        found = int(config.get("max.message.bytes", needed))
        if name in (settings.topics.rejected, settings.topics.late) and found < needed:
            yield (
                f"{name} has max.message.bytes = {found}, an event of limits.payload_chars ="
                f" {settings.limits.payload_chars} may need {needed}: the job fails on it",
                f"kafka-configs --alter --topic {name} --add-config max.message.bytes={needed}",
            )


def _configs(facts: Facts) -> Iterator[tuple[str, dict[str, str]]]:
    for name, topic in facts.kafka.topics.items():
        if topic.config is not None:
            yield name, topic.config


def _days(time_ms: int) -> str:
    return "ever" if time_ms < 0 else f"{time_ms / DAY_MS:.1f} days"


@check("cassandra")
def cassandra_reachable(facts: Facts, settings: Settings) -> Problems:
    if facts.cassandra.error:
        yield (
            facts.cassandra.error,
            "start the nodes, or correct cassandra.contact_points, port, local_dc and the"
            " credentials",
        )
    if facts.cassandra.nodes_down:
        yield (
            f"{facts.cassandra.nodes_down} of {facts.cassandra.nodes} nodes are down",
            "`nodetool status` names them",
        )


@check("cassandra")
def cassandra_version(facts: Facts, settings: Settings) -> Problems:
    if int(facts.cassandra.version.split(".")[0] or 0) < 5:
        yield (f"Cassandra {facts.cassandra.version} has no vectors", "upgrade to Cassandra 5.0")


@check("cassandra")
def keyspace(facts: Facts, settings: Settings) -> Problems:
    name, replication = settings.cassandra.keyspace, facts.cassandra.replication
    if replication is None:
        yield (f"no keyspace {name}", "`liveprofile job setup` creates it")
        return
    factor = int(
        replication.get(settings.cassandra.local_dc, replication.get("replication_factor", 0))
    )
    if not factor:
        yield (
            f"keyspace {name} has no replica in {settings.cassandra.local_dc}",
            "correct cassandra.local_dc, or ALTER KEYSPACE",
        )
    elif factor < settings.cassandra.replication:
        yield (
            f"keyspace {name} has {factor} replicas, cassandra.replication is"
            f" {settings.cassandra.replication}",
            "ALTER KEYSPACE, then `nodetool repair --full`",
        )
    elif factor > facts.cassandra.nodes:
        yield (
            f"keyspace {name} wants {factor} replicas, there are {facts.cassandra.nodes} nodes",
            "add nodes, or ALTER KEYSPACE",
        )


@check("cassandra")
def tables(facts: Facts, settings: Settings) -> Problems:
    from liveprofile.rows import TABLES

    if facts.cassandra.replication is None:
        return
    for table, columns in ((name, each.columns) for name, each in TABLES.items()):
        found = facts.cassandra.columns.get(table)
        if found is None:
            yield (f"no table {table}", "`liveprofile job setup` creates it")
        elif missing := [column for column in columns if column not in found]:
            yield (
                f"table {table} lacks the columns {', '.join(missing)}: it is of another version",
                "`liveprofile job setup` adds them",
            )


@check("cassandra")
def embedding_size(facts: Facts, settings: Settings) -> Problems:
    found = facts.cassandra.columns.get("user_profile", {}).get("embedding")
    expected = f"vector<float, {facts.local.embedding_dim}>"
    if found and facts.local.embedding_dim and found != expected:
        yield (
            f"user_profile holds embeddings of type {found}, the model outputs {expected}",
            "set another cassandra.keyspace",
        )


@check("cassandra")
def cassandra_permissions(facts: Facts, settings: Settings) -> Problems:
    if facts.cassandra.unreadable:
        yield (
            f"this account may not read {', '.join(facts.cassandra.unreadable)}",
            f"GRANT SELECT ON KEYSPACE {settings.cassandra.keyspace} TO the account",
        )
    if facts.cassandra.settings is None:
        yield (
            "this account may not read system_views.settings, so the job assumes batches of 5 KiB"
            " and a write costs twice as much",
            "GRANT SELECT ON system_views.settings TO the account",
        )


@check("cassandra")
def batch_thresholds(facts: Facts, settings: Settings) -> Problems:
    values = facts.cassandra.settings or {}
    for name, needed in (
        ("batch_size_warn_threshold", BATCH_WARN_BYTES),
        ("batch_size_fail_threshold", 2 * BATCH_WARN_BYTES),
    ):
        if name in values and (found := parse_bytes(values[name])) is not None and found < needed:
            yield (
                f"{name} is {values[name]}: smaller batches double the cost of a write",
                f"set {name}: {needed >> 10}KiB in cassandra.yaml",
            )
    name = "unlogged_batch_across_partitions_warn_threshold"
    if int(values.get(name, BATCH_PARTITIONS)) < BATCH_PARTITIONS:
        yield (
            f"{name} is {values[name]}: each batch is a line in Cassandra's log",
            f"set {name}: {BATCH_PARTITIONS} in cassandra.yaml",
        )


@check("cassandra")
def cassandra_clock(facts: Facts, settings: Settings) -> Problems:
    if abs(facts.cassandra.clock_ahead_ms) > MAX_SKEW_MS:
        yield skew("Cassandra", facts.cassandra.clock_ahead_ms)


@check("flink")
def flink_reachable(facts: Facts, settings: Settings) -> Problems:
    if facts.flink.error:
        yield (facts.flink.error, "start the JobManager, or correct flink.rest_url")


@check("flink")
def flink_version(facts: Facts, settings: Settings) -> Problems:
    if not facts.flink.version.startswith("2.2"):
        yield (
            f"the cluster runs Flink {facts.flink.version}, the job is built for 2.2",
            "use a cluster of Flink 2.2",
        )


@check("flink")
def slots(facts: Facts, settings: Settings) -> Problems:
    flink, needed = facts.flink, settings.job.parallelism
    if not flink.task_managers:
        yield ("no TaskManager is registered", "start one; its log says why it is not")
    elif settings.job.name not in flink.jobs and flink.slots_free < needed:
        yield (
            f"{flink.slots_free} of {flink.slots} slots are free, job.parallelism is {needed}",
            "add TaskManagers, stop other jobs, or lower job.parallelism",
        )
    if flink.jobs.count(settings.job.name) > 1:
        yield (
            f"{flink.jobs.count(settings.job.name)} jobs named {settings.job.name} run and write"
            " the same rows",
            "`liveprofile job cancel --job ID` ends one",
        )


@check("flink")
def gpu_slots(facts: Facts, settings: Settings) -> Problems:
    flink, option = facts.flink, "taskmanager.numberOfTaskSlots"
    resources = flink.config.get("external-resources", "").replace(",", ";").split(";")
    has_gpu = "gpu" in (name.strip() for name in resources) and settings.model.device != "cpu"
    if has_gpu and flink.slots > flink.task_managers > 0:
        yield (
            f"{flink.task_managers} TaskManagers with a GPU have {flink.slots} slots: each slot's"
            " Python worker has a CUDA context and a model of its own on the GPU",
            f"set {option}: 1, as flink-conf/config.gpu.yaml does, and job.parallelism to the"
            " number of GPUs",
        )


@check("flink")
def metaspace(facts: Facts, settings: Settings) -> Problems:
    option = "taskmanager.memory.jvm-metaspace.size"
    limit = parse_bytes(facts.flink.config.get(option, "256m"))
    if limit is not None and limit < METASPACE_BYTES:
        yield (
            f"{option} is {facts.flink.config.get(option, '256m')}: each restart of the job leaves"
            " classes there",
            f"set {option}: 512m, and install the jars in lib/",
        )
    share = facts.flink.metaspace_share
    if share is not None and share > FULL_METASPACE:
        yield (
            f"the metaspace of a TaskManager is {share:.0%} full, and it will fail soon",
            f"restart the TaskManager; install the jars in lib/, or raise {option}",
        )


@check("flink")
def flink_options(facts: Facts, settings: Settings) -> Problems:
    config = facts.flink.config
    if config.get("pipeline.jars"):
        yield (
            "pipeline.jars is set, which removes flink-python from the job's jars",
            "remove it and install the jars in lib/",
        )
    if settings.job.changelog and config.get("state.changelog.storage") != "filesystem":
        yield (
            "job.changelog needs state.changelog.storage: filesystem",
            "set it with state.changelog.dstl.dfs.base-path, as flink-conf/config.yaml does",
        )
    if MERGE_OPTION not in config:
        yield (
            "the ids of events stay in savepoints for up to 30 days after their time to live",
            f"set {MERGE_OPTION}: 1 d, as flink-conf/config.yaml does",
        )


@check("flink")
def checkpoints(facts: Facts, settings: Settings) -> Problems:
    if not (settings.job.checkpoint_dir or facts.flink.config.get("execution.checkpointing.dir")):
        yield (
            "no checkpoint folder: Flink keeps at most 5 MB in the JobManager's memory, and the"
            " job restarts forever",
            "set execution.checkpointing.dir or job.checkpoint_dir to a folder that all machines"
            " share",
        )
    if facts.local.checkpoint_folder_writable is False:
        yield (
            "the checkpoint folder on this machine cannot be written to",
            "correct its owner or permissions, or free space",
        )


@check("flink")
def flink_clock(facts: Facts, settings: Settings) -> Problems:
    ahead = facts.flink.clock_ahead_ms
    if ahead < -MAX_SKEW_MS or ahead > MAX_FLINK_BEHIND_MS:
        yield skew("Flink", ahead)


@check("local")
def python_version(facts: Facts, settings: Settings) -> Problems:
    if facts.local.python != (3, 11):
        found = ".".join(map(str, facts.local.python))
        yield (
            f"this is Python {found}, the workers need 3.11 at the same path",
            "create the environment with Python 3.11",
        )


@check("local")
def java_version(facts: Facts, settings: Settings) -> Problems:
    if facts.local.java_error:
        yield (facts.local.java_error, "`submit` needs it: install JDK 17")


@check("local")
def model(facts: Facts, settings: Settings) -> Problems:
    if facts.local.model_error:
        yield (facts.local.model_error, "correct model.checkpoint")


@check("local")
def rules(facts: Facts, settings: Settings) -> Problems:
    if facts.local.rules_error:
        yield (facts.local.rules_error, "`liveprofile risk rules check FILE` shows all errors")


@check("local")
def temporary_space(facts: Facts, settings: Settings) -> Problems:
    if facts.local.temp_free_bytes < TEMP_BYTES:
        yield (
            f"the folder of temporary files has {facts.local.temp_free_bytes / 2**30:.1f} GiB",
            "set TMPDIR to a folder on a disk: audits and training keep rows there",
        )


@check("local")
def encryption(facts: Facts, settings: Settings) -> Problems:
    if settings.kafka.security_protocol == "SASL_PLAINTEXT":
        yield (
            "kafka.security_protocol = SASL_PLAINTEXT sends credentials and events unencrypted",
            "use SASL_SSL",
        )
    if settings.cassandra.username and not settings.cassandra.ca_file:
        yield (
            "the password for Cassandra is sent unencrypted",
            "enable TLS and set cassandra.ca_file",
        )
