"""Values and keys as Cassandra's protocol and partitioner expect them."""

from __future__ import annotations

from cassandra.query import BoundStatement, PreparedStatement

from udfs.cassandra.encoding import composite_key


def test_composite_key_equals_that_of_the_driver():
    columns = [b"new buyers", b"\x00\x3f"]
    bound = BoundStatement(PreparedStatement([], b"", [0, 1], "", "", 5, [], None))
    bound.values = [*columns, b"user"]
    assert composite_key(columns) == bound.routing_key
