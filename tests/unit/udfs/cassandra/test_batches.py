"""Batches: the server's limits, grouping by nodes, and packing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from cassandra import InvalidRequest, Unauthorized
from hypothesis import given
from hypothesis import strategies as st

from udfs.cassandra.batch_writer import BatchLimits, Partition, by_nodes, pack, server_limits


@given(st.lists(st.integers(1, 300)), st.integers(1, 400), st.integers(1, 9))
def test_pack_puts_every_position_in_one_batch_within_the_limits(
    sizes, limit_bytes, limit_partitions
):
    batches = list(pack(sizes, BatchLimits(limit_bytes, limit_partitions)))

    assert [position for batch in batches for position in batch] == list(range(len(sizes)))
    for batch in batches:
        assert 1 <= len(batch) <= limit_partitions
        assert len(batch) == 1 or sum(sizes[position] for position in batch) <= limit_bytes


TUNED = {
    "batch_size_warn_threshold": "64KiB",
    "unlogged_batch_across_partitions_warn_threshold": "200",
}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (TUNED, (40_000, 200)),
        ({"batch_size_warn_threshold": "5KiB"}, (5_120, 10)),
        ({"batch_size_warn_threshold": "1MiB"}, (40_000, 10)),
        ({"batch_size_warn_threshold": None}, (5_120, 10)),
        (Unauthorized("no"), (5_120, 10)),
        (InvalidRequest("no such table"), (5_120, 10)),
    ],
    ids=["ours lower", "server lower", "larger unit", "off", "hidden", "without the table"],
)
def test_server_limits_are_the_lower_of_settings_and_server(answer, expected):
    def execute(query):
        if isinstance(answer, Exception):
            raise answer
        return answer.items()

    assert server_limits(SimpleNamespace(execute=execute)) == expected


def test_batch_has_partitions_of_the_same_nodes_only():
    nodes = {b"1": ["a", "b"], b"2": ["b", "c"], b"3": ["b", "a"]}
    metadata = SimpleNamespace(get_replicas=lambda keyspace, key: nodes[key])
    groups = by_nodes([Partition(key, []) for key in nodes], metadata, "shop")
    assert [[partition.key for partition in group] for group in groups] == [[b"1", b"3"], [b"2"]]
