"""Which rows share a batch: those of one replica set, as many as the server takes gladly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from cassandra import InvalidRequest, Unauthorized
from cassandra.cluster import Session
from cassandra.metadata import Metadata, Murmur3Token

# Cassandra's own defaults of batch_size_warn_threshold and
# unlogged_batch_across_partitions_warn_threshold.
SERVER_WARN_BYTES, SERVER_WARN_PARTITIONS = 5 * 1_024, 10
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class BatchLimits(NamedTuple):
    bytes: int
    partitions: int


def server_limits(session: Session, batch_bytes: int) -> BatchLimits:
    """`batch_bytes`, or what the server takes without a warning where that is less.

    A batch beyond the server's threshold costs a line in its log and a warning in its answer.
    """
    try:
        found = {
            row.name: row.value
            for row in session.execute(
                "SELECT name, value FROM system_views.settings WHERE name IN"
                " ('batch_size_warn_threshold', 'unlogged_batch_across_partitions_warn_threshold')"
            )
        }
    except (InvalidRequest, Unauthorized):
        found = {}  # hidden from this user: assume the defaults
    warn_bytes = parse_size(found.get("batch_size_warn_threshold"), SERVER_WARN_BYTES)
    warn_partitions = parse_size(
        found.get("unlogged_batch_across_partitions_warn_threshold"), SERVER_WARN_PARTITIONS
    )
    return BatchLimits(min(batch_bytes, warn_bytes), max(1, warn_partitions))


def parse_size(text: str | None, default: int) -> int:
    """'5KiB' -> 5120, '10' -> 10; `default` for what is neither."""
    match = re.fullmatch(r"(\d+)\s*(B|KiB|MiB|GiB)?", text or "")
    return int(match[1]) * _UNITS[match[2] or "B"] if match else default


def pack(sizes: Sequence[int], limits: BatchLimits) -> Iterator[range]:
    """Cuts a sequence into runs within the limits; one that is larger goes alone."""
    start, total = 0, 0
    for position, size in enumerate(sizes):
        full = total + size > limits.bytes or position - start >= limits.partitions
        if full and position > start:
            yield range(start, position)
            start, total = position, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))


class ReplicaSets:
    """Groups partition keys by the set of nodes that hold them.

    A batch whose rows live on the same nodes is forwarded to nobody else by its coordinator.
    """

    def __init__(self, metadata: Metadata, keyspace: str):
        self._metadata, self._keyspace = metadata, keyspace
        self._known: object = None
        self._ring = np.empty(0, np.int64)
        self._set_of_range = np.empty(0, np.int64)

    def group(self, keys: Sequence[bytes]) -> list[Sequence[int]]:
        """Positions of `keys`, one list a replica set."""
        if self._metadata.token_map is not self._known:  # the ring has changed
            self._learn()
        if len(set(self._set_of_range.tolist())) <= 1:
            return [range(len(keys))]
        tokens = np.array([Murmur3Token.hash_fn(key) for key in keys], np.int64)
        # A range belongs to the token at its end, and the last wraps around to the first.
        ranges = np.searchsorted(self._ring, tokens, side="left") % len(self._ring)
        sets = self._set_of_range[ranges]
        order = np.argsort(sets, kind="stable")
        cuts = np.flatnonzero(np.diff(sets[order])) + 1
        return [part.tolist() for part in np.split(order, cuts)]

    def _learn(self) -> None:
        token_map = self._metadata.token_map
        self._known = token_map
        self._ring = self._set_of_range = np.empty(0, np.int64)
        if token_map is None or token_map.token_class is not Murmur3Token:
            return  # no ring to group by: one group, which costs forwarding and nothing else
        numbers: dict[frozenset[object], int] = {}
        sets = [
            numbers.setdefault(
                frozenset(host.host_id for host in token_map.get_replicas(self._keyspace, token)),
                len(numbers),
            )
            for token in token_map.ring
        ]
        self._ring = np.array([token.value for token in token_map.ring], np.int64)
        self._set_of_range = np.array(sets, np.int64)
