"""What `liveprofile doctor` checks, as pure functions of facts and settings: one a service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from cli.doctor.collect import Facts, TopicFacts
from liveprofile.flink.jars import FUNCTIONS
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


class Finding(NamedTuple):
    check: str
    problem: str
    way_out: str


Problems = Iterator[tuple[str, str, str]]  # the fields of findings

# The checks of each service, in the order in which they are printed.
CHECKS = {
    "kafka": "kafka reachable, topics exist, kafka permissions, topic timestamps, topic cleanup,"
    " topic retention, topic partitions, topic replication, topic message size",
    "cassandra": "cassandra reachable, cassandra version, keyspace, tables, embedding size,"
    " cassandra permissions, batch thresholds, cassandra clock",
    "flink": "flink reachable, flink version, flink jars, slots, gpu slots, metaspace,"
    " flink options, checkpoints, flink clock",
    "local": "python version, java version, model, rules, temporary space, encryption",
}
NAMES = [name for names in CHECKS.values() for name in names.split(", ")]


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
        reachable, *others = CHECKS[service].split(", ")
        if error := getattr(getattr(facts, service), "error", None):
            findings.append(Finding(reachable, error, START[service]))
            skipped += others
        else:
            findings += [Finding(*problem) for problem in problems(facts, settings)]
    return findings, skipped


START = {
    "kafka": "start the brokers, or correct kafka.bootstrap_servers, kafka.security_protocol and"
    " the credentials",
    "cassandra": "start the nodes, or correct cassandra.contact_points, port, local_dc and the"
    " credentials",
    "flink": "start the JobManager, or correct flink.rest_url",
}


def skew(service: str, ahead_ms: int) -> tuple[str, str, str]:
    relation = "ahead of" if ahead_ms > 0 else "behind"
    return (
        f"{service.lower()} clock",
        f"this machine's clock is {abs(ahead_ms) / 1_000:.1f} s {relation} that of {service}",
        "synchronise both clocks, for example with chrony",
    )


def parse_bytes(text: str) -> int | None:
    """The bytes of a size such as 64KiB, 512 mb or 1g; None if it is none."""
    match = re.fullmatch(r"(\d+)\s*([kmg]?)i?b?", text.strip().lower())
    return int(match[1]) * UNIT_BYTES[match[2]] if match else None


def _set(topic: str, config: str) -> str:
    return f"kafka-configs --alter --topic {topic} --add-config {config}"


def kafka_problems(facts: Facts, settings: Settings) -> Problems:
    topics, found_topics = settings.topics, facts.kafka.topics
    if missing := [name for name in topic_configs(topics) if name not in found_topics]:
        missing_names = f"no topic {', '.join(missing)}"
        yield "topics exist", missing_names, "`liveprofile job setup` creates them"
    for name, topic in found_topics.items():
        needed = {"READ", "WRITE"} if name in (topics.events, topics.late) else {"READ"}
        if topic.operations is not None and (lacking := needed - topic.operations):
            yield (
                "kafka permissions",
                f"this account may not {' and '.join(sorted(lacking)).lower()} {name}",
                "grant it with kafka-acls (docs/deploy.md, permissions)",
            )
        if topic.config is not None:
            yield from _config_problems(name, topic.config, settings)
        if topic.partitions != 1 == partition_count(topics, name):
            yield (
                "topic partitions",
                f"{name} has {topic.partitions} partitions, so readers see its records in different"
                " orders",
                "delete it, run `liveprofile job setup` and apply its records again",
            )
        yield from _replication_problems(name, topic, min(topics.replication, facts.kafka.brokers))
    events = found_topics.get(topics.events)
    if events and events.partitions < settings.job.parallelism:
        yield (
            "topic partitions",
            f"{topics.events} has {events.partitions} partitions, job.parallelism is"
            f" {settings.job.parallelism}: some tasks read nothing",
            "add partitions before the first start, or lower job.parallelism",
        )


def _config_problems(name: str, config: dict[str, str], settings: Settings) -> Problems:
    topics = settings.topics
    if (found := config.get("message.timestamp.type", "LogAppendTime")) != "LogAppendTime":
        yield (
            "topic timestamps",
            f"{name} has message.timestamp.type = {found}, so producers decide what is late, in the"
            " future or expired",
            _set(name, "message.timestamp.type=LogAppendTime"),
        )
    expected = topic_configs(topics)[name]["cleanup.policy"]
    if (found := config.get("cleanup.policy", expected)) != expected:
        loss = "its records expire" if expected == "compact" else "a user's records are lost"
        value = f"[{expected}]" if "," in expected else expected
        yield (
            "topic cleanup",
            f"{name} has cleanup.policy = {found}, not {expected}: {loss}",
            _set(name, f"cleanup.policy={value}"),
        )
    kept_ms = int(config.get("retention.ms", -1))
    if name == topics.feedback and 0 <= kept_ms < topics.labels_retention_ms:
        yield (
            "topic retention",
            f"{name} keeps labels for {_days(kept_ms)}, topics.labels_retention_ms says"
            f" {_days(topics.labels_retention_ms)}",
            _set(name, f"retention.ms={topics.labels_retention_ms}"),
        )
    needed_ms = settings.window.length_ms + settings.state.dedup_ttl_ms
    if name == topics.events and 0 <= kept_ms < needed_ms:
        yield (
            "topic retention",
            f"{name} keeps events for {_days(kept_ms)}, less than a window and state.dedup_ttl_ms"
            f" together ({_days(needed_ms)}): a job that was down loses events",
            _set(name, f"retention.ms={needed_ms} or more"),
        )
    needed = settings.limits.max_payload_chars * CHARACTER_BYTES + RECORD_OVERHEAD_BYTES
    size = int(config.get("max.message.bytes", needed))
    if name in (topics.rejected, topics.late) and size < needed:
        yield (
            "topic message size",
            f"{name} has max.message.bytes = {size}, an event of limits.max_payload_chars ="
            f" {settings.limits.max_payload_chars} may need {needed}: the job fails on it",
            _set(name, f"max.message.bytes={needed}"),
        )


def _replication_problems(name: str, topic: TopicFacts, wanted: int) -> Problems:
    check, replicas = "topic replication", topic.replicas
    in_sync = int((topic.config or {}).get("min.insync.replicas", 1))
    if replicas < wanted:
        problem = f"{name} has {replicas} replicas, topics.replication is {wanted}"
        yield check, problem, "kafka-reassign-partitions changes existing topics"
    has = f"{name} has min.insync.replicas = {in_sync}"
    if replicas >= 3 and in_sync < 2:
        yield (
            check,
            f"{has}: an acknowledged record is lost with one broker",
            _set(name, "min.insync.replicas=2"),
        )
    if in_sync > replicas:
        yield (
            check,
            f"{has} and {replicas} replicas: it accepts no record",
            _set(name, f"min.insync.replicas={replicas}"),
        )


def _days(time_ms: int) -> str:
    return "ever" if time_ms < 0 else f"{time_ms / DAY_MS:.1f} days"


def cassandra_problems(facts: Facts, settings: Settings) -> Problems:
    found = facts.cassandra
    if found.nodes_down:
        down = f"{found.nodes_down} of {found.nodes} nodes are down"
        yield "cassandra reachable", down, "`nodetool status` names them"
    if int(found.version.split(".")[0] or 0) < 5:
        old = f"Cassandra {found.version} has no vectors"
        yield "cassandra version", old, "upgrade to Cassandra 5.0"
    yield from _keyspace_problems(facts, settings)
    embedding = found.columns.get("user_profile", {}).get("embedding")
    expected = f"vector<float, {facts.local.embedding_dim}>"
    if embedding and facts.local.embedding_dim and embedding != expected:
        yield (
            "embedding size",
            f"user_profile holds embeddings of type {embedding}, the model outputs {expected}",
            "set another cassandra.keyspace",
        )
    if found.unreadable:
        yield (
            "cassandra permissions",
            f"this account may not read {', '.join(found.unreadable)}",
            f"GRANT SELECT ON KEYSPACE {settings.cassandra.keyspace} TO the account",
        )
    if found.settings is None:
        yield (
            "cassandra permissions",
            "this account may not read system_views.settings, so the job assumes batches of 5 KiB"
            " and a write costs twice as much",
            "GRANT SELECT ON system_views.settings TO the account",
        )
    values = found.settings or {}
    for name, needed in (
        ("batch_size_warn_threshold", BATCH_WARN_BYTES),
        ("batch_size_fail_threshold", 2 * BATCH_WARN_BYTES),
    ):
        size = parse_bytes(values.get(name, ""))
        if size is not None and size < needed:
            yield (
                "batch thresholds",
                f"{name} is {values[name]}: smaller batches double the cost of a write",
                f"set {name}: {needed >> 10}KiB in cassandra.yaml",
            )
    name = "unlogged_batch_across_partitions_warn_threshold"
    if int(values.get(name, BATCH_PARTITIONS)) < BATCH_PARTITIONS:
        yield (
            "batch thresholds",
            f"{name} is {values[name]}: each batch is a line in Cassandra's log",
            f"set {name}: {BATCH_PARTITIONS} in cassandra.yaml",
        )
    if abs(found.clock_ahead_ms) > MAX_SKEW_MS:
        yield skew("Cassandra", found.clock_ahead_ms)


def _keyspace_problems(facts: Facts, settings: Settings) -> Problems:
    from liveprofile.rows import TABLES

    wanted, replication = settings.cassandra, facts.cassandra.replication
    check, name, nodes = "keyspace", f"keyspace {wanted.keyspace}", facts.cassandra.nodes
    if replication is None:
        yield check, f"no {name}", "`liveprofile job setup` creates it"
        return
    factor = int(replication.get(wanted.local_dc, replication.get("replication_factor", 0)))
    if not factor:
        none = f"{name} has no replica in {wanted.local_dc}"
        yield check, none, "correct cassandra.local_dc, or ALTER KEYSPACE"
    elif factor < wanted.replication:
        few = f"{name} has {factor} replicas, cassandra.replication is {wanted.replication}"
        yield check, few, "ALTER KEYSPACE, then `nodetool repair --full`"
    elif factor > nodes:
        many = f"{name} wants {factor} replicas, there are {nodes} nodes"
        yield check, many, "add nodes, or ALTER KEYSPACE"
    for table, declared in TABLES.items():
        found = facts.cassandra.columns.get(table)
        if found is None:
            yield "tables", f"no table {table}", "`liveprofile job setup` creates it"
        elif missing := [column for column in declared.columns if column not in found]:
            yield (
                "tables",
                f"table {table} lacks the columns {', '.join(missing)}: it is of another version",
                "`liveprofile job setup` adds them",
            )


def flink_problems(facts: Facts, settings: Settings) -> Problems:
    flink, config, job = facts.flink, facts.flink.config, settings.job
    if not flink.version.startswith("2.2"):
        other = f"the cluster runs Flink {flink.version}, the job is built for 2.2"
        yield "flink version", other, "use a cluster of Flink 2.2"
    if not flink.task_managers:
        yield "slots", "no TaskManager is registered", "start one; its log says why it is not"
    elif job.name not in flink.jobs and flink.slots_free < job.parallelism:
        yield (
            "slots",
            f"{flink.slots_free} of {flink.slots} slots are free, job.parallelism is"
            f" {job.parallelism}",
            "add TaskManagers, stop other jobs, or lower job.parallelism",
        )
    if (same := flink.jobs.count(job.name)) > 1:
        yield (
            "slots",
            f"{same} jobs named {job.name} run and write the same rows",
            "`liveprofile job cancel --job ID` ends one",
        )
    resources = config.get("external-resources", "").replace(",", ";").split(";")
    has_gpu = "gpu" in (name.strip() for name in resources) and settings.model.device != "cpu"
    if has_gpu and flink.slots > flink.task_managers > 0:
        yield (
            "gpu slots",
            f"{flink.task_managers} TaskManagers with a GPU have {flink.slots} slots: each slot's"
            " Python worker has a CUDA context and a model of its own on the GPU",
            "set taskmanager.numberOfTaskSlots: 1, as flink-conf/config.gpu.yaml does, and"
            " job.parallelism to the number of GPUs",
        )
    if not flink.has_functions:
        yield (
            "flink jars",
            f"{FUNCTIONS} is not in lib/ of the JobManager, so no job can start",
            "copy it from .stack/lib/flink/ after `make jars`, and restart the cluster",
        )
    option = "taskmanager.memory.jvm-metaspace.size"
    limit = parse_bytes(config.get(option, "256m"))
    if limit is not None and limit < METASPACE_BYTES:
        yield (
            "metaspace",
            f"{option} is {config.get(option, '256m')}: each restart of the job leaves classes"
            " there",
            f"set {option}: 512m, and install the jars in lib/",
        )
    share = flink.metaspace_share
    if share is not None and share > FULL_METASPACE:
        yield (
            "metaspace",
            f"the metaspace of a TaskManager is {share:.0%} full, and it will fail soon",
            f"restart the TaskManager; install the jars in lib/, or raise {option}",
        )
    if config.get("pipeline.jars"):
        yield (
            "flink options",
            "pipeline.jars is set, which removes flink-python from the job's jars",
            "remove it and install the jars in lib/",
        )
    if job.changelog and config.get("state.changelog.storage") != "filesystem":
        yield (
            "flink options",
            "job.changelog needs state.changelog.storage: filesystem",
            "set it with state.changelog.dstl.dfs.base-path, as flink-conf/config.yaml does",
        )
    if MERGE_OPTION not in config:
        yield (
            "flink options",
            "the ids of events stay in savepoints for up to 30 days after their time to live",
            f"set {MERGE_OPTION}: 1 d, as flink-conf/config.yaml does",
        )
    if not (job.checkpoint_dir or config.get("execution.checkpointing.dir")):
        yield (
            "checkpoints",
            "no checkpoint folder: Flink keeps at most 5 MB in the JobManager's memory, and the"
            " job restarts forever",
            "set execution.checkpointing.dir or job.checkpoint_dir to a folder that all machines"
            " share",
        )
    if facts.local.checkpoint_folder_writable is False:
        yield (
            "checkpoints",
            "the checkpoint folder on this machine cannot be written to",
            "correct its owner or permissions, or free space",
        )
    if flink.clock_ahead_ms < -MAX_SKEW_MS or flink.clock_ahead_ms > MAX_FLINK_BEHIND_MS:
        yield skew("Flink", flink.clock_ahead_ms)


def local_problems(facts: Facts, settings: Settings) -> Problems:
    local = facts.local
    if local.python != (3, 11):
        found = ".".join(map(str, local.python))
        wrong = f"this is Python {found}, the workers need 3.11 at the same path"
        yield "python version", wrong, "create the environment with Python 3.11"
    for check, error, way_out in (
        ("java version", local.java_error, "`submit` needs it: install JDK 17"),
        ("model", local.model_error, "correct model.checkpoint"),
        ("rules", local.rules_error, "`liveprofile risk rules check FILE` shows all errors"),
    ):
        if error:
            yield check, error, way_out
    if local.temp_free_bytes < TEMP_BYTES:
        yield (
            "temporary space",
            f"the folder of temporary files has {local.temp_free_bytes / 2**30:.1f} GiB",
            "set TMPDIR to a folder on a disk: audits and training keep rows there",
        )
    if settings.kafka.security_protocol == "SASL_PLAINTEXT":
        plain = "kafka.security_protocol = SASL_PLAINTEXT sends credentials and events unencrypted"
        yield "encryption", plain, "use SASL_SSL"
    if settings.cassandra.username and not settings.cassandra.ca_file:
        yield (
            "encryption",
            "the password for Cassandra is sent unencrypted",
            "enable TLS and set cassandra.ca_file",
        )
