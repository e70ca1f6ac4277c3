"""Runs a statement set as a compiled plan. In it each operator keeps its state as long as it should
(table.exec.state.ttl is one value for all), and one may follow another without an exchange."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pyflink.table import TableEnvironment, TableResult


class Override(NamedTuple):
    """What a node of the plan has of its own."""

    node_type: str  # such as "stream-exec-deduplicate"
    names: str = ""  # what its description holds
    ttl_ms: int | None = None  # how long its state is kept after it was last written
    configuration: Mapping[str, str] = MappingProxyType({})  # no use for python.* options
    # Chained to the node before it, in whose thread it runs then: its exchange is taken out. Only
    # where that node has all rows of a key at one place, for a node that keeps no rows (with
    # object reuse it is given the same one again and again) and doesn't go by event time (the
    # runtime reads those times as an exchange hands them on).
    chained: bool = False


class Plan:
    """INSERT statements compiled together, so that what they share is computed once.

    Raises ValueError if an override fits no node.
    """

    def __init__(
        self, t_env: TableEnvironment, inserts: Sequence[str], overrides: Sequence[Override] = ()
    ):
        self._t_env = t_env
        # The plan holds the tables' options and so perhaps a password: a folder only we can read.
        with tempfile.TemporaryDirectory(prefix="liveprofile-plan-") as folder:
            path = Path(folder) / "plan.json"
            statements = " ".join(f"{insert};" for insert in inserts)
            t_env.execute_sql(
                f"COMPILE PLAN '{path.as_uri()}' FOR STATEMENT SET BEGIN {statements} END"
            )
            self._plan = json.loads(path.read_text(encoding="utf-8"))
        for override in overrides:
            self._apply(override)

    def _apply(self, override: Override) -> None:
        fitting = [
            node
            for node in self._plan["nodes"]
            if _kind(node) == override.node_type and override.names in node["description"]
        ]
        if not fitting:
            raise ValueError(f"no {override.node_type} with {override.names!r} in the plan")
        for node in fitting:
            for state in node.get("state") or ():
                if override.ttl_ms is not None:
                    state["ttl"] = f"{override.ttl_ms} ms"
            if override.configuration:
                node["configuration"] = node.get("configuration", {}) | dict(override.configuration)
            if override.chained:
                self._chain(node["id"])

    def _chain(self, node: int) -> None:
        nodes, edges = self._plan["nodes"], self._plan["edges"]
        (behind,) = (edge for edge in edges if edge["target"] == node)
        (exchange,) = (one for one in nodes if one["id"] == behind["source"])
        if _kind(exchange) != "stream-exec-exchange":
            raise ValueError(f"{exchange['type']} is before node {node}, not an exchange")
        (before,) = (edge for edge in edges if edge["target"] == exchange["id"])
        behind["source"] = before["source"]
        edges.remove(before)
        nodes.remove(exchange)

    def node_types(self) -> list[str]:
        """Such as "stream-exec-python-calc", in the order of the path."""
        return list(map(_kind, self._plan["nodes"]))

    def state_ttl(self) -> dict[str, str]:
        """Node type -> ttl, of the nodes that have one of their own."""
        return {
            _kind(node): state["ttl"]
            for node in self._plan["nodes"]
            for state in node.get("state") or ()
        }

    def execute(self) -> TableResult:
        with tempfile.TemporaryDirectory(prefix="liveprofile-plan-") as folder:
            path = Path(folder) / "plan.json"
            path.write_text(json.dumps(self._plan), encoding="utf-8")
            return self._t_env.execute_sql(f"EXECUTE PLAN '{path.as_uri()}'")


def _kind(node: dict[str, Any]) -> str:
    return node["type"].rpartition("_")[0]
