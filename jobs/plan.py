"""Runs a statement set as a compiled plan, in which each operator keeps its state as long as it
should: table.exec.state.ttl is one value for all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyflink.table import TableEnvironment, TableResult


class Plan:
    """INSERT statements compiled together, so that what they share is computed once.

    ttl_ms: node type, such as "stream-exec-deduplicate", to how long its state is kept after it was
    last written.
    """

    def __init__(self, t_env: TableEnvironment, inserts: Sequence[str], ttl_ms: Mapping[str, int]):
        self._t_env = t_env
        # The plan holds the tables' options and so perhaps a password: a folder only we can read.
        with tempfile.TemporaryDirectory(prefix="liveprofile-plan-") as folder:
            path = Path(folder) / "plan.json"
            statements = " ".join(f"{insert};" for insert in inserts)
            t_env.execute_sql(
                f"COMPILE PLAN '{path.as_uri()}' FOR STATEMENT SET BEGIN {statements} END"
            )
            self._plan = json.loads(path.read_text(encoding="utf-8"))
        for node in self._plan["nodes"]:
            kind = node["type"].rpartition("_")[0]
            for state in node.get("state") or ():
                if kind in ttl_ms:
                    state["ttl"] = f"{ttl_ms[kind]} ms"

    def node_types(self) -> list[str]:
        """Such as "stream-exec-python-calc", in the order of the path."""
        return [node["type"].rpartition("_")[0] for node in self._plan["nodes"]]

    def state_ttl(self) -> dict[str, str]:
        """Node type -> ttl, of the nodes that have one of their own."""
        return {
            node["type"].rpartition("_")[0]: state["ttl"]
            for node in self._plan["nodes"]
            for state in node.get("state") or ()
        }

    def execute(self) -> TableResult:
        with tempfile.TemporaryDirectory(prefix="liveprofile-plan-") as folder:
            path = Path(folder) / "plan.json"
            path.write_text(json.dumps(self._plan), encoding="utf-8")
            return self._t_env.execute_sql(f"EXECUTE PLAN '{path.as_uri()}'")
