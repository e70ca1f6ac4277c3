"""The nodes with state of the job's plan, as far as a savepoint depends on them.

`python -m tests.pipeline.plan_nodes` writes plan_nodes.json, which a test compares with the plan.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from pyflink.table import EnvironmentSettings, StreamTableEnvironment

from jobs import profile_job
from jobs.compiled_plan import CompiledPlan
from jobs.node_ids import NODE_IDS
from jobs.sql import tables
from liveprofile.flink.jars import JARS
from liveprofile.settings import load
from udfs.profile.udf import profile_udf

_JOINS = ("stream-exec-interval-join", "stream-exec-window-join")
FILE = Path(__file__).with_suffix(".json")


def kafka_plan(**sections: dict[str, Any]) -> CompiledPlan:
    """The plan of the job with the given settings, and defaults for all others."""
    settings = load(**sections)
    t_env = StreamTableEnvironment.create(
        environment_settings=EnvironmentSettings.in_streaming_mode()
    )
    jars = [jar.resolve().as_uri() for jar in (JARS / "flink").glob("*.jar")]
    t_env.get_config().set("pipeline.jars", ";".join(jars))
    return profile_job.build(
        t_env,
        settings,
        source=tables.kafka_source("source", settings),
        sink=tables.kafka_sink("sink", settings),
        update_profile=profile_udf(settings),
        scoring_tables=(
            profile_job.kafka_scoring_tables(settings) if settings.scoring.enabled else None
        ),
        node_ids=NODE_IDS,
    )


def nodes_with_state(plan: CompiledPlan) -> list[dict[str, Any]]:
    """Id and type of each node with an id of its own, and what its state may contain.

    A state of rows restores if the types of their columns are the same, NOT NULL included.
    """
    nodes = {node["id"]: node for node in plan._plan["nodes"]}
    sources = {edge["target"]: edge["source"] for edge in plan._plan["edges"]}
    found = []
    for node_id in sorted(known.id for known in NODE_IDS):
        node = nodes[node_id]
        described = {"id": node_id, "type": node["type"]}
        if "state" in node:
            described["state"] = [state["name"] for state in node["state"]]
        if node["type"].startswith(("stream-exec-over", "stream-exec-global-window")):
            described["aggregates"] = _aggregate_types(node)
            if not _keeps_aggregates_only(node):
                described["input"] = _field_types(nodes[sources[node_id]]["outputType"])
        if node["type"].startswith(_JOINS):
            described["inputs"] = [
                _field_types(nodes[edge["source"]]["outputType"])
                for edge in plan._plan["edges"]
                if edge["target"] == node_id
            ]
        found.append(described)
    return found


def _keeps_aggregates_only(node: dict[str, Any]) -> bool:
    """Whether an OVER counts rows from the first one on, in order of arrival."""
    groups = node.get("overSpec", {}).get("groups", ())
    return any(
        group["isRows"] and group["lowerBound"]["kind"] == "UNBOUNDED_PRECEDING" for group in groups
    )


def _field_types(row_type: Any) -> Any:
    if isinstance(row_type, str):
        return row_type
    return [_type_text(field["fieldType"]) for field in row_type["fields"]]


def _type_text(field_type: Any) -> str:
    if isinstance(field_type, str):
        return field_type
    nullable = "" if field_type.get("nullable", True) else " NOT NULL"
    return f"{field_type['type']} {field_type.get('kind', '')}{nullable}"


def _aggregate_types(part: Any) -> list[str]:
    """Function and type of each aggregate call anywhere in a node."""
    if isinstance(part, list):
        return [text for one in part for text in _aggregate_types(one)]
    if not isinstance(part, dict):
        return []
    if "internalName" in part:
        return [f"{part['internalName']} {_type_text(part['type'])}"]
    return [text for one in part.values() for text in _aggregate_types(one)]


def main() -> None:
    """Writes the nodes with state of the present plan to plan_nodes.json."""
    FILE.write_text(json.dumps(nodes_with_state(kafka_plan()), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
