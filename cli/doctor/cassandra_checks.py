"""Checks of nodes, keyspace and tables. Each yields what is wrong, and the way out."""

from __future__ import annotations

from collections.abc import Iterator

from cli.doctor.check import MAX_SKEW_MS, Check, Problem, parse_bytes, skew
from cli.doctor.facts import Facts
from liveprofile.settings import Settings

BATCH_WARN_BYTES = 64 * 1_024
BATCH_PARTITIONS = 1_000


def cassandra_reachable(facts: Facts, settings: Settings) -> Iterator[Problem]:
    if facts.cassandra.error:
        yield Problem(
            facts.cassandra.error,
            "start the nodes, or correct cassandra.contact_points, port, local_dc and the"
            " credentials",
        )
    if facts.cassandra.nodes_down:
        yield Problem(
            f"{facts.cassandra.nodes_down} of {facts.cassandra.nodes} nodes are down",
            "`nodetool status` names them",
        )


def cassandra_version(facts: Facts, settings: Settings) -> Iterator[Problem]:
    if int(facts.cassandra.version.split(".")[0] or 0) < 5:
        yield Problem(
            f"Cassandra {facts.cassandra.version} has no vectors", "upgrade to Cassandra 5.0"
        )


def keyspace(facts: Facts, settings: Settings) -> Iterator[Problem]:
    name, replication = settings.cassandra.keyspace, facts.cassandra.replication
    if replication is None:
        yield Problem(f"no keyspace {name}", "`liveprofile job setup` creates it")
        return
    factor = int(
        replication.get(settings.cassandra.local_dc, replication.get("replication_factor", 0))
    )
    if not factor:
        yield Problem(
            f"keyspace {name} has no replica in {settings.cassandra.local_dc}",
            "correct cassandra.local_dc, or ALTER KEYSPACE",
        )
    elif factor < settings.cassandra.replication:
        yield Problem(
            f"keyspace {name} has {factor} replicas, cassandra.replication is"
            f" {settings.cassandra.replication}",
            "ALTER KEYSPACE, then `nodetool repair --full`",
        )
    elif factor > facts.cassandra.nodes:
        yield Problem(
            f"keyspace {name} wants {factor} replicas, there are {facts.cassandra.nodes} nodes",
            "add nodes, or ALTER KEYSPACE",
        )


def tables(facts: Facts, settings: Settings) -> Iterator[Problem]:
    from liveprofile.storage.schema import table_columns

    if facts.cassandra.replication is None:
        return
    for table, columns in table_columns().items():
        found = facts.cassandra.columns.get(table)
        if found is None:
            yield Problem(f"no table {table}", "`liveprofile job setup` creates it")
        elif missing := [column for column in columns if column not in found]:
            yield Problem(
                f"table {table} lacks the columns {', '.join(missing)}: it is of another version",
                "`liveprofile job setup` adds them",
            )


def embedding_size(facts: Facts, settings: Settings) -> Iterator[Problem]:
    found = facts.cassandra.columns.get("user_profile", {}).get("embedding")
    expected = f"vector<float, {facts.local.embedding_dim}>"
    if found and facts.local.embedding_dim and found != expected:
        yield Problem(
            f"user_profile holds embeddings of type {found}, the model outputs {expected}",
            "set another cassandra.keyspace",
        )


def cassandra_permissions(facts: Facts, settings: Settings) -> Iterator[Problem]:
    if facts.cassandra.unreadable:
        yield Problem(
            f"this account may not read {', '.join(facts.cassandra.unreadable)}",
            f"GRANT SELECT ON KEYSPACE {settings.cassandra.keyspace} TO the account",
        )
    if facts.cassandra.settings is None:
        yield Problem(
            "this account may not read system_views.settings, so the job assumes batches of 5 KiB"
            " and a write costs twice as much",
            "GRANT SELECT ON system_views.settings TO the account",
        )


def batch_thresholds(facts: Facts, settings: Settings) -> Iterator[Problem]:
    values = facts.cassandra.settings or {}
    for name, needed in (
        ("batch_size_warn_threshold", BATCH_WARN_BYTES),
        ("batch_size_fail_threshold", 2 * BATCH_WARN_BYTES),
    ):
        if name in values and (found := parse_bytes(values[name])) is not None and found < needed:
            yield Problem(
                f"{name} is {values[name]}: smaller batches double the cost of a write",
                f"set {name}: {needed >> 10}KiB in cassandra.yaml",
            )
    name = "unlogged_batch_across_partitions_warn_threshold"
    if int(values.get(name, BATCH_PARTITIONS)) < BATCH_PARTITIONS:
        yield Problem(
            f"{name} is {values[name]}: each batch is a line in Cassandra's log",
            f"set {name}: {BATCH_PARTITIONS} in cassandra.yaml",
        )


def cassandra_clock(facts: Facts, settings: Settings) -> Iterator[Problem]:
    if abs(facts.cassandra.clock_ahead_ms) > MAX_SKEW_MS:
        yield skew("Cassandra", facts.cassandra.clock_ahead_ms)


CHECKS = (
    Check("cassandra reachable", "cassandra", cassandra_reachable),
    Check("cassandra version", "cassandra", cassandra_version),
    Check("keyspace", "cassandra", keyspace),
    Check("tables", "cassandra", tables),
    Check("embedding size", "cassandra", embedding_size),
    Check("cassandra permissions", "cassandra", cassandra_permissions),
    Check("batch thresholds", "cassandra", batch_thresholds),
    Check("cassandra clock", "cassandra", cassandra_clock),
)
