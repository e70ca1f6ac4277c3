"""What the planner makes of the path: steps once, one Python operator a lane, each state's TTL."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyflink.table import EnvironmentSettings, TableEnvironment

from jobs import profile_job
from jobs.compiled_plan import Override, Plan
from jobs.sql import tables
from liveprofile.config import load
from tests.pipeline import harness, stores
from udfs.profile.udf import profile_operator

pytestmark = pytest.mark.pipeline

PYTHON = "stream-exec-python-calc"


def build(folder: Path, scoring_tables: bool, parallelism: int = 2) -> Plan:
    settings = load(
        job={"parallelism": parallelism},
        state={"dedup_ttl_ms": 7_200_000, "user_ttl_ms": 86_400_000},
        scoring={"rejoin_ttl_ms": 120_000},
    )
    events, labels, sent = (folder / name for name in ("events.json", "labels.json", "sent"))
    return profile_job.build(
        TableEnvironment.create(EnvironmentSettings.in_streaming_mode()),
        settings,
        source=harness.source_table(events, settings),
        sink=tables.file_sink("sink", sent, harness.SINK),
        update_profile=profile_operator(settings, stores.open_shared),
        scoring_tables=harness.scoring_tables(settings, events, labels, sent)
        if scoring_tables
        else None,
    )


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The windows alone."""
    return build(tmp_path_factory.mktemp("plan"), scoring_tables=False)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return build(tmp_path_factory.mktemp("plan"), scoring_tables=True)


def count(plan: Plan, kind: str) -> int:
    return plan.node_types().count(f"stream-exec-{kind}")


def test_one_python_operator_a_lane(plan: Plan, both: Plan) -> None:
    for built, operators in ((plan, 1), (both, 2)):
        assert [kind for kind in built.node_types() if "python" in kind] == [PYTHON] * operators


def test_what_the_sinks_share_is_computed_once(plan: Plan) -> None:
    for kind in ("table-source-scan", "deduplicate", "global-window-aggregate", "correlate"):
        assert count(plan, kind) == 1, kind
    assert count(plan, "over-aggregate") == 2


def test_the_event_lane_shares_nothing_and_computes_once(plan: Plan, both: Plan) -> None:
    more = {
        kind: count(both, kind) - count(plan, kind)
        for kind in ("table-source-scan", "deduplicate", "over-aggregate", "correlate", "sink")
    }
    # Events and labels in; lists of users and of entities, parts together, users together.
    assert more == {
        "table-source-scan": 2, "deduplicate": 0, "over-aggregate": 4, "correlate": 2, "sink": 2,
    }  # fmt: skip


def test_event_ids_are_forgotten_before_users(plan: Plan, both: Plan) -> None:
    assert plan.state_ttl() == both.state_ttl() == {"stream-exec-deduplicate": "7200000 ms"}


def test_only_the_parts_of_events_are_forgotten_early(both: Plan) -> None:
    early = {
        node["description"]: node["configuration"]["table.exec.state.ttl"]
        for node in both._plan["nodes"]
        if "table.exec.state.ttl" in node.get("configuration", {})
    }
    assert list(early.values()) == ["120000 ms"]
    assert "partitionBy=[event_key]" in next(iter(early))


def test_at_one_place_the_events_of_a_user_need_no_exchange(both: Plan, tmp_path: Path) -> None:
    def step_before_the_last_count(plan: Plan) -> str:
        nodes = {node["id"]: node for node in plan._plan["nodes"]}
        before = {edge["target"]: nodes[edge["source"]] for edge in plan._plan["edges"]}
        counts = [node for node in nodes.values() if "OverAggregate" in node["description"]]
        return before[counts[-1]["id"]]["description"]

    one_place = build(tmp_path, scoring_tables=True, parallelism=1)
    assert step_before_the_last_count(both).startswith("Exchange(distribution=[hash[user_id]])")
    assert step_before_the_last_count(one_place).startswith("Calc(select=[user_id, arrival, parts")
    assert count(both, "exchange") - count(one_place, "exchange") == 1


def test_an_override_that_fits_nothing_is_told(plan: Plan) -> None:
    with pytest.raises(ValueError, match="no stream-exec-over-aggregate with 'nobody'"):
        plan._apply(Override("stream-exec-over-aggregate", names="nobody"))
    with pytest.raises(ValueError, match="not an exchange"):
        plan._apply(Override(PYTHON, chained=True))
