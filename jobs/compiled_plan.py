"""Runs INSERT statements as one compiled plan whose nodes can be edited.

A compiled plan has a state TTL for each operator, where table.exec.state.ttl is one value for all.
Its nodes can have ids that do not depend on other nodes, and an exchange can be removed from it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pyflink.table import TableEnvironment, TableResult

_SHORT_NAMES = "table.exec.simplify-operator-name-enabled"

# What may have an id that changes: these nodes keep nothing in a checkpoint.
_STATELESS = frozenset(
    f"stream-exec-{kind}"
    for kind in ("calc", "correlate", "exchange", "python-calc", "union", "window-table-function")
)
FIRST_STATELESS_ID = 1_001


class NodeId(NamedTuple):
    """The id of the one node that matches type and description, if the plan has it."""

    id: int
    node_type: str  # such as "stream-exec-deduplicate"
    description: str = ""  # a part of the node's description


class Override(NamedTuple):
    """An edit of the nodes that match type and description."""

    node_type: str  # such as "stream-exec-deduplicate"
    description: str = ""  # a part of the node's description
    ttl_ms: int | None = None  # of the node's state, counted from the last write
    configuration: Mapping[str, str] = MappingProxyType({})  # python.* options have no effect here
    name: str = ""  # of the operator, which checkpoints contain
    # Removes the exchange before the node, so that Flink chains it to the previous node. Only
    # valid where that node already has all rows of a key in one task, for a node that keeps no
    # rows (with object reuse it receives the same row object each time) and does not use event
    # time (the runtime expects timestamps as an exchange forwards them).
    chained: bool = False


class CompiledPlan:
    """INSERT statements compiled together, so that shared views are computed once.

    node_ids: the ids of all nodes with state, so that a savepoint fits a plan with other
    steps. Without them, ids are those of the planner.

    plan: the JSON that `execute` runs. Raises ValueError if an override matches no node, or if a
    node with state has no id.
    """

    def __init__(
        self,
        t_env: TableEnvironment,
        inserts: Sequence[str],
        overrides: Sequence[Override] = (),
        node_ids: Sequence[NodeId] = (),
    ):
        self._t_env = t_env
        # The plan contains the tables' options, perhaps a password: this folder is private.
        with tempfile.TemporaryDirectory(prefix="liveprofile-plan-") as folder:
            path = Path(folder) / "plan.json"
            statements = " ".join(f"{insert};" for insert in inserts)
            t_env.execute_sql(
                f"COMPILE PLAN '{path.as_uri()}' FOR STATEMENT SET BEGIN {statements} END"
            )
            self.plan = json.loads(path.read_text(encoding="utf-8"))
        if node_ids:
            self._renumber(node_ids)
        for override in overrides:
            self._apply(override)

    def _renumber(self, node_ids: Sequence[NodeId]) -> None:
        new: dict[int, int] = {}
        for node in self.plan["nodes"]:
            matching = [
                known.id for known in node_ids if _matches(node, known.node_type, known.description)
            ]
            if len(matching) != 1 and _type(node) not in _STATELESS:
                raise ValueError(
                    f"{_type(node)} matches {len(matching)} known ids, not 1: {node['description']}"
                )
            new[node["id"]] = matching[0] if matching else FIRST_STATELESS_ID + len(new)
        if len(set(new.values())) != len(new):
            raise ValueError(f"two nodes have the same id: {sorted(new.values())}")
        for node in self.plan["nodes"]:
            node["id"] = new[node["id"]]
        for edge in self.plan["edges"]:
            edge["source"], edge["target"] = new[edge["source"]], new[edge["target"]]

    def _apply(self, override: Override) -> None:
        matching = [
            node
            for node in self.plan["nodes"]
            if _matches(node, override.node_type, override.description)
        ]
        if not matching:
            raise ValueError(f"no {override.node_type} with {override.description!r} in the plan")
        for node in matching:
            for state in node.get("state") or ():
                if override.ttl_ms is not None:
                    state["ttl"] = f"{override.ttl_ms} ms"
            configuration = dict(override.configuration)
            if override.name:
                node["description"] = override.name
                configuration[_SHORT_NAMES] = "false"  # the name is the description
            if configuration:
                node["configuration"] = node.get("configuration", {}) | configuration
            if override.chained:
                self._remove_exchange_before(node["id"])

    def _remove_exchange_before(self, node: int) -> None:
        nodes, edges = self.plan["nodes"], self.plan["edges"]
        (after_exchange,) = (edge for edge in edges if edge["target"] == node)
        (exchange,) = (one for one in nodes if one["id"] == after_exchange["source"])
        if _type(exchange) != "stream-exec-exchange":
            raise ValueError(f"{exchange['type']} is before node {node}, not an exchange")
        (before_exchange,) = (edge for edge in edges if edge["target"] == exchange["id"])
        after_exchange["source"] = before_exchange["source"]
        edges.remove(before_exchange)
        nodes.remove(exchange)

    def execute(self) -> TableResult:
        with tempfile.TemporaryDirectory(prefix="liveprofile-plan-") as folder:
            path = Path(folder) / "plan.json"
            path.write_text(json.dumps(self.plan), encoding="utf-8")
            return self._t_env.execute_sql(f"EXECUTE PLAN '{path.as_uri()}'")


def _matches(node: dict[str, Any], node_type: str, description: str) -> bool:
    return _type(node) == node_type and description in node["description"]


def _type(node: dict[str, Any]) -> str:
    return node["type"].rpartition("_")[0]
