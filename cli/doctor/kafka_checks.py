"""Checks of brokers and topics. Each yields what is wrong, and the way out."""

from __future__ import annotations

from collections.abc import Iterator

from cli.doctor.check import Check, Problem
from cli.doctor.facts import Facts
from liveprofile.kafka.topics import partition_count, topic_configs
from liveprofile.settings import Settings
from liveprofile.units import DAY_MS

CHARACTER_BYTES = 4  # of UTF-8, at most
RECORD_OVERHEAD_BYTES = 2_048  # headers, key and framing


def kafka_reachable(facts: Facts, settings: Settings) -> Iterator[Problem]:
    if facts.kafka.error:
        yield Problem(
            facts.kafka.error,
            "start the brokers, or correct kafka.bootstrap_servers, kafka.security_protocol and"
            " the credentials",
        )


def topics_exist(facts: Facts, settings: Settings) -> Iterator[Problem]:
    missing = [name for name in topic_configs(settings.topics) if name not in facts.kafka.topics]
    if missing:
        yield Problem(f"no topic {', '.join(missing)}", "`liveprofile job setup` creates them")


def kafka_permissions(facts: Facts, settings: Settings) -> Iterator[Problem]:
    writes = {settings.topics.events, settings.topics.late}
    for name, topic in facts.kafka.topics.items():
        needed = {"READ", "WRITE"} if name in writes else {"READ"}
        if topic.operations is not None and (lacking := needed - topic.operations):
            yield Problem(
                f"this account may not {' and '.join(sorted(lacking)).lower()} {name}",
                "grant it with kafka-acls (docs/deploy.md, permissions)",
            )


def topic_timestamps(facts: Facts, settings: Settings) -> Iterator[Problem]:
    for name, config in _configs(facts):
        if config.get("message.timestamp.type", "LogAppendTime") != "LogAppendTime":
            yield Problem(
                f"{name} has message.timestamp.type = {config['message.timestamp.type']}, so"
                " producers decide what is late, in the future or expired",
                f"kafka-configs --alter --topic {name} --add-config"
                " message.timestamp.type=LogAppendTime",
            )


def topic_cleanup(facts: Facts, settings: Settings) -> Iterator[Problem]:
    for name, config in _configs(facts):
        expected = topic_configs(settings.topics)[name]["cleanup.policy"]
        found = config.get("cleanup.policy", expected)
        if found != expected:
            loss = "its records expire" if expected == "compact" else "a user's records are lost"
            value = f"[{expected}]" if "," in expected else expected
            yield Problem(
                f"{name} has cleanup.policy = {found}, not {expected}: {loss}",
                f"kafka-configs --alter --topic {name} --add-config cleanup.policy={value}",
            )


def topic_retention(facts: Facts, settings: Settings) -> Iterator[Problem]:
    topics = settings.topics
    for name, config in _configs(facts):
        found = int(config.get("retention.ms", -1))
        if name == topics.feedback and 0 <= found < topics.labels_retention_ms:
            yield Problem(
                f"{name} keeps labels for {_days(found)}, topics.labels_retention_ms says"
                f" {_days(topics.labels_retention_ms)}",
                f"kafka-configs --alter --topic {name} --add-config"
                f" retention.ms={topics.labels_retention_ms}",
            )
        if name == topics.events:
            needed = settings.window.length_ms + settings.state.dedup_ttl_ms
            if 0 <= found < needed:
                yield Problem(
                    f"{name} keeps events for {_days(found)}, less than a window and"
                    f" state.dedup_ttl_ms together ({_days(needed)}): a job that was down loses"
                    " events",
                    f"kafka-configs --alter --topic {name} --add-config retention.ms={needed} or"
                    " more",
                )


def topic_partitions(facts: Facts, settings: Settings) -> Iterator[Problem]:
    for name, topic in facts.kafka.topics.items():
        if topic.partitions != 1 == partition_count(settings.topics, name):
            yield Problem(
                f"{name} has {topic.partitions} partitions, so readers see its records in different"
                " orders",
                "delete it, run `liveprofile job setup` and apply its records again",
            )
    events = facts.kafka.topics.get(settings.topics.events)
    if events and events.partitions < settings.job.parallelism:
        yield Problem(
            f"{settings.topics.events} has {events.partitions} partitions, job.parallelism is"
            f" {settings.job.parallelism}: some tasks read nothing",
            "add partitions before the first start, or lower job.parallelism",
        )


def topic_replication(facts: Facts, settings: Settings) -> Iterator[Problem]:
    for name, topic in facts.kafka.topics.items():
        if topic.replicas < min(settings.topics.replication, facts.kafka.brokers):
            yield Problem(
                f"{name} has {topic.replicas} replicas, topics.replication is"
                f" {settings.topics.replication}",
                "kafka-reassign-partitions changes existing topics",
            )
        insync = int((topic.config or {}).get("min.insync.replicas", 1))
        if topic.replicas >= 3 and insync < 2:
            yield Problem(
                f"{name} has min.insync.replicas = {insync}: an acknowledged record is lost with"
                " one broker",
                f"kafka-configs --alter --topic {name} --add-config min.insync.replicas=2",
            )
        if insync > topic.replicas:
            yield Problem(
                f"{name} has min.insync.replicas = {insync} and {topic.replicas} replicas: it"
                " accepts no record",
                f"kafka-configs --alter --topic {name} --add-config"
                f" min.insync.replicas={topic.replicas}",
            )


def topic_message_size(facts: Facts, settings: Settings) -> Iterator[Problem]:
    needed = settings.limits.payload_chars * CHARACTER_BYTES + RECORD_OVERHEAD_BYTES
    for name, config in _configs(facts):
        found = int(config.get("max.message.bytes", needed))
        if name in (settings.topics.rejected, settings.topics.late) and found < needed:
            yield Problem(
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


CHECKS = (
    Check("kafka reachable", "kafka", kafka_reachable),
    Check("topics exist", "kafka", topics_exist),
    Check("kafka permissions", "kafka", kafka_permissions),
    Check("topic timestamps", "kafka", topic_timestamps),
    Check("topic cleanup", "kafka", topic_cleanup),
    Check("topic retention", "kafka", topic_retention),
    Check("topic partitions", "kafka", topic_partitions),
    Check("topic replication", "kafka", topic_replication),
    Check("topic message size", "kafka", topic_message_size),
)
