"""Keys of partitions: Flink's own hash spreads them evenly over tasks."""

from collections import Counter

import pytest
from pyflink.java_gateway import get_gateway
from pyflink.table import EnvironmentSettings, TableEnvironment

from jobs.sql.event_views import PARTITION_KEYS as KEYS
from jobs.sql.event_views import partition_key_sql

KEY_GROUPS = 128


@pytest.fixture(scope="module")
def key_groups() -> list[int]:
    """The key group of each key, as the exchange before an operator computes it."""
    jvm = get_gateway().jvm
    data = jvm.org.apache.flink.table.data
    assignment = jvm.org.apache.flink.runtime.state.KeyGroupRangeAssignment
    groups = []
    for key in KEYS:
        row = data.binary.BinaryRowData(1)
        writer = data.writer.BinaryRowWriter(row)
        writer.writeInt(0, key)
        writer.complete()
        groups.append(assignment.assignToKeyGroup(row, KEY_GROUPS))
    return groups


@pytest.mark.parametrize("tasks", [2, 3, 4, 6, 8, 12])
def test_keys_spread_partitions_evenly_over_tasks(key_groups: list[int], tasks: int) -> None:
    for partitions in (2, 4, 6, 8, 12, 16, 64, 128):
        counts = Counter(group * tasks // KEY_GROUPS for group in key_groups[:partitions])
        evenly = partitions / tasks
        assert max(counts.values()) < evenly + 2, (partitions, counts)
        if not partitions & (partitions - 1) and not tasks & (tasks - 1):
            assert max(counts.values()) == max(1, evenly), (partitions, counts)


def test_each_partition_has_a_key_of_its_own() -> None:
    t_env = TableEnvironment.create(EnvironmentSettings.in_batch_mode())
    rows = ", ".join(f"({number})" for number in range(300))
    result = t_env.execute_sql(f"SELECT n, {partition_key_sql('n')} FROM (VALUES {rows}) AS t(n)")
    with result.collect() as found:
        keys = dict(tuple(row) for row in found)
    assert len(set(keys.values())) == len(keys) == 300
    assert [keys[number] for number in range(len(KEYS))] == list(KEYS)
