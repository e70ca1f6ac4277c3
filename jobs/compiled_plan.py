"""Runs INSERT statements as one compiled plan whose nodes can be edited.

A compiled plan has a state TTL for each operator, where table.exec.state.ttl is one value for all.
Its nodes can have ids that do not depend on other nodes, and an exchange can be removed from it.

Planning takes seconds of CPU time, so a folder of the user keeps the last plans. A plan contains
neither options of tables, such as a password, nor Python functions, only their names: the job
registers both anew.
"""

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pyflink.java_gateway import get_gateway
from pyflink.table import TableEnvironment, TableResult
from pyflink.version import __version__ as FLINK_VERSION

from jobs.sql.event_views import create_views

MAX_PLANS = 50  # of the last jobs
# An option of a table that is no part of its plan: where records are, how the client reads them.
_RUNTIME_OPTION = re.compile(r"'(?:path|topic|properties\.[\w.-]+)' = '(?:[^']|'')*',? ?")
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


class Statements(NamedTuple):
    """The SQL of a pipeline, whose functions are registered already."""

    tables: Sequence[str]  # DDL
    views: Mapping[str, str]  # queries by name, in order
    inserts: Sequence[str]
    texts: Mapping[str, str]  # replaces literals of the inserts once they are planned


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
        statements: Sequence[Statements],
        overrides: Sequence[Override] = (),
        node_ids: Sequence[NodeId] = (),
    ):
        self._t_env = t_env
        t_env.get_config().set("table.plan.compile.catalog-objects", "SCHEMA")
        for pipeline in statements:
            for table in pipeline.tables:
                t_env.execute_sql(table)
        file = cache_folder() / f"{_digest(t_env, statements)}.json"
        try:
            self.plan = _read(file, statements)
        except (OSError, ValueError):  # missing, or broken
            _compile(t_env, statements, file)
            self.plan = _read(file, statements)
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


def cache_folder() -> Path:
    """The folder for plans, which only this user can read."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "liveprofile", "plans")
    try:
        folder = folder.expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except (OSError, RuntimeError):  # read-only, another user's, no home
        return Path(tempfile.mkdtemp(prefix="liveprofile-plan-"))
    return folder


def _digest(t_env: TableEnvironment, statements: Sequence[Statements]) -> str:
    """Of everything that the plan depends on."""
    config, java = t_env.get_config()._j_table_config, get_gateway().jvm.java
    options = dict(config.getRootConfiguration().toMap()) | dict(config.getConfiguration().toMap())
    functions = java.lang.Class.forName("liveprofile.ParseEvent")
    jar = Path(functions.getProtectionDomain().getCodeSource().getLocation().getPath())
    code = {
        name: module.__loader__.get_source(name)
        for name, module in sys.modules.items()
        if name.startswith(("jobs.", "udfs."))
    }
    parts = (
        FLINK_VERSION,
        hashlib.sha256(jar.read_bytes()).hexdigest(),
        code,
        {name: value for name, value in options.items() if name.startswith("table.")},
        [
            ([_RUNTIME_OPTION.sub("", table) for table in tables], views, inserts)
            for tables, views, inserts, _ in statements
        ],
    )
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _compile(t_env: TableEnvironment, statements: Sequence[Statements], file: Path) -> None:
    """Writes the plan to `file` at once, and removes older ones beside it."""
    for pipeline in statements:
        create_views(t_env, pipeline.views)
    inserts = " ".join(f"{insert};" for pipeline in statements for insert in pipeline.inserts)
    unfinished = file.with_suffix(f".{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    t_env.execute_sql(f"COMPILE PLAN '{unfinished.as_uri()}' FOR STATEMENT SET BEGIN {inserts} END")
    unfinished.replace(file)
    with suppress(FileNotFoundError):  # another job removes them, too
        plans = sorted(file.parent.iterdir(), key=lambda each: each.stat().st_mtime)
        for old in plans[:-MAX_PLANS]:
            old.unlink()


def _read(file: Path, statements: Sequence[Statements]) -> dict[str, Any]:
    """Raises OSError or ValueError."""
    content = file.read_text("utf-8")
    os.utime(file)
    for pipeline in statements:
        for literal, text in pipeline.texts.items():
            content = content.replace(literal, text)
    return json.loads(content)


def _matches(node: dict[str, Any], node_type: str, description: str) -> bool:
    return _type(node) == node_type and description in node["description"]


def _type(node: dict[str, Any]) -> str:
    return node["type"].rpartition("_")[0]
