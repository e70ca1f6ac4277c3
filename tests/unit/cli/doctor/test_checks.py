"""Each misconfiguration gives its finding, and nothing else; healthy facts give none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cli.doctor import report_lines
from cli.doctor.checks import MERGE_OPTION, NAMES, examine
from cli.doctor.collect import CassandraFacts, Facts, FlinkFacts, KafkaFacts, LocalFacts, TopicFacts
from liveprofile.kafka.topics import partition_count, topic_configs
from liveprofile.rows import TABLES
from liveprofile.settings import load

SETTINGS = load()
EVENTS, LATE, RULES = "behavior-events", "behavior-events-late", "risk-rules"
ALL_OPERATIONS, READ = frozenset({"READ", "WRITE", "DESCRIBE"}), frozenset({"READ"})
TOPICS = {
    name: TopicFacts(partition_count(SETTINGS.topics, name), 1, config, ALL_OPERATIONS)
    for name, config in topic_configs(SETTINGS.topics).items()
}
COLUMNS = {name: dict.fromkeys(table.columns, "text") for name, table in TABLES.items()}
COLUMNS["user_profile"]["embedding"] = "vector<float, 64>"
BATCHES = {"batch_size_warn_threshold": "64KiB"}
HEALTHY = Facts(
    KafkaFacts(None, 1, TOPICS),
    CassandraFacts(
        version="5.0.4",
        nodes=1,
        settings=BATCHES,
        replication={"class": "NetworkTopologyStrategy", "datacenter1": "1"},
        columns=COLUMNS,
    ),
    FlinkFacts(
        version="2.2.1",
        task_managers=1,
        slots=4,
        slots_free=4,
        config={"execution.checkpointing.dir": "file:///checkpoints", MERGE_OPTION: "1 d"},
        clock_ahead_ms=9_000,
    ),
    LocalFacts((3, 11), None, 10 << 30, None, 64, None, True),
)


def findings(facts: Facts, **sections: dict[str, Any]) -> list[tuple[str, str]]:
    found, _ = examine(facts, load(**sections))
    assert all(finding.way_out for finding in found)
    return [(finding.check, finding.problem) for finding in found]


def kafka(**changes: Any) -> Callable[[Facts], Facts]:
    return lambda facts: replace(facts, kafka=replace(facts.kafka, **changes))


def topic(name: str, config: dict[str, str] | None = None, **changes: Any) -> Callable:
    def change(facts: Facts) -> Facts:
        before = facts.kafka.topics[name]
        after = replace(before, config={**(before.config or {}), **(config or {})}, **changes)
        return kafka(topics=facts.kafka.topics | {name: after})(facts)

    return change


def without_topic(name: str) -> Callable[[Facts], Facts]:
    return kafka(topics={each: facts for each, facts in TOPICS.items() if each != name})


def cassandra(**changes: Any) -> Callable[[Facts], Facts]:
    return lambda facts: replace(facts, cassandra=replace(facts.cassandra, **changes))


def flink(**changes: Any) -> Callable[[Facts], Facts]:
    return lambda facts: replace(facts, flink=replace(facts.flink, **changes))


def without_option(name: str) -> Callable[[Facts], Facts]:
    config = {key: value for key, value in HEALTHY.flink.config.items() if key != name}
    return flink(config=config)


def local(**changes: Any) -> Callable[[Facts], Facts]:
    return lambda facts: replace(facts, local=replace(facts.local, **changes))


def without_column(table: str, column: str) -> Callable[[Facts], Facts]:
    kept = {k: v for k, v in COLUMNS[table].items() if k != column}
    return cassandra(columns=COLUMNS | {table: kept})


def without_table(name: str) -> Callable[[Facts], Facts]:
    return cassandra(columns={k: v for k, v in COLUMNS.items() if k != name})


def unchanged(facts: Facts) -> Facts:
    return facts


THREE_BROKERS = {"topics": {"replication": 3}, "cassandra": {"replication": 1}}
SMALL_BATCH = {"batch_size_warn_threshold": "5KiB"}
PLAINTEXT = {"kafka": {"security_protocol": "SASL_PLAINTEXT"}}
CLIENT_TIME = {"message.timestamp.type": "CreateTime"}
NOT_BROKER_TIME = "message.timestamp.type = CreateTime, not LogAppendTime"
CASES = [
    ("kafka reachable", kafka(error="Kafka does not answer"), {}, "Kafka does not answer"),
    ("topics exist", without_topic(LATE), {}, "no topic behavior-events-late"),
    ("kafka permissions", topic(EVENTS, operations=READ), {}, "may not write behavior-events"),
    ("topic settings", topic(EVENTS, CLIENT_TIME), {}, NOT_BROKER_TIME),
    ("topic settings", topic(RULES, {"cleanup.policy": "delete"}), {}, "not compact"),
    ("topic partitions", topic(RULES, partitions=4), {}, "risk-rules has 4 partitions"),
    ("topic partitions", topic(EVENTS, partitions=1), {}, "some tasks read nothing"),
    ("topic replication", kafka(brokers=3), THREE_BROKERS, "has 1 replicas, not 3"),
    ("cassandra reachable", cassandra(error="no node answers"), {}, "no node answers"),
    ("cassandra version", cassandra(version="4.1.3"), {}, "Cassandra 4.1.3 has no vectors"),
    ("keyspace", cassandra(replication=None), {}, "no keyspace liveprofile"),
    ("keyspace", cassandra(nodes=3), {"cassandra": {"replication": 3}}, "has 1 replicas"),
    ("tables", without_column("risk_flag", "reasons"), {}, "lacks the columns"),
    ("tables", without_table("risk_case"), {}, "no table risk_case"),
    ("embedding size", local(embedding_dim=32), {}, "vector<float, 64>, the model outputs"),
    ("cassandra permissions", cassandra(unreadable=("risk_case",)), {}, "may not read risk_case"),
    ("batch thresholds", cassandra(settings=SMALL_BATCH), {}, "batch_size_warn_threshold is 5KiB"),
    ("chores", cassandra(overdue=("chore audit has not succeeded",)), {}, "chore audit"),
    ("cassandra clock", cassandra(clock_ahead_ms=-5_000), {}, "5.0 s behind"),
    ("flink reachable", flink(error="no JobManager answers"), {}, "no JobManager answers"),
    ("flink version", flink(version="1.20.1"), {}, "runs Flink 1.20.1"),
    ("slots", flink(slots_free=1), {}, "1 of 4 slots are free, job.parallelism is 2"),
    ("slots", flink(jobs=("liveprofile", "liveprofile")), {}, "2 jobs named liveprofile run"),
    ("flink jars", flink(has_functions=False), {}, "liveprofile-functions.jar is not in lib/"),
    ("flink options", unchanged, {"job": {"changelog": True}}, "needs state.changelog"),
    ("checkpoints", without_option("execution.checkpointing.dir"), {}, "no checkpoint folder"),
    ("flink options", without_option(MERGE_OPTION), {}, "stay in savepoints for up to 30 days"),
    ("flink clock", flink(clock_ahead_ms=-3_000), {}, "3.0 s behind"),
    ("python version", local(python=(3, 12)), {}, "this is Python 3.12"),
    ("java version", local(java_error="no Java 17"), {}, "no Java 17"),
    ("model", local(model_error="card.json is missing"), {}, "card.json is missing"),
    ("rules", local(rules_error="rules.toml: when"), {}, "rules.toml: when"),
    ("temporary space", local(temp_free_bytes=1 << 30), {}, "has 1.0 GiB"),
    ("encryption", unchanged, PLAINTEXT, "unencrypted"),
    ("encryption", unchanged, {"cassandra": {"username": "job"}}, "sent unencrypted"),
]


def test_healthy_facts_have_no_finding() -> None:
    assert examine(HEALTHY, SETTINGS) == ([], [])


@pytest.mark.parametrize(("check", "break_it", "sections", "problem"), CASES)
def test_misconfiguration_gives_its_finding_only(
    check: str, break_it: Callable[[Facts], Facts], sections: dict[str, Any], problem: str
) -> None:
    found = findings(break_it(HEALTHY), **sections)
    assert {name for name, _ in found} == {check}
    assert any(problem in text for _, text in found), found


def test_every_check_has_a_case() -> None:
    assert set(NAMES) == {name for name, *_ in CASES}
    assert len(NAMES) >= 15


def test_checks_of_a_service_that_does_not_answer_are_skipped() -> None:
    found, skipped = examine(kafka(error="down", topics={})(HEALTHY), SETTINGS)
    assert [finding.check for finding in found] == ["kafka reachable"]
    assert "topics exist" in skipped and "keyspace" not in skipped


def test_facts_that_the_account_may_not_read_are_no_finding() -> None:
    unknown = {name: TopicFacts(each.partitions, 1, None) for name, each in TOPICS.items()}
    assert findings(kafka(topics=unknown)(HEALTHY)) == []


def test_report_has_no_long_line_and_each_problem_on_lines_of_its_own() -> None:
    broken = kafka(topics={})(HEALTHY)
    found, skipped = examine(broken, SETTINGS)
    found.append(found[0]._replace(problem="another problem"))
    lines = "\n".join(report_lines(NAMES, found, skipped)).splitlines()
    assert max(map(len, lines)) <= 100
    at = lines.index("wrong    topics exist")
    assert lines[at - 1] == "ok       kafka reachable"
    problem, *_, another, way_out = lines[at + 1 : lines.index("ok       kafka permissions")]
    assert problem.startswith("         no topic ") and another == "         another problem"
    assert way_out == "         way out: `liveprofile job setup` creates them"
